"""Promises 6 and 7: a burst that overflows the kernel's queue of events is read to the last file, once."""

import io
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.chaos.books import Answers, compare
from tests.chaos.camera import Camera, with_truth, write_at_once
from tests.chaos.conftest import Report, say
from tests.chaos.daemon import Daemon

pytestmark = pytest.mark.timeout(3600)

_QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
_EVENTS_A_FILE = 3
"""Created, modified, closed."""


def _tiny(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_promise_06_a_burst_that_overflows_the_queue_of_events_is_all_read_once(
    home: Path, tmp_path: Path, start: Callable[..., Daemon], report: Report, is_full: bool
) -> None:
    count = 10_000 if is_full else 6_000
    assert count * _EVENTS_A_FILE > int(_QUEUE.read_text()), f"raise the count: {_QUEUE} is larger"
    originals = with_truth([_tiny(seed) for seed in range(3)], ".png", tmp_path)
    # A rescan would find all of it in time; only that at the overflow may.
    daemon = start(home, rescan_period_s=300, watch="events")
    daemon.wait_ready()
    camera = Camera(home / "inbox", home / "outside", originals, random.Random(5), lambda pause_s: None)
    answers = Answers(home / "out")
    # Folders that are not new: of what lies in a new one no event has to tell.
    first = [camera.drop(f"sample {number}", write_at_once) for number in range(10)]
    daemon.wait_for("the first images", lambda: answers.has(first))

    daemon.signal(signal.SIGSTOP)
    for number in range(count):
        camera.drop(f"sample {number % 10}", write_at_once)
    daemon.signal(signal.SIGCONT)
    say(f"{count} images were dropped into a stopped station")

    def found() -> int:
        """Files that the station knows of: the queue of its status line, and those with an answer."""
        queue = daemon.status.partition("queue ")[2].partition(";")[0]
        return int(queue or 0) + len(answers.look())

    # Between a status line and the rows a few files are counted twice or not at all.
    found_s = daemon.wait_for("all are found", lambda: found() >= 0.99 * count)
    done_s = found_s + daemon.wait_for(
        "all have their answer", lambda: answers.has(camera.dropped), 0.2 * count
    )
    log = daemon.log()
    overflow = [line for line in log.splitlines() if "events" in line.lower() and "WARNING" in line]
    assert daemon.stop() == 0
    figures = compare(home / "out", home / "out" / ".edge", camera.dropped, camera.partial)
    assert overflow, f"the log does not tell of an overflow: {log[:2000]}"
    report(
        f"{count} images dropped at once, with the kernel's queue of events overflowing, are all read once: "
        f"found after {found_s:.0f} s, all in the CSV files after {done_s:.0f} s",
        found_s=found_s,
        done_s=done_s,
        overflow_in_log=overflow,
        **figures,
    )
