"""What training images look like, source by source, and the limit beyond which one is unlike them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from edge.appearance import NAMES, WITHOUT_CELLS
from edge.likeness import Likeness, Normal
from edge.manifest import ImageSource, TrainingImages
from training.errors import AnnotationError

Floats = NDArray[np.float64]

FEWEST_IMAGES = 20
"""Of a source; a distribution of fewer is chance."""
_PARTS = 5
_LEAST_DEVIATION = 0.005
"""A number that hardly varies within a source, as a saturated background, must not make all others unlike."""
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some images are marked.

    Attributes:
        median_ratio: of their distances to the limit.
    """

    images: int
    marked: int
    median_ratio: float

    @classmethod
    def of(cls, ratios: Floats) -> "Share":
        """From the ratios of the images, [n]."""
        return cls(len(ratios), int((ratios > 1).sum()), float(np.median(ratios)))

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return self.marked / self.images


def describe(appearances: Mapping[str, Floats], beyond: float) -> TrainingImages:
    """The distributions of all sources, and the limits.

    A limit is a quantile of the distances of training images from the nearest source, their own being fitted
    on the other four fifths of its images. Every source has the same weight in it, whatever its size.

    Args:
        appearances: float64 [n, 11] of each source, of images with a cell, by name.
        beyond: the part of training images that may lie beyond the limit, 0 to 1.

    Raises:
        AnnotationError: a source has too few images, or there is none.
    """
    if not appearances:
        raise AnnotationError(
            f"No source has {FEWEST_IMAGES} images in which a cell is found; give more training images."
        )
    for name, numbers in appearances.items():
        if len(numbers) < FEWEST_IMAGES:
            raise AnnotationError(
                f"The source {name} has {len(numbers)} images in which a cell is found, {FEWEST_IMAGES} are "
                "needed to tell what they look like; give more, or count it as part of another source."
            )
    sources = tuple(_fit(name, numbers) for name, numbers in appearances.items())
    normals = {one.name: _normal(one) for one in sources}
    own = {name: _held_out(numbers) for name, numbers in appearances.items()}
    limits = []
    for n in (len(NAMES), WITHOUT_CELLS):
        nearest = [
            np.min([own[name][n], *(o.distances(x[:, :n]) for k, o in normals.items() if k != name)], axis=0)
            for name, x in appearances.items()
        ]
        limits.append(round(_balanced_quantile(nearest, 1 - beyond), _DIGITS))
    return TrainingImages(statistics=NAMES, sources=sources, limit=limits[0], limit_without_cells=limits[1])


def marked_of(known: TrainingImages, appearances: Floats) -> Share:
    """How many images are unlike the training images; float64 [n, 11], or [n, 7] without cells."""
    likeness = Likeness(known)
    return Share.of(np.array([likeness.judge(one).ratio for one in appearances]))


def left_out(appearances: Mapping[str, Floats], beyond: float) -> dict[str, Share]:
    """How many images of each source are marked by what was made without it; empty of one source alone."""
    if len(appearances) < 2:
        return {}
    return {
        name: marked_of(describe({k: v for k, v in appearances.items() if k != name}, beyond), numbers)
        for name, numbers in appearances.items()
    }


def _fit(name: str, numbers: Floats) -> ImageSource:
    """Mean and deviation of each number, and their correlation, shrunk as Ledoit and Wolf do it.

    "A well-conditioned estimator for large-dimensional covariance matrices", J Multivar Anal 88, 2004.
    """
    deviation = np.sqrt(numbers.var(axis=0) + _LEAST_DEVIATION**2)
    mean = numbers.mean(axis=0)
    correlation, _ = ledoit_wolf((numbers - mean) / deviation, assume_centered=True)
    return ImageSource(
        name=name,
        images=len(numbers),
        mean=tuple(mean.round(_DIGITS).tolist()),
        deviation=tuple(deviation.round(_DIGITS).tolist()),
        correlation=tuple(tuple(row) for row in correlation.round(_DIGITS).tolist()),
    )


def _normal(source: ImageSource) -> Normal:
    return Normal(np.array(source.mean), np.array(source.deviation), np.array(source.correlation))


def _held_out(numbers: Floats) -> dict[int, Floats]:
    """Distances of a source's images from the others of it, with and without what is known of cells."""
    part = np.random.default_rng(0).permutation(len(numbers)) % _PARTS
    distances = {n: np.empty(len(numbers)) for n in (numbers.shape[1], WITHOUT_CELLS)}
    for number in range(_PARTS):
        of_others = _normal(_fit("", numbers[part != number]))
        for n, found in distances.items():
            found[part == number] = of_others.distances(numbers[part == number, :n])
    return distances


def _balanced_quantile(groups: list[Floats], quantile: float) -> float:
    """The quantile of all values, every group having the same weight."""
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    order = np.argsort(values)
    place = np.searchsorted(np.cumsum(weights[order]) / weights.sum(), quantile)
    return float(values[order][min(int(place), len(values) - 1)])
