"""Images that arrive by themselves: latency counts from when each was due, whatever the station was doing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge.bench.offered import FALLS_BEHIND, PERHAPS_BEHIND, arrivals_s, figures_of, measure_offered, offer
from edge.bench.ways import station_way
from edge.records import State
from edge.tasks import Arrival, ImageResult
from tests.chaos.tiny import OneCell, tiny_image


class Clock:
    """A double of time: it passes when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


class SlowDesk:
    """A double of the desk: each file takes so long, one after the other."""

    def __init__(self, clock: Clock, seconds: dict[str, float]) -> None:
        self.clock, self.seconds = clock, seconds
        self.settled = 0

    def process_all(self, arrivals: Iterator[Arrival]) -> Iterator[ImageResult]:
        for arrival in arrivals:
            self.clock.now_s += self.seconds.get(arrival.path.name, 0.125)
            yield ImageResult(arrival.path, "", State.DONE)

    def settle(self) -> None:
        self.settled += 1


def offered(due_s: list[float], seconds: dict[str, float] | None = None) -> tuple[list[float], int, SlowDesk]:
    clock = Clock()
    desk = SlowDesk(clock, seconds or {})
    done_s, longest = offer(desk, [Path(str(n)) for n in range(len(due_s))], due_s, clock, clock.sleep)
    return done_s, longest, desk


def test_an_image_that_finds_nobody_before_it_waits_for_nothing() -> None:
    done_s, longest, desk = offered([0.0, 1.0, 2.0])
    assert done_s == [0.125, 1.125, 2.125]
    assert (longest, desk.settled) == (1, 3)


def test_a_stall_is_felt_by_all_that_arrive_meanwhile() -> None:
    done_s, longest, _ = offered([0.0, 0.25, 0.5, 0.75, 1.0], {"0": 1.0})
    assert done_s == [1.0, 1.125, 1.25, 1.375, 1.5]
    latencies = np.subtract(done_s, [0.0, 0.25, 0.5, 0.75, 1.0])
    assert latencies.tolist() == [1.0, 0.875, 0.75, 0.625, 0.5]
    assert longest == 4


def test_a_station_that_is_too_slow_falls_behind_and_is_said_to() -> None:
    due_s = arrivals_s(16.0, 5.0, "regular")
    done_s, _, _ = offered(due_s)
    found = figures_of(2.0, due_s, done_s, 1)
    assert found.rate_per_s == pytest.approx(16)
    assert found.answered_per_s == pytest.approx(8)
    assert found.verdict == FALLS_BEHIND
    assert found.most_ms == pytest.approx(1000 * (80 * 0.125 - due_s[-1]))


def test_one_that_is_fast_enough_keeps_up() -> None:
    due_s = arrivals_s(4.0, 5.0, "regular")
    found = figures_of(0.5, due_s, offered(due_s)[0], 1)
    assert found.verdict == ""
    assert found.p50_ms.value == found.p99_ms.value == pytest.approx(125)


def test_one_that_keeps_up_is_not_said_to_fall_behind_because_few_images_came_by_chance() -> None:
    """A field takes 1/16 s here: at half of what it can do some 40 come in 5 s, the last ones all at once."""
    due_s = [*arrivals_s(8.0, 4.5, "regular"), 4.4, 4.4, 4.4, 4.4, 4.4, 4.4]
    done_s, _, _ = offered(due_s, {str(number): 0.0625 for number in range(len(due_s))})
    found = figures_of(0.5, due_s, done_s, 1)
    assert found.answered_per_s < 0.95 * found.rate_per_s
    assert found.verdict == PERHAPS_BEHIND


def test_arrivals_know_nothing_of_each_other_and_have_the_rate_that_was_asked_for() -> None:
    due_s = arrivals_s(50.0, 20.0, "exponential")
    gaps = np.diff(due_s)
    assert len(due_s) == 1000
    assert due_s[0] == 0
    assert gaps.mean() == pytest.approx(1 / 50)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as of an exponential distribution
    assert arrivals_s(50.0, 20.0, "exponential") == due_s
    assert len(arrivals_s(0.1, 1.0, "exponential")) == 2


def test_the_real_desk_answers_every_image_and_leaves_the_inbox_empty(tmp_path: Path) -> None:
    image = tmp_path / "tiny.png"
    image.write_bytes(tiny_image().copy(1))
    with station_way("double", OneCell(), tmp_path / "station") as way:
        found = measure_offered(way.desk, way.inbox, [image], 100.0, 1.0, 0.2, "regular")
        assert list(way.inbox.iterdir()) == []
    assert found.images == 20
    rows = (tmp_path / "station/out/images.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["done"] * 20
