"""Fairness is counted while both stations are at work."""

import pytest

from benchmarks.sharing import Shared
from edge.errors import StationError


def evenly(begin_s: int, end_s: int, each_second: int) -> tuple[float, ...]:
    return tuple(
        second + part / each_second for second in range(begin_s, end_s) for part in range(each_second)
    )


def test_rates_are_those_of_the_time_in_which_both_are_at_work() -> None:
    shared = Shared((evenly(0, 20, 10), evenly(5, 16, 20)))
    assert shared.rates == (pytest.approx(10, rel=0.05), pytest.approx(20, rel=0.05))
    assert shared.together == pytest.approx(30, rel=0.05)
    assert shared.ratio == pytest.approx(0.5, rel=0.05)


def test_stations_that_were_not_at_work_together_are_not_compared() -> None:
    with pytest.raises(StationError, match=r"began after 5\.0 s and the first ended after 3\.9 s"):
        _ = Shared((evenly(0, 4, 10), evenly(5, 9, 10))).rates


def test_jains_index_is_one_where_both_have_as_much() -> None:
    assert Shared((evenly(0, 9, 10), evenly(0, 9, 10))).jain == pytest.approx(1)
    assert Shared((evenly(0, 9, 10), evenly(0, 9, 30))).jain == pytest.approx(16 / 20, rel=0.02)


def test_seconds_hold_all_images() -> None:
    counts = Shared((evenly(0, 3, 10), evenly(1, 2, 20))).by_second()
    assert counts == [[10, 10, 10], [0, 20, 0]]
