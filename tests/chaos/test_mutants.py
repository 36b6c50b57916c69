"""Promise 9: a bad file never stops the station, nor slows it down for the good ones."""

import random
import statistics
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.chaos.books import Answers, Row, compare, rows
from tests.chaos.camera import Camera, Original, write_part_and_rename
from tests.chaos.conftest import Report, say
from tests.chaos.daemon import Daemon
from tests.chaos.mutants import every_format, mutate

pytestmark = pytest.mark.timeout(3600)

_REASONS = {"", "empty", "not an image", "truncated", "damaged", "too large", "unsupported"}
_BATCH = 100
_GOOD_EVERY = 5
_LONGEST_IMAGE_S = 30.0
_TIMES_SLOWER = 1.5


class Strangers:
    """Drops files of every format and coding, whole or damaged, with a good image after every fifth.

    Attributes:
        damaged: what was done to which file, by the sha256 of the result.
        count: how many files, whole and damaged.
    """

    def __init__(self, home: Path, camera: Camera, image: Image.Image, rng: random.Random) -> None:
        self._inbox, self._camera, self._rng = home / "inbox", camera, rng
        self.bases = every_format(image)
        self.damaged: dict[str, str] = {}
        self.count = 0

    def drop_whole(self, count: int) -> None:
        for _ in range(count):
            data = self.bases[self._rng.choice(list(self.bases))]
            self._drop(data + b"%d" % self.count, "among whole files")  # all formats bear bytes at the end

    def drop_damaged(self, count: int) -> None:
        while count:
            kind = self._rng.choice(list(self.bases))
            damage, data = mutate(self.bases[kind], self._rng)
            digest = sha256(data).hexdigest()
            if digest in self.damaged or data == self.bases[kind]:
                continue  # the same bytes again would be a duplicate
            self.damaged[digest] = f"{damage}, {kind}"
            self._drop(data, "among damaged files")
            count -= 1

    def _drop(self, data: bytes, sample: str) -> None:
        self.count += 1
        write_part_and_rename(self._camera, self._inbox / f"stranger-{self.count:05}", data)
        if self.count % _GOOD_EVERY == 0:
            self._camera.drop(sample, write_part_and_rename)


def test_promise_09_mutants_neither_stop_nor_slow_the_station(
    home: Path, originals: list[Original], start: Callable[..., Daemon], report: Report, is_full: bool
) -> None:
    mutants = 5000 if is_full else 400
    rng = random.Random(9)
    daemon = start(home, quiet_period_s=0.1)
    daemon.wait_ready()
    # One original, so that good images differ in nothing but when they come.
    camera = Camera(home / "inbox", home / "outside", originals[:1], rng, lambda pause_s: None)
    strangers = Strangers(home, camera, Image.open(BytesIO(originals[0].data)), rng)
    answers = Answers(home / "out")

    def wait() -> None:
        count = strangers.count + len(camera.dropped)
        daemon.wait_for(f"{count} answers", lambda: len(answers.look()) >= count, _LONGEST_IMAGE_S * 10)

    strangers.drop_whole(_BATCH)
    wait()
    before_kb = daemon.memory_kb()
    while len(strangers.damaged) < mutants:  # in turns: what else the machine does is shared by both
        strangers.drop_damaged(_BATCH)
        wait()
        strangers.drop_whole(_BATCH)
        wait()
        for _ in range(_BATCH // _GOOD_EVERY // 4):
            camera.drop("alone", write_part_and_rename)
            wait()
        if len(strangers.damaged) % 500 == 0:
            say(f"{len(strangers.damaged)} mutants, peak of RSS {daemon.memory_kb()['peak'] // 1024} MiB")
    after_kb = daemon.memory_kb()
    log = daemon.log()
    assert daemon.stop() == 0

    images = rows(home / "out", "images")
    answered = [row for row in images if row["image_sha256"] in strangers.damaged]
    assert len(answered) == mutants
    wrong = [
        (strangers.damaged[row["image_sha256"]], row["NAME"], row["status"], row["reason"])
        for row in answered
        if row["status"] not in ("done", "empty", "rejected") or row["reason"] not in _REASONS
    ]
    assert wrong == [], "mutants without one of the known reasons"
    cut = [row for row in answered if strangers.damaged[row["image_sha256"]].startswith("cut,")]
    assert {row["status"] for row in cut} == {"rejected"}, "a cut file was taken for whole"
    compared = compare(home / "out", home / "out" / ".edge", camera.dropped, ignored="stranger-")
    slowest = sorted(answered, key=lambda row: -float(row["latency_ms"]))[:5]
    assert float(slowest[0]["latency_ms"]) < _LONGEST_IMAGE_S * 1000, slowest[0]
    samples = ("alone", "among whole files", "among damaged files")
    alone_ms, whole_ms, damaged_ms = (_latencies(images, sample) for sample in samples)
    # Alone, an engine has rested; among whole files the machine is busy. Among mutants both are so in turns.
    ratio = damaged_ms["p50"] / max(alone_ms["p50"], whole_ms["p50"])
    assert ratio < _TIMES_SLOWER, f"a good image takes {damaged_ms} among mutants, {alone_ms}, {whole_ms}"
    report(
        f"{mutants} damaged files of {len(strangers.bases)} formats and codings: each has its row and reason,"
        f" none stopped the station. Median of a good image among them {damaged_ms['p50']:.1f} ms, alone "
        f"{alone_ms['p50']:.1f} ms, among whole files {whole_ms['p50']:.1f} ms; the slowest damaged file "
        f"{float(slowest[0]['latency_ms']):.0f} ms; peak of RSS {before_kb['peak'] // 1024} MiB before, "
        f"{after_kb['peak'] // 1024} MiB after",
        answers=Counter(f"{row['status']} {row['reason']}".strip() for row in answered),
        good_alone_ms=alone_ms,
        good_among_whole_ms=whole_ms,
        good_among_damaged_ms=damaged_ms,
        slowest_mutants=[
            (strangers.damaged[row["image_sha256"]], row["reason"], row["latency_ms"]) for row in slowest
        ],
        memory_before_kb=before_kb,
        memory_after_kb=after_kb,
        tracebacks_in_log=log.count("Traceback"),
        **compared,
    )


def _latencies(images: list[Row], sample: str) -> dict[str, float]:
    """Milliseconds of the images of a sample, without the first three, which warm everything up."""
    times = [float(row["latency_ms"]) for row in images if row["sample"] == sample][3:]
    assert len(times) >= 10
    hundredths = statistics.quantiles(times, n=100)
    return {"p50": statistics.median(times), "p99": hundredths[98], "max": max(times)}
