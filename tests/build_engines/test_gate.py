"""The gate on engines that are right but for one number."""

from typing import Any

import numpy as np
import pytest

from build_engines.gate import how_far, judge, print_verdicts, verdict
from build_engines.reference import Reference
from edge.backends.base import Outputs, Session
from edge.bundle import Golden, Known
from edge.errors import BackendError
from edge.selftest import TOLERANCES

THRESHOLD = 0.4
NAMES = (("tile 1", "tile 2", "tile 3"), ("crop 1", "crop 2", "crop 3"))


def inputs() -> np.ndarray:
    """Three inputs, of which each says its place."""
    return np.broadcast_to(np.arange(3, dtype=np.uint8)[:, None, None, None], (3, 8, 8, 3)).copy()


def answers() -> tuple[Outputs, Outputs]:
    """Of a detector, one cell of 50 px and an unused place a tile, and of a classifier."""
    boxes = np.array([[[10, 10, 60, 60], [0, 0, 0, 0]]] * 3, np.float32)
    scores = np.array([[0.9, 0]] * 3, np.float32)
    return {"boxes": boxes, "scores": scores}, {"probabilities": np.array([[0.7, 0.3]] * 3, np.float32)}


def reference() -> Reference:
    detector, classifier = (Known(inputs(), outputs) for outputs in answers())
    return Reference(Golden((detector,), (classifier,)), NAMES, "made by hand")


class Written(Session):
    """Answers by the place that an input says."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__("written", 8)
        self.outputs = outputs
        self.batches: list[int] = []

    def _run(self, batch: np.ndarray) -> Outputs:
        self.batches.append(len(batch))
        return {name: values[batch[:, 0, 0, 0]] for name, values in self.outputs.items()}

    def close(self) -> None: ...


class Failing(Session):
    def _run(self, batch: np.ndarray) -> Outputs:
        raise BackendError("The card is away.")

    def close(self) -> None: ...


def engine(*changes: tuple[str, tuple[int, ...], float]) -> list[Session | None]:
    """The reference's own answers, with numbers added to some."""
    outputs = answers()
    for name, place, more in changes:
        (own,) = (one for one in outputs if name in one)
        own[name][place] += more
    return [Written(one) for one in outputs]


def found(sessions: list[Session | None], batch: int = 1) -> tuple[tuple[float, float, float], str]:
    deviation, worst = judge(sessions, reference(), THRESHOLD, TOLERANCES["f16"], batch)
    return (deviation.box_px, deviation.score, deviation.probability), worst


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1, 1, 1]), (2, [2, 2]), (3, [3]), (4, [4])])
def test_every_input_is_put_to_the_engine_in_full_batches(batch: int, sizes: list[int]) -> None:
    sessions = engine()
    assert found(sessions, batch) == ((0, 0, 0), "")
    assert [one.batches for one in sessions if isinstance(one, Written)] == [sizes, sizes]


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_number_that_strays_is_found_wherever_it_is(place: int, batch: int) -> None:
    box, cell = (place, 0, 3), (place, 1)
    assert found(engine(("boxes", box, 1.5)), batch) == ((1.5, 0, 0), f"tile {place + 1}")
    numbers, worst = found(engine(("scores", (place, 0), -0.25)), batch)
    assert (numbers, worst) == ((0, 0.25, 0), f"tile {place + 1}")
    numbers, worst = found(engine(("probabilities", cell, 0.25)), batch)
    assert (numbers, worst) == (pytest.approx((0, 0, 0.25)), f"crop {place + 1}")


def test_the_worst_input_is_the_one_that_uses_most_of_what_is_tolerated() -> None:
    """2 px, 0.02 of a score and 0.05 of a probability are tolerated."""
    near = [("boxes", (0, 0, 0), 1.0), ("scores", (1, 0), 0.015), ("probabilities", (2, 0), 0.03)]
    numbers, worst = found(engine(*near))
    assert (numbers, worst) == (pytest.approx((1, 0.015, 0.03)), "tile 2")
    assert found(engine(*near, ("boxes", (0, 0, 0), 0.75)))[1] == "tile 1"
    assert found(engine(*near, ("probabilities", (2, 0), 0.015)))[1] == "crop 3"


def test_a_network_without_an_engine_is_not_asked() -> None:
    detector, classifier = engine(("boxes", (0, 0, 0), 9), ("probabilities", (0, 0), -0.2))
    assert found([None, classifier])[0] == pytest.approx((0, 0, 0.2))
    assert found([detector, None])[0] == (9, 0, 0)


@pytest.mark.parametrize(
    ("changes", "precisions"),
    [
        ((), "f32 f16 bf16"),
        ((("boxes", (1, 0, 0), 0.05),), "f32 f16 bf16"),
        ((("boxes", (1, 0, 0), 1.5),), "f16 bf16"),
        ((("boxes", (1, 0, 0), 2.5),), "bf16"),
        ((("boxes", (1, 0, 0), 3.5),), ""),
        ((("scores", (1, 0), 0.01),), "f16 bf16"),
        ((("scores", (1, 0), 0.07),), ""),
        ((("scores", (1, 0), -0.9),), ""),  # the cell is lost
        ((("boxes", (1, 1, 2), 50), ("boxes", (1, 1, 3), 5), ("scores", (1, 1), 0.9)), ""),  # and one more
        ((("probabilities", (1, 0), -0.04), ("probabilities", (1, 1), 0.04)), "f16 bf16"),
        ((("probabilities", (1, 0), -0.1), ("probabilities", (1, 1), 0.1)), "bf16"),
        ((("probabilities", (1, 0), -0.21), ("probabilities", (1, 1), 0.21)), ""),  # another class
    ],
)
def test_an_engine_passes_within_what_its_precision_may_stray(changes: Any, precisions: str) -> None:
    told = [verdict("double", one, engine(*changes), reference(), THRESHOLD) for one in TOLERANCES]
    assert [one.result.precision for one in told if one.result.passed] == precisions.split()
    assert all(one.name == f"double {one.result.precision}" for one in told)
    assert all(np.isfinite(one.result.box_px) for one in told)  # JSON knows no infinity


def test_the_record_of_an_engine_holds_how_far_it_strays() -> None:
    changes = (("boxes", (1, 0, 0), 1.5), ("scores", (2, 0), 0.01), ("probabilities", (0, 1), 0.03))
    told = verdict("double", "f16", engine(*changes), reference(), THRESHOLD)
    record = told.result
    assert (record.box_px, record.score, record.probability) == pytest.approx((1.5, 0.01, 0.03), abs=1e-6)
    assert (record.backend, record.images) == ("double", "made by hand")
    assert how_far(told) == "boxes 1.5 px off, scores 0.01, probabilities 0.03, the most on tile 2"


def test_an_engine_that_fails_does_not_pass() -> None:
    told = verdict("double", "bf16", [Failing("failing", 8), None], reference(), THRESHOLD)
    assert (told.result.passed, told.fault, told.worst) == (False, "The card is away.", "")
    assert np.isfinite(told.result.box_px)


def test_the_table_says_which_engine_passed_and_why_another_did_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    good = verdict("good", "f16", engine(("boxes", (1, 0, 0), 1.5)), reference(), THRESHOLD)
    bad = verdict("bad", "f16", [Failing("failing", 8), None], reference(), THRESHOLD)
    print_verdicts([good, bad], "against a reference")
    rows = [row.split("│")[1:-1] for row in capsys.readouterr().err.splitlines()]
    told = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}
    assert told["good f16"] == ["1.5", "0", "0", "tile 2", "passed"]
    assert told["bad f16"] == ["1e+09", "1", "1", "The card is away.", "failed"]
