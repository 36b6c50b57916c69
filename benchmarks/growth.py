"""What the station itself costs an image while its journal grows, beside a station whose journal is empty.

The pipeline is a double that answers at once, and images are tiny: what is left is the station's own work.
"""

import contextlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from edge.desk import Desk
from edge.outputs import open_desk
from edge.tasks import Arrival, ImageResult
from tests.chaos.tiny import OneCell, tiny_image

log = logging.getLogger(__name__)

STRETCH = 10_000
POINTS = (0, 1_000, 10_000, 100_000, 300_000, 1_000_000)
_CHUNK = 400
_LONE, _ROUNDS, _ROUND = 200, 9, 80
"""Of a point: images alone; rounds of images that wait, after one that does not count: 1,000 images."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Images that came in batches.

    Attributes:
        entries: of the journal before them.
        ms: of one image, from the first file's opening to the last row, divided by their number.
        stage_ms: mean laps of one image. It waits for others in its batch, so their sum is more than `ms`.
    """

    entries: int
    images: int
    ms: float
    stage_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two stations at a point.

    Attributes:
        lone_ms: milliseconds of each image that came alone.
        lone_stage_ms: the laps of each of them.
        waiting_ms: milliseconds of one image, in each round of images that waited for each other.
    """

    lone_ms: tuple[float, ...]
    lone_stage_ms: tuple[dict[str, float], ...]
    waiting_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """The grown station and one that has just begun, image by image and round by round in turn."""

    entries: int
    grown: Side
    begun: Side


@dataclass(frozen=True, slots=True)
class Growth:
    """All that was measured while a journal grew to `entries`."""

    entries: int
    stretches: tuple[Stretch, ...]
    points: tuple[Point, ...]
    journal_bytes: int


def grow(home: Path, count: int, lanes: int, keep: int) -> Growth:
    """Fill a station in `home`, whose `inbox` is given images that vanish again when they have their answer.

    Args:
        count: how many entries the journal has at the last point; a multiple of `STRETCH` is best.
        lanes: of the double.
        keep: how many of the last images stay in the inbox.
    """
    points = [entries for entries in POINTS if entries < count]
    stretches, measured = [], []
    with open_desk(OneCell(lanes), home / "out") as (desk, journal):
        grown = _Source(desk, home / "inbox")
        console = Console(stderr=True)
        ends = sorted({*range(STRETCH, count, STRETCH), *points[1:], count})
        for end in track(ends, "growing", console=console, disable=not console.is_terminal):
            if grown.count in points:
                measured.append(_measure_point(grown, home.with_name("begun"), lanes))
            if grown.count < end:
                stretches.append(grown.stretch(end - grown.count, max(count - keep - grown.count, 0)))
            if end % 50_000 == 0 and not console.is_terminal:
                log.info("%d entries: %.3f ms an image", end, stretches[-1].ms)
        measured.append(_measure_point(grown, home.with_name("begun"), lanes))
        journal_bytes = journal.path.stat().st_size
    return Growth(grown.count, tuple(stretches), tuple(measured), journal_bytes)


class _Source:
    """A desk and the new files that are given to it."""

    def __init__(self, desk: Desk, inbox: Path) -> None:
        self._desk = desk
        self._inbox = inbox
        self._tiny = tiny_image()
        self.count = 0

    def stretch(self, images: int, vanishing: int) -> Stretch:
        """Answer new images in batches; those after so many stay in the inbox."""
        entries, seconds, stage_ms = self.count, 0.0, Counter[str]()
        for _ in range(0, images, _CHUNK):
            paths = self._new(min(_CHUNK, entries + images - self.count))
            elapsed_s, results = self._answer(paths)
            seconds += elapsed_s
            for result in results:
                stage_ms.update(result.stage_ms)
            _remove(paths[: max(entries + vanishing - (self.count - len(paths)), 0)])
        means = {stage: total / images for stage, total in stage_ms.items()}
        return Stretch(entries, images, 1000 * seconds / images, means)

    def lone(self) -> tuple[float, dict[str, float]]:
        """Milliseconds of one image alone, and its laps."""
        (path,) = self._new(1)
        began_s = time.perf_counter()
        result = self._desk.process(path)
        elapsed_s = time.perf_counter() - began_s
        path.unlink()
        return 1000 * elapsed_s, result.stage_ms

    def waiting_ms(self) -> float:
        """Milliseconds of one image of a round that waits."""
        paths = self._new(_ROUND)
        elapsed_s, _ = self._answer(paths)
        _remove(paths)
        return 1000 * elapsed_s / len(paths)

    def _answer(self, paths: Sequence[Path]) -> tuple[float, list[ImageResult]]:
        began_s = time.perf_counter()
        results = list(self._desk.process_all(map(Arrival, paths)))
        elapsed_s = time.perf_counter() - began_s
        assert all(result.is_new and result.findings for result in results)
        return elapsed_s, results

    def _new(self, count: int) -> list[Path]:
        paths = [self._inbox / f"{number:07}.png" for number in range(self.count, self.count + count)]
        for number, path in enumerate(paths, self.count):
            path.write_bytes(self._tiny.copy(number))
        self.count += count
        return paths


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink()


def _measure_point(grown: _Source, scratch: Path, lanes: int) -> Point:
    entries = grown.count
    with _begun(scratch, lanes) as begun:
        both = [grown, begun]
        for source in both:
            source.waiting_ms()  # threads begin, and memory is warm
        lone = [[source.lone() for source in _in_turn(both, n)] for n in range(_LONE)]
        waiting = [[source.waiting_ms() for source in _in_turn(both, n)] for n in range(_ROUNDS)]
    sides = []
    for place in (0, 1):
        alone = [pair[place ^ n % 2] for n, pair in enumerate(lone)]
        rounds = [pair[place ^ n % 2] for n, pair in enumerate(waiting)]
        sides.append(Side(tuple(ms for ms, _ in alone), tuple(stages for _, stages in alone), tuple(rounds)))
    return Point(entries, *sides)


def _in_turn(both: list[_Source], number: int) -> list[_Source]:
    return both[::-1] if number % 2 else both


@contextlib.contextmanager
def _begun(scratch: Path, lanes: int) -> Iterator[_Source]:
    """A station with an empty journal, on the same disk."""
    (scratch / "inbox").mkdir(parents=True)
    with open_desk(OneCell(lanes), scratch / "out") as (desk, _):
        yield _Source(desk, scratch / "inbox")
    shutil.rmtree(scratch)
