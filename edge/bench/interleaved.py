"""Timing the ways side by side, image by image, so that whatever slows the machine slows them all."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from edge.bench.ways import Answer, Way
from edge.cells import Finding
from edge.progress import counted

SETTLE_S = 0.02
"""Between two ways: the threads of OpenMP and of ONNX Runtime spin for some milliseconds after their work."""


@dataclass(frozen=True, slots=True)
class Runs:
    """One way on a set of images, in their order.

    Attributes:
        ms: milliseconds of each image.
        answers: what it said of each.
    """

    ms: tuple[float, ...]
    answers: tuple[Answer, ...]

    @property
    def findings(self) -> list[tuple[Finding, ...]]:
        """Of each image."""
        return [answer.findings for answer in self.answers]

    @property
    def stage_ms(self) -> dict[str, tuple[float, ...]]:
        """Milliseconds of each image by stage, in the order of the work; 0 where it did not come to one."""
        longest_first = sorted(self.answers, key=lambda answer: -len(answer.stage_ms))
        stages = dict.fromkeys(stage for answer in longest_first for stage in answer.stage_ms)
        return {s: tuple(answer.stage_ms.get(s, 0.0) for answer in self.answers) for s in stages}

    def mean_stage_ms(self) -> dict[str, float]:
        """Mean milliseconds of each stage."""
        return {stage: float(np.mean(times)) for stage, times in self.stage_ms.items()}


def timed_ms(way: Way, prepared: object) -> tuple[float, Answer]:
    """Milliseconds of one image that the way has prepared, and what was said of it."""
    started_ns = time.perf_counter_ns()
    answer = way.answer(prepared)
    return (time.perf_counter_ns() - started_ns) / 1e6, answer


def run_interleaved(
    ways: Sequence[Way], images: Sequence[Path], what: str, settle_s: float = SETTLE_S
) -> dict[str, Runs]:
    """Every way on the first image, then every way on the second, and so on, in an order that rotates.

    Each of several ways reads an image twice and the second time counts, so that what ran before it and the
    first sight of a shape weigh on none. One alone reads one image after the other.

    Args:
        what: the images, in a word, for the progress.
        settle_s: pause before each of several ways.

    Returns:
        The runs by the ways' names.
    """
    ms: dict[str, list[float]] = {way.name: [] for way in ways}
    answers: dict[str, list[Answer]] = {way.name: [] for way in ways}
    for number, image in enumerate(counted(images, what, Console(stderr=True))):
        for place in range(len(ways)):
            way = ways[(place + number) % len(ways)]
            if len(ways) == 1:
                image_ms, answer = timed_ms(way, way.prepare(image))
            else:
                first, second = way.prepare(image), way.prepare(image)
                time.sleep(settle_s)
                way.answer(first)
                image_ms, answer = timed_ms(way, second)
            ms[way.name].append(image_ms)
            answers[way.name].append(answer)
    return {name: Runs(tuple(ms[name]), tuple(answers[name])) for name in ms}


def run_in_turn(runs: dict[str, Callable[[], float]], rounds: int, what: str) -> dict[str, tuple[float, ...]]:
    """Call each once a round, in an order that rotates, after a round that does not count."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in counted(range(-1, rounds), what, Console(stderr=True)):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            time.sleep(SETTLE_S)
            figure = runs[name]()
            if number >= 0:
                figures[name].append(figure)
    return {name: tuple(values) for name, values in figures.items()}
