"""Timing the ways side by side, image by image, so that whatever slows the machine slows them all."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.ways import Answer, Way
from edge.cells import Finding

log = logging.getLogger(__name__)

T = TypeVar("T")

SETTLE_S = 0.02
"""Between two ways: the threads of OpenMP and of ONNX Runtime spin for some milliseconds after their work."""

_RESAMPLES = 2000
_LINE_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Runs:
    """One way on a set of images, in their order.

    Attributes:
        ms: milliseconds of each image.
        answers: what it said of each.
    """

    way: str
    ms: tuple[float, ...]
    answers: tuple[Answer, ...]

    @property
    def findings(self) -> list[tuple[Finding, ...]]:
        """Of each image."""
        return [answer.findings for answer in self.answers]

    def mean_stage_ms(self) -> dict[str, float]:
        """Mean milliseconds of each stage."""
        stages = dict.fromkeys(stage for answer in self.answers for stage in answer.stage_ms)
        return {s: float(np.mean([a.stage_ms.get(s, 0.0) for a in self.answers])) for s in stages}


def run_interleaved(
    ways: Sequence[Way], images: Sequence[Path], what: str, settle_s: float = SETTLE_S
) -> dict[str, Runs]:
    """Every way on the first image, then every way on the second, and so on, in an order that rotates.

    Each way reads an image twice and the second time counts, so that what ran before it and the first sight
    of a shape weigh on none.

    Args:
        what: the images, in a word, for the progress.
        settle_s: pause before each way.

    Returns:
        The runs by the ways' names.
    """
    ms: dict[str, list[float]] = {way.name: [] for way in ways}
    answers: dict[str, list[Answer]] = {way.name: [] for way in ways}
    for number, image in enumerate(shown(images, what)):
        for place in range(len(ways)):
            way = ways[(place + number) % len(ways)]
            first, second = way.prepare(image), way.prepare(image)
            time.sleep(settle_s)
            way.answer(first)
            started_ns = time.perf_counter_ns()
            answer = way.answer(second)
            ms[way.name].append((time.perf_counter_ns() - started_ns) / 1e6)
            answers[way.name].append(answer)
    return {name: Runs(name, tuple(ms[name]), tuple(answers[name])) for name in ms}


def run_in_turn(runs: dict[str, Callable[[], float]], rounds: int, what: str) -> dict[str, tuple[float, ...]]:
    """Call each once a round, in an order that rotates, after a round that does not count."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in shown(range(-1, rounds), what):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            time.sleep(SETTLE_S)
            figure = runs[name]()
            if number >= 0:
                figures[name].append(figure)
    return {name: tuple(values) for name, values in figures.items()}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Median of the ratios of pairs, with an interval by bootstrap over the pairs (percentile method).

    Args:
        numerators, denominators: of the same images (or rounds), in the same order.
    """
    return median(np.divide(numerators, denominators))


def median(values: Sequence[float] | np.ndarray) -> Estimate:
    """Median with an interval by bootstrap over the values (percentile method)."""
    sample = np.asarray(values, float)
    rng = np.random.default_rng(0)
    medians = np.median(sample[rng.integers(len(sample), size=(_RESAMPLES, len(sample)))], axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Estimate(float(np.median(sample)), float(low), float(high))


def shown(steps: Sequence[T], what: str) -> Iterator[T]:
    """The steps, with a bar on a terminal, and a line now and then where there is none."""
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(steps, what, console=console)
        return
    last_line_s = time.monotonic()
    for number, step in enumerate(steps):
        yield step
        if time.monotonic() - last_line_s > _LINE_EVERY_S or number + 1 == len(steps):
            last_line_s = time.monotonic()
            log.info("%s: %d of %d", what, number + 1, len(steps))
