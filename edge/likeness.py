"""How unlike an image is to all that its bundle was trained on, and in what.

Each source of training images (a hospital, a camera, a stain) is a normal distribution of the numbers of
`edge.appearance`, and the distance of an image is Mahalanobis' to the nearest of them, divided by the root of
how many numbers there are (Lee et al., "A simple unified framework for detecting out-of-distribution samples
and adversarial attacks", NeurIPS 2018, with sources in place of classes and appearance in place of features).
One distribution of all sources would lie between them and call everything near. The limit was chosen so that
few training images lie beyond it (`python -m training.likeness`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge.appearance import STATISTICS, WITHOUT_CELLS, Floats, appearance_of
from edge.cells import Finding, Unlikeness

if TYPE_CHECKING:
    from edge.manifest import TrainingImages

_TELLING = 2.0
"""Standard deviations from a source's mean from which a number is told; always the greatest."""
_MOST_TOLD = 2


class Normal:
    """A normal distribution of appearances.

    Args:
        mean, deviation: float64 [n].
        correlation: float64 [n, n], positive definite.
    """

    def __init__(self, mean: Floats, deviation: Floats, correlation: Floats) -> None:
        self._mean, self._deviation = mean, deviation
        # Without cells the last numbers are not known, and the distribution is that of the others.
        self._precisions = {n: np.linalg.inv(correlation[:n, :n]) for n in {len(mean), WITHOUT_CELLS}}

    def deviations(self, appearances: Floats) -> Floats:
        """How far from the mean, in standard deviations, float64 [..., n] of [..., n]."""
        n = appearances.shape[-1]
        deviations: Floats = (appearances - self._mean[:n]) / self._deviation[:n]
        return deviations

    def distances(self, appearances: Floats) -> Floats:
        """Mahalanobis' distance divided by sqrt(n), float64 [...] of [..., n]; about 1 of its own."""
        z = self.deviations(appearances)
        n = z.shape[-1]
        squares = ((z @ self._precisions[n]) * z).sum(axis=-1) / n
        distances: Floats = np.sqrt(squares)
        return distances


class Likeness:
    """The comparison with the training images of a bundle. Any thread may use it."""

    def __init__(self, known: "TrainingImages") -> None:
        self._sources = [
            Normal(np.array(one.mean), np.array(one.deviation), np.array(one.correlation))
            for one in known.sources
        ]
        self._limits = {len(STATISTICS): known.limit, WITHOUT_CELLS: known.limit_without_cells}

    def compare(self, rgb: NDArray[np.uint8], findings: Sequence[Finding]) -> Unlikeness | None:
        """Hold one image against the training images.

        Args:
            rgb: uint8 [H, W, 3].
            findings: what was found in it.

        Returns:
            None of an image too small to tell.
        """
        appearance = appearance_of(rgb, findings)
        return None if appearance is None else self.judge(appearance)

    def judge(self, appearance: Floats) -> Unlikeness:
        """As `compare`, of the numbers of an image; float64 [11], or [7] without cells."""
        least = min(float(source.distances(appearance)) for source in self._sources)
        ratio = least / self._limits[len(appearance)]
        if ratio <= 1:
            return Unlikeness(ratio)
        # In words it is held against the source that most of its numbers agree with: when a lamp gets dim,
        # the nearest may be the darker images of another camera, from which the cells differ, too.
        deviations = (source.deviations(appearance) for source in self._sources)
        return Unlikeness(ratio, _in_words(min(deviations, key=lambda z: float(np.median(np.abs(z))))))


def _in_words(deviations: Floats) -> str:
    """What differs most, e.g. "background darker, blurred"."""
    order = np.argsort(-np.abs(deviations))[:_MOST_TOLD]
    told = [place for place in order if abs(deviations[place]) >= _TELLING] or [order[0]]
    return ", ".join(
        STATISTICS[place].more if deviations[place] > 0 else STATISTICS[place].less for place in told
    )
