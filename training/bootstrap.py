"""How far a figure could have come out otherwise with other images: bootstrap intervals and paired tests.

Images are drawn anew, with replacement, within each source: the share of each source is what the maker of
the files chose, not chance. So an interval speaks of other images of these sources, not of another source.
It is the percentile interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13):
docs/decisions/intervals.md tells why, and how often it holds.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.tally import MACRO_F1, PROPORTIONS, Floats, Tally

N_RESAMPLES = 2000
MACRO_F1_COVERED = "macro_f1_covered"
_MOST_WEIGHTS = 8_000_000
"""Of samples times images held in memory at once, 8 bytes each."""

_Name = TypeVar("_Name", bound=Hashable)
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure's confidence interval, ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """Confidence intervals of an evaluation; None where a figure is undefined or no sample differs.

    Attributes:
        confidence: 0 to 1.
        measures: by the names of `training.tally.MEASURES`, and "macro_f1_covered".
        classes: of F1, by class code.
        sources: of the measures by source; macro F1 over the classes that the source has.
    """

    confidence: float
    n_resamples: int
    measures: dict[str, Interval | None]
    classes: dict[str, Interval | None]
    sources: dict[str, dict[str, Interval | None]]


def samples_of(
    sources: Sequence[str],
    figures: Callable[[Floats], Mapping[_Name, Floats]],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> dict[_Name, Floats]:
    """Figures of samples of the images, float64 [n_resamples] each; sources keep their sizes.

    Args:
        sources: of the n images.
        figures: from float64 [b, n], how many times each image is in each of some samples.
    """
    generator = np.random.default_rng(seed)
    batch = max(1, _MOST_WEIGHTS // max(len(sources), 1))
    answers = [
        figures(_draw(sources, min(batch, n_resamples - start), generator))
        for start in range(0, n_resamples, batch)
    ]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _draw(sources: Sequence[str], n_samples: int, generator: np.random.Generator) -> Floats:
    weights = np.empty((n_samples, len(sources)))
    for source in dict.fromkeys(sources):
        own = np.flatnonzero([one == source for one in sources])
        weights[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=n_samples)
    return weights


def percentile_interval(samples: Floats, confidence: float = CONFIDENCE) -> Interval | None:
    """From the figure in each sample, float64 [b]; samples in which it is undefined are left out.

    None where all samples agree: a figure without variation tells nothing of its uncertainty.
    """
    defined = samples[~np.isnan(samples)]
    if defined.size == 0 or np.ptp(defined) < 1e-12:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high))


def wilson_interval(n_right: int, n: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Of a proportion: Wilson, JASA 22 (1927), 209-212."""
    if n == 0:
        return None
    found = stats.binomtest(n_right, n).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def intervals(tally: Tally, covered: Sequence[str], n_resamples: int = N_RESAMPLES) -> Intervals:
    """Of all figures, of `CONFIDENCE`.

    A recall, precision or accuracy of which no sample differs, 1.000 most often, gets Wilson's interval, as
    if each cell were by itself.

    Args:
        covered: class codes of `macro_f1_covered`.
    """
    of_source = {
        source: np.array([one == source for one in tally.sources]) for source in sorted(set(tally.sources))
    }
    part_of = {source: tally.only(own) for source, own in of_source.items()}

    def figures(weights: Floats) -> dict[tuple[str, str], Floats]:
        answer = {("all", name): one for name, one in tally.measures(weights).items()}
        answer["all", MACRO_F1_COVERED] = tally.macro_f1_over(weights, covered)
        for label, one in zip(tally.labels, tally.class_f1(weights), strict=True):
            answer["class", label] = one
        for source, own in of_source.items():
            part, drawn = part_of[source], weights[:, own]
            measures = {**part.measures(drawn), MACRO_F1: part.macro_f1_over(drawn, part.labels)}
            answer |= {(f"source {source}", name): one for name, one in measures.items()}
        return answer

    found: dict[str, dict[str, Interval | None]] = {}
    for (part_name, name), samples in samples_of(tally.sources, figures, n_resamples).items():
        found.setdefault(part_name, {})[name] = percentile_interval(samples)
    sources = {source: _with_wilson(found[f"source {source}"], part) for source, part in part_of.items()}
    measures = _with_wilson(found["all"], tally)
    return Intervals(CONFIDENCE, n_resamples, measures, found.get("class", {}), sources)


def _with_wilson(found: dict[str, Interval | None], tally: Tally) -> dict[str, Interval | None]:
    counts = tally.counts()
    return {
        name: one or (wilson_interval(*counts[name]) if name in PROPORTIONS else None)
        for name, one in found.items()
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """B minus A in one figure, on the same images.

    Attributes:
        interval: of the difference, both systems on the same samples; None if no sample has one.
        p: how often a difference as great or greater comes by chance if the systems are alike; nan where
            one of them has no figure.
    """

    a: float
    b: float
    interval: Interval | None
    p: float

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.b - self.a

    @property
    def told_apart(self) -> bool:
        """The interval leaves 0 out and p is below 0.05."""
        return (
            self.interval is not None
            and (self.interval.low > 0 or self.interval.high < 0)
            and self.p < 1 - CONFIDENCE
        )


Figures = Callable[[Tally, Floats], Mapping[_Name, Floats]]
"""Figures by name of the samples that weights describe, float64 [b] each."""


def paired_differences(
    a: Tally, b: Tally, figures: Figures[_Name], n_resamples: int = N_RESAMPLES, seed: int = 0
) -> dict[_Name, Difference]:
    """Both systems on the same images, which both tallies have in one order and with the same `labels`.

    The interval comes from the paired bootstrap: both systems on the same samples. p comes from approximate
    randomisation (Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989; for F1: Yeh, COLING
    2000): of a random half of the images the answers of the two change places; it is two-sided and counts
    the case at hand (Phipson and Smyth 2010, DOI 10.2202/1544-6115.1585), so it is never 0.
    """
    both, coin = _side_by_side(a, b), np.random.default_rng(seed + 1)

    def sampled(weights: Floats) -> dict[tuple[_Name, str], Floats]:
        swapped = coin.integers(0, 2, weights.shape).astype(np.float64)
        keep_a, keep_b = np.hstack([1 - swapped, swapped]), np.hstack([swapped, 1 - swapped])
        pairs = {
            "drawn": (figures(a, weights), figures(b, weights)),
            "by chance": (figures(both, keep_a), figures(both, keep_b)),
        }
        return {(name, how): of_b[name] - of_a[name] for how, (of_a, of_b) in pairs.items() for name in of_a}

    samples, every = samples_of(a.sources, sampled, n_resamples, seed), np.ones((1, len(a.images)))
    all_a, all_b = figures(a, every), figures(b, every)
    answer = {}
    for name in all_a:
        of_a, of_b = float(all_a[name][0]), float(all_b[name][0])
        # A difference that equals the one at hand but for rounding is as great.
        greater = int(np.count_nonzero(np.abs(samples[name, "by chance"]) >= abs(of_b - of_a) - 1e-12))
        p = float("nan") if np.isnan(of_b - of_a) else (1 + greater) / (1 + n_resamples)
        answer[name] = Difference(of_a, of_b, percentile_interval(samples[name, "drawn"]), p)
    return answer


def _side_by_side(a: Tally, b: Tally) -> Tally:
    """One tally with the images of A and then those of B: a sample takes each image from one of the two."""
    columns = ("truth", "said", "right", "giou", "n_boxes", "n_found", "n_predicted")
    joined: dict[str, NDArray[np.float64]] = {
        column: np.concatenate([getattr(a, column), getattr(b, column)]) for column in columns
    }
    return Tally(a.images * 2, a.sources * 2, a.labels, **joined)


def mcnemar(right_a: Sequence[bool], right_b: Sequence[bool]) -> tuple[int, int, float]:
    """Cells that only A names rightly, those that only B does, and the exact two-sided p of McNemar's test.

    McNemar, Psychometrika 12 (1947), 153-157, with the binomial distribution in place of chi-square.
    """
    only_a = sum(one and not other for one, other in zip(right_a, right_b, strict=True))
    only_b = sum(other and not one for one, other in zip(right_a, right_b, strict=True))
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return only_a, only_b, p
