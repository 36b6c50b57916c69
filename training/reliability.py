"""Whether a probability means what it says: calibration, and accuracy against coverage."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from edge.pipeline import tempered
from training.bootstrap import Interval, wilson_interval
from training.metric import CALIBRATION_BINS

TEMPERATURES = (0.05, 20.0)
"""Where a temperature is looked for."""

_FOLDS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The cells whose most probable class has a probability above `low` and up to `high`."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """What is kept of the cells when those below a threshold are set apart.

    Attributes:
        coverage: share of the cells that is kept.
        accuracy: of the kept ones.
    """

    threshold: float
    n_kept: int
    coverage: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The threshold that keeps most cells of those that reach an accuracy.

    Attributes:
        target: the accuracy that was asked for.
        interval: Wilson's 95 % interval of the kept cells' accuracy. The threshold was chosen on these
            cells, so that other cells will reach a little less.
    """

    target: float
    threshold: float
    n_kept: int
    coverage: float
    accuracy: float
    interval: Interval | None


def negative_log_likelihood(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Mean of -log of the true class's probability, natural logarithm.

    Args:
        probabilities: float [n, C].
        truth: int [n], column of the true class.
    """
    table, column = np.asarray(probabilities, np.float64), np.asarray(truth)
    of_truth = table[np.arange(len(column)), column]
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean())


def fit_temperature(probabilities: NDArray[np.float32], truth: ArrayLike) -> float:
    """The temperature of `edge.pipeline.tempered` with the least negative log likelihood.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2 (arXiv:1706.04599). The
    optimum lies at the end of `TEMPERATURES` where no cell is wrong: more certain is then always better.

    Args:
        probabilities: float32 [n, C], of temperature 1.
        truth: int [n], column of the true class.
    """
    found = optimize.minimize_scalar(
        lambda log: negative_log_likelihood(tempered(probabilities, float(np.exp(log))), truth),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def cross_fitted(
    probabilities: NDArray[np.float32], truth: ArrayLike, groups: Sequence[str]
) -> NDArray[np.float32]:
    """Each cell's probabilities at a temperature fitted on four fifths of the images, without its own.

    Float32 [n, C].

    Args:
        groups: n names of images, whose cells stay together.
    """
    column, names = np.asarray(truth), list(dict.fromkeys(groups))
    fold_of = {name: place % _FOLDS for place, name in enumerate(np.random.default_rng(0).permutation(names))}
    fold = np.array([fold_of[name] for name in groups])
    answer = probabilities.copy()
    for own in (fold == number for number in range(_FOLDS)):
        if own.any() and not own.all():
            answer[own] = tempered(probabilities[own], fit_temperature(probabilities[~own], column[~own]))
    return answer


def reliability_bins(confidences: ArrayLike, correct: ArrayLike) -> tuple[ReliabilityBin, ...]:
    """The bins of `training.metric.calibration_error` that hold cells.

    Args:
        confidences: float [n], probability of the predicted class.
        correct: bool [n], whether that class is the true one.
    """
    confidence, is_correct = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    n_bins = CALIBRATION_BINS
    place = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    return tuple(
        ReliabilityBin(
            number / n_bins,
            (number + 1) / n_bins,
            int(own.sum()),
            float(confidence[own].mean()),
            float(is_correct[own].mean()),
        )
        for number in range(n_bins)
        if (own := place == number).any()
    )


def coverage_curve(
    confidences: ArrayLike, correct: ArrayLike, thresholds: Sequence[float]
) -> tuple[CoveragePoint, ...]:
    """Accuracy of the cells that are kept, against how many are, at each threshold that keeps any.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 11 (2010).

    Args:
        confidences: float [n], probability of the predicted class.
        correct: bool [n], whether that class is the true one.
        thresholds: a cell is kept from this probability on.
    """
    confidence, is_correct = np.asarray(confidences, np.float64), np.asarray(correct, bool)
    return tuple(
        CoveragePoint(float(threshold), int(kept.sum()), float(kept.mean()), float(is_correct[kept].mean()))
        for threshold in thresholds
        if (kept := confidence >= threshold).any()
    )


def recommend(confidences: ArrayLike, correct: ArrayLike, target: float) -> Recommendation | None:
    """The least threshold at which the kept cells reach the target accuracy; None where none does.

    Args:
        confidences: float [n], probability of the predicted class.
        correct: bool [n], whether that class is the true one.
        target: accuracy wanted of the kept cells, 0 to 1.
    """
    # Four decimals are what a table of results shows; rounded down, the cell itself is kept.
    confidence = np.floor(np.asarray(confidences, np.float64) * 1e4) / 1e4
    thresholds = [0.0, *np.unique(confidence).tolist()]
    for point in coverage_curve(confidence, correct, thresholds):
        if point.accuracy >= target:
            n_right = round(point.accuracy * point.n_kept)
            return Recommendation(
                target,
                point.threshold,
                point.n_kept,
                point.coverage,
                point.accuracy,
                wilson_interval(n_right, point.n_kept),
            )
    return None
