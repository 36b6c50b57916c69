"""Every way sees every image, in a fair order, and a ratio is what its times say."""

from pathlib import Path

import numpy as np
import pytest

from edge.bench import interleaved
from edge.bench.estimates import median_ratio
from edge.bench.interleaved import Runs, run_in_turn, run_interleaved
from edge.bench.ways import Answer, Way


class RecordingWay(Way):
    """A double that notes when it is asked."""

    def __init__(self, name: str, asked: list[tuple[str, str]]) -> None:
        self.name = name
        self.asked = asked

    def answer(self, prepared: Path) -> Answer:
        self.asked.append((self.name, prepared.name))
        return Answer((), {"detect": float(len(self.asked))})


def test_every_way_reads_every_image_twice_in_a_rotating_order() -> None:
    asked: list[tuple[str, str]] = []
    ways = [RecordingWay(name, asked) for name in "AB"]
    runs = run_interleaved(ways, [Path("1"), Path("2")], "images", settle_s=0)
    assert asked == [(way, image) for way, image in ("A1", "B1", "B2", "A2") for _ in range(2)]
    assert list(runs) == ["A", "B"]
    assert all(len(run.ms) == len(run.answers) == 2 for run in runs.values())
    assert runs["A"].mean_stage_ms() == {"detect": (2 + 8) / 2}  # of the second readings


def test_a_round_that_warms_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaved, "SETTLE_S", 0)
    counts = iter(range(100))
    rates = run_in_turn({"A": lambda: float(next(counts)), "B": lambda: float(next(counts))}, 2, "rounds")
    assert rates == {"A": (2.0, 5.0), "B": (3.0, 4.0)}


def test_a_ratio_is_that_of_pairs_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(1)
    slow_machine = rng.uniform(1, 3, 80)  # what slows both at once cancels
    estimate = median_ratio(6 * slow_machine * rng.normal(1, 0.02, 80), 2 * slow_machine)
    assert estimate.value == pytest.approx(3, rel=0.02)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.high - estimate.low < 0.1


def test_a_stall_of_one_image_does_not_move_the_ratio() -> None:
    ours, limit = [1.1] * 9 + [900.0], [1.0] * 10
    assert median_ratio(ours, limit).value == pytest.approx(1.1)


def test_stages_are_in_the_order_of_the_work_also_where_the_first_image_has_no_cell() -> None:
    empty, full = (
        Answer((), dict.fromkeys(stages.split(), 1.0))
        for stages in ("read detect commit csv", "read detect crop classify commit csv")
    )
    runs = Runs((4.0, 6.0), (empty, full))
    assert " ".join(runs.stage_ms) == "read detect crop classify commit csv"
    assert runs.stage_ms["classify"] == (0.0, 1.0)
