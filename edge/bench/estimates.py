"""Figures of a sample with their 95 % confidence intervals, by bootstrap (percentile method).

The values of a sample are taken as if each came by itself. What stays the same through a whole run and
differs in the next (a busy neighbour, a hot processor) is in no interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 99)

_RESAMPLES = 2000
_TAILS = (2.5, 97.5)
_MOST_VALUES = 4_000_000
"""Of resamples held in memory at once, 8 bytes each."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds of one stage over all timed images.

    Attributes:
        percentiles_ms: by name, "p50" and so on.
        intervals_ms: ends of their 95 % confidence intervals.
    """

    stage: str
    mean_ms: float
    percentiles_ms: dict[str, float]
    intervals_ms: dict[str, tuple[float, float]]
    max_ms: float

    @classmethod
    def of(cls, stage: str, times_ms: Sequence[float]) -> "StageTimes":
        """From the times of the single images."""
        found = percentiles(times_ms)
        return cls(
            stage,
            float(np.mean(times_ms)),
            {f"p{p}": one.value for p, one in found.items()},
            {f"p{p}": (one.low, one.high) for p, one in found.items()},
            float(np.max(times_ms)),
        )


def percentiles(
    values: Sequence[float] | Floats, wanted: Sequence[int] = PERCENTILES
) -> Mapping[int, Estimate]:
    """Percentiles of a sample by their number."""
    sample = np.asarray(values, float)
    of_resamples = np.concatenate(
        [np.percentile(part, wanted, axis=1) for part in _resamples(sample, 0)], axis=1
    )
    ends = np.percentile(of_resamples, _TAILS, axis=1).T
    return {
        p: Estimate(float(value), float(low), float(high))
        for p, value, (low, high) in zip(wanted, np.percentile(sample, wanted), ends, strict=True)
    }


def has_upper_end(percentile: int, count: int) -> bool:
    """Whether so many values tell how high a percentile may be: else all of them may well lie below it.

    36 tell it of the p90 and 368 of the p99; of fewer the upper end is their largest value, and no end.
    """
    return (percentile / 100) ** count <= _TAILS[0] / 100


def median(values: Sequence[float] | Floats) -> Estimate:
    """Median of a sample."""
    return percentiles(values, (50,))[50]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Median of the ratios of pairs.

    Args:
        numerators, denominators: of the same images (or rounds), in the same order.
    """
    return median(np.divide(numerators, denominators))


def ratio_of_medians(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """The median of one sample by that of another which was taken at another time; all above 0."""
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    ratios = _medians(above, 0) / _medians(below, 1)
    low, high = np.percentile(ratios, _TAILS)
    return Estimate(float(np.median(above) / np.median(below)), float(low), float(high))


def _medians(sample: Floats, seed: int) -> Floats:
    medians: Floats = np.concatenate([np.median(part, axis=1) for part in _resamples(sample, seed)])
    return medians


def _resamples(sample: Floats, seed: int) -> Iterator[Floats]:
    """Samples drawn anew with replacement, float64 [b, n] each, `_RESAMPLES` in all."""
    rng = np.random.default_rng(seed)
    batch = max(1, min(_RESAMPLES, _MOST_VALUES // len(sample)))
    for start in range(0, _RESAMPLES, batch):
        yield sample[rng.integers(len(sample), size=(min(batch, _RESAMPLES - start), len(sample)))]
