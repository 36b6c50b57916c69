"""Intervals and tests of significance, against known answers and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.training.test_tally import cell, false_detection
from training.bootstrap import (
    Interval,
    intervals,
    mcnemar,
    paired_differences,
    percentile_interval,
    samples_of,
    wilson_interval,
)
from training.tally import Floats, Tally


def accuracy(tally: Tally, weights: Floats) -> Floats:
    return tally.measures(weights)["accuracy"]


def tally_of(right: np.ndarray) -> Tally:
    """One cell an image, of two classes, right or not."""
    return Tally.of(
        [cell(str(number), "LY", "LY" if one else "MO") for number, one in enumerate(right)], [], ["LY", "MO"]
    )


def test_every_sample_has_as_many_images_of_each_source_as_there_are() -> None:
    sources = ["a"] * 7 + ["b"] * 3
    drawn = samples_of(sources, lambda weights: {"a": weights[:, :7].sum(1), "b": weights[:, 7:].sum(1)}, 50)
    assert set(drawn["a"]) == {7}
    assert set(drawn["b"]) == {3}


def test_samples_are_the_same_each_time_and_many_images_are_drawn_in_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources, sizes = ["a"] * 10, []

    def first(weights: Floats) -> dict[str, Floats]:
        sizes.append(len(weights))
        return {"first": weights[:, 0]}

    whole = samples_of(sources, first, 25)["first"]
    monkeypatch.setattr("training.bootstrap._MOST_WEIGHTS", 100)
    batches = samples_of(sources, first, 25)["first"]
    assert sizes == [25, 10, 10, 5]
    assert whole.tolist() == batches.tolist()


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    right = np.random.default_rng(3).random(200) < 0.8
    found = percentile_interval(
        samples_of(["a"] * 200, lambda weights: {"": accuracy(tally_of(right), weights)}, 4000)[""]
    )
    assert found is not None
    theirs = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=4000, rng=0)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator, held = np.random.default_rng(5), 0
    for seed in range(200):
        right = generator.random(150) < 0.85
        share = right.astype(float)
        samples = samples_of(["a"] * 150, lambda w, share=share: {"": w @ share / 150}, 400, seed)[""]
        found = percentile_interval(samples)
        held += found is not None and found.low <= 0.85 <= found.high
    assert 0.90 <= held / 200 <= 0.985


def test_strata_take_the_difference_between_sources_out_of_the_interval() -> None:
    """One source is always right and one never: with their sizes fixed nothing is left to vary."""
    right = np.array([1.0] * 20 + [0.0] * 20)
    assert (
        percentile_interval(samples_of(["a"] * 20 + ["b"] * 20, lambda w: {"": w @ right / 40}, 200)[""])
        is None
    )
    assert percentile_interval(samples_of(["a"] * 40, lambda w: {"": w @ right / 40}, 200)[""]) is not None


def test_samples_without_a_figure_are_left_out() -> None:
    samples = np.array([np.nan, 0.2, 0.4, np.nan])
    assert percentile_interval(samples, 0.5) == Interval(pytest.approx(0.25), pytest.approx(0.35))
    assert percentile_interval(np.array([np.nan])) is None


def test_a_recall_of_one_is_not_certain() -> None:
    cells = [cell(str(number), "LY", "LY") for number in range(396)]
    found = intervals(Tally.of(cells, []), ["LY"], 200)
    recall = found.measures["recall"]
    assert recall == wilson_interval(396, 396)
    assert recall is not None
    assert recall.low == pytest.approx(1 / (1 + stats.norm.ppf(0.975) ** 2 / 396))  # by hand
    assert found.classes == {"LY": None}
    assert found.measures["score"] is None
    assert wilson_interval(0, 0) is None


def test_every_source_and_class_has_its_own_interval() -> None:
    generator = np.random.default_rng(0)
    cells = [
        cell(str(number), "LY", "LY" if generator.random() < 0.8 else "MO", f"lab{number % 2}")
        for number in range(80)
    ]
    found = intervals(Tally.of(cells, [false_detection("3")]), ["LY", "BA"], 300)
    assert set(found.sources) == {"lab0", "lab1"}
    assert set(found.classes) == {"LY", "MO"}
    for name in ("accuracy", "macro_f1", "precision"):
        assert found.measures[name] is not None
        assert found.sources["lab1"][name] is not None
    whole, part = found.measures["accuracy"], found.sources["lab0"]["accuracy"]
    assert whole is not None
    assert part is not None
    assert part.high - part.low > whole.high - whole.low  # of half as many images


def test_an_interval_is_of_its_own_source_and_classes() -> None:
    """One source and class is named rightly nine times of ten, the other once."""
    cells = [
        cell(f"{label}{number}", label, label if (number % 10 > 0) == often else "EO", source)
        for source, label, often in (("good", "LY", True), ("bad", "MO", False))
        for number in range(100)
    ]
    found = intervals(Tally.of(cells, []), ["MO"], 300)
    low = [found.sources["bad"]["accuracy"], found.classes["MO"], found.measures["macro_f1_covered"]]
    high = [found.sources["good"]["accuracy"], found.classes["LY"]]
    assert all(one is not None and 0.02 < one.low < one.high < 0.35 for one in low)
    assert all(one is not None and 0.8 < one.low < one.high < 1 for one in high)


def test_a_clear_difference_is_told_and_none_is_not() -> None:
    generator = np.random.default_rng(0)
    a = generator.random(300) < 0.7
    better = a | (generator.random(300) < 0.5)
    clear = paired_differences(tally_of(a), tally_of(better), Tally.measures, 500)["accuracy"]
    assert clear.difference == pytest.approx(better.mean() - a.mean())
    assert clear.told_apart
    assert clear.p == pytest.approx(1 / 501)
    same = paired_differences(tally_of(a), tally_of(a), Tally.measures, 200)["accuracy"]
    assert (same.difference, same.interval, same.p, same.told_apart) == (0.0, None, 1.0, False)


def test_p_of_the_randomisation_is_that_of_all_ways_to_swap() -> None:
    """B is right on five images more and on none less: all signs alike come 2 times in 2 ** 5."""
    a = np.array([True] * 20 + [False] * 5)
    found = paired_differences(tally_of(a), tally_of(np.ones(25, bool)), Tally.measures, 4000)
    assert found["accuracy"].p == pytest.approx(2 / 32, abs=0.012)


def test_where_the_systems_are_alike_p_is_small_no_more_often_than_it_says() -> None:
    generator, small = np.random.default_rng(11), 0
    for seed in range(150):
        a, b = generator.random((2, 60)) < 0.8
        found = paired_differences(tally_of(a), tally_of(b), Tally.measures, 150, seed)
        small += found["accuracy"].p <= 0.1
    assert small / 150 <= 0.16


def test_a_figure_that_one_of_them_has_not_is_not_compared() -> None:
    missed = Tally.of([cell("1", None, None)], [], ["LY"])
    found = paired_differences(missed, missed, Tally.measures, 20)["accuracy"]
    assert math.isnan(found.p)
    assert not found.told_apart


def test_mcnemar_counts_the_cells_that_one_of_them_names_rightly() -> None:
    right_a = [True] * 10 + [False] * 9 + [True] + [False] * 5  # the last five neither
    right_b = [True] * 10 + [True] * 9 + [False] + [False] * 5
    only_a, only_b, p = mcnemar(right_a, right_b)
    assert (only_a, only_b) == (1, 9)
    assert p == pytest.approx(2 * (1 + 10) / 2**10)  # 0 or 1 of 10, on either side
    assert mcnemar([True], [True]) == (0, 0, 1.0)
