"""Promise 31: the memory after 10,000 images is that after 100, and at most a twentieth more."""

import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.books import Answers, compare
from tests.chaos.camera import Camera, Original, write_part_and_rename
from tests.chaos.conftest import Report, say
from tests.chaos.daemon import Daemon

pytestmark = pytest.mark.timeout(3 * 3600)

_GROWTH = 1.05
_FIRST = 100
_AT_ONCE = {"events": 10, "polling": 50}
"""Images that wait at most; a polled folder is scanned once a second or less."""


@pytest.mark.parametrize("watch", _AT_ONCE)
def test_promise_31_the_memory_does_not_grow(
    watch: str,
    home: Path,
    originals: list[Original],
    start: Callable[..., Daemon],
    report: Report,
    is_full: bool,
) -> None:
    images = 10_000 if is_full else 1_000
    daemon = start(home, watch=watch, quiet_period_s=0.05)
    daemon.wait_ready()
    camera = Camera(home / "inbox", home / "outside", originals, random.Random(31), lambda pause_s: None)
    answers = Answers(home / "out")
    samples: list[tuple[int, dict[str, int]]] = []
    while len(camera.dropped) < images:
        for _ in range(_AT_ONCE[watch]):
            camera.drop(f"sample {len(camera.dropped) // 200}", write_part_and_rename)
        count = len(camera.dropped)
        daemon.wait_for(f"{count} answers", lambda count=count: len(answers.look()) >= count)
        samples.append((count, daemon.memory_kb()))
        if count % (images // 10) == 0:
            say(f"{watch}, {count} images: {samples[-1][1]}")
    assert daemon.stop() == 0
    figures = compare(home / "out", home / "out" / ".edge", camera.dropped)
    first, last = _around(samples, _FIRST), _around(samples, images)
    rss, anon = (last[what] / first[what] for what in ("rss", "anon"))
    curve = {
        count: memory_kb for count, memory_kb in samples if count in (_FIRST,) or count % (images // 10) == 0
    }
    assert rss < _GROWTH, (
        f"RSS grew by {rss - 1:.1%}, allocated memory by {anon - 1:.1%}: {first}, {last}, {curve}"
    )
    report(
        f"Memory under {watch}: RSS {first['rss'] // 1024} MiB after {_FIRST} images, "
        f"{last['rss'] // 1024} MiB after {images} ({rss - 1:+.1%}, of allocated memory {anon - 1:+.1%})",
        first_kb=first,
        last_kb=last,
        curve_kb=curve,
        **figures,
    )


def _around(samples: list[tuple[int, dict[str, int]]], count: int) -> dict[str, int]:
    """Medians of the samples within fifty images of a count: malloc gives megabytes back and takes them."""
    near = [memory_kb for at, memory_kb in samples if abs(at - count) <= _FIRST // 2]
    return {what: round(statistics.median(memory_kb[what] for memory_kb in near)) for what in near[0]}
