"""Doubles of the pipeline: the grey of an image says what they find in it, and no network is asked."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.cells import Finding, Unlikeness
from edge.errors import BackendError
from edge.stopwatch import Stopwatch


def neutrophil(x: float = 0) -> Finding:
    return Finding((x, 0, x + 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})


def without_runner_up(x: float) -> Finding:
    return Finding((x, 0, x + 4, 4), "PNN", 0.9, 1.0, {"PNN": 1.0})


class OneCell:
    """Finds one neutrophil in every image that is not black.

    Attributes:
        error: raised in place of an answer.
        images: how many it was given.
    """

    bundle_id = "demo-1a2b3c4d5e6f"
    engine_id = "double:fp32"
    crowd = None
    likeness: Any = None

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.images = 0

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        self.images += 1
        if self.error is not None:
            raise self.error
        if watch is not None:
            watch.lap("detect")
        return self.cells(rgb)

    def cells(self, rgb: NDArray[np.uint8]) -> list[Finding]:
        return [neutrophil()] if rgb.any() else []


class AsManyAsBright(OneCell):
    """As many leukocytes as the first pixel is bright, the third of one class; at 255 the engine fails."""

    class likeness:  # noqa: N801, a double, too
        @staticmethod
        def compare(rgb: NDArray[np.uint8], findings: list[Finding]) -> Unlikeness:
            return Unlikeness(1.25, "blurred, nuclei paler") if findings else Unlikeness(0.5)

    def cells(self, rgb: NDArray[np.uint8]) -> list[Finding]:
        if rgb[0, 0, 0] == 255:
            raise BackendError("x")
        return [without_runner_up(x) if x == 2 else neutrophil(x) for x in range(rgb[0, 0, 0])]
