"""Figures of a sample, and how far they could have come out otherwise."""

import numpy as np
import pytest

from edge.bench import estimates
from edge.bench.estimates import StageTimes, has_upper_end, median, percentiles, ratio_of_medians


def test_percentiles_are_those_of_the_sample_and_lie_in_their_intervals() -> None:
    sample = np.random.default_rng(3).normal(10, 1, 400)
    found = percentiles(sample)
    assert list(found) == [50, 90, 99]
    for p, one in found.items():
        assert one.value == pytest.approx(np.percentile(sample, p))
        assert one.low <= one.value <= one.high
        assert one.low < one.high


def test_more_images_tell_more() -> None:
    rng = np.random.default_rng(4)
    few, many = (median(rng.normal(10, 1, count)) for count in (20, 2000))
    assert many.high - many.low < (few.high - few.low) / 3


def test_the_interval_of_a_median_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    found = [median(rng.normal(10, 1, 60)) for _ in range(100)]
    assert sum(one.low <= 10 <= one.high for one in found) in range(88, 100)


def test_a_sample_against_itself_is_told_from_nothing() -> None:
    sample = np.random.default_rng(6).normal(10, 1, 100).tolist()
    ratio = ratio_of_medians(sample, sample)
    assert ratio.value == 1
    assert ratio.low < 1 < ratio.high


def test_the_ratio_of_medians_is_after_by_before() -> None:
    before = np.random.default_rng(7).normal(10, 0.5, 100)
    ratio = ratio_of_medians((1.5 * before).tolist(), before.tolist())
    assert ratio.value == pytest.approx(1.5)
    assert 1.4 < ratio.low < 1.5 < ratio.high < 1.6


def test_a_large_sample_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = np.arange(1, 101.0)
    whole = median(sample)
    monkeypatch.setattr(estimates, "_MOST_VALUES", 700)
    in_parts = median(sample)
    assert in_parts.value == whole.value
    assert in_parts.low == pytest.approx(whole.low, abs=3)


def test_a_stage_tells_mean_percentiles_and_the_worst() -> None:
    times = StageTimes.of("detect", [1.0, 2.0, 3.0, 10.0])
    assert (times.mean_ms, times.max_ms, times.percentiles_ms["p50"]) == (4.0, 10.0, 2.5)
    assert times.intervals_ms["p99"][1] == pytest.approx(10)


def test_few_values_do_not_tell_how_high_a_percentile_may_be() -> None:
    assert [has_upper_end(99, count) for count in (50, 367, 368)] == [False, False, True]
    assert [has_upper_end(90, count) for count in (35, 36)] == [False, True]
    assert [has_upper_end(50, count) for count in (5, 6)] == [False, True]
    rng = np.random.default_rng(8)
    p99 = np.percentile(rng.exponential(1, 1_000_000), 99)
    beyond = [rng.exponential(1, 100).max() < p99 for _ in range(300)]
    assert np.mean(beyond) > 0.3  # where a 95 % interval that ends at the largest value should miss in 2.5 %
