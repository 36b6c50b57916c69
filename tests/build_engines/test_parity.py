"""Two readings of one image are compared cell by cell, by the rules of the self-test."""

from collections.abc import Sequence

import pytest

from build_engines.parity import Parity, compare_findings
from edge.cells import Finding
from edge.geometry import Letterbox
from edge.selftest import TOLERANCES

CLASSES = ("PNN", "Ly", "M")
HALF = Letterbox((0.5, 0.5), (0, 0), (800, 800))
"""An image that is twice as large as its tile."""


def cell(x: float = 100, score: float = 0.9, ours: float = 0.9, label: str = "PNN") -> Finding:
    """A cell of a hundred pixels; what is left of the probability goes to one other class."""
    other = next(name for name in CLASSES if name != label)
    probabilities = dict.fromkeys(CLASSES, 0.0) | {label: ours, other: 1 - ours}
    return Finding((x, 100, x + 100, 200), label, score, ours, probabilities)


def compared(reference: Sequence[Finding], found: Sequence[Finding]) -> tuple[Parity, bool]:
    pair = compare_findings(reference, found, HALF, CLASSES, 0.5, TOLERANCES["f16"])
    return pair, TOLERANCES["f16"].allows(pair.deviation)


def test_the_same_is_the_same() -> None:
    pair, allowed = compared([cell(), cell(500)], [cell(), cell(500)])
    assert allowed
    assert (pair.deviation.box_px, pair.cells, pair.reference_cells, pair.unsure) == (0, 2, 2, 0)
    assert compared([], [])[1]


def test_boxes_are_compared_in_pixels_of_the_tile() -> None:
    pair, allowed = compared([cell(100)], [cell(103)])
    assert pair.deviation.box_px == pytest.approx(1.5)
    assert allowed
    assert not compared([cell(100)], [cell(105)])[1]


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ([cell()], []),
        ([], [cell()]),
        ([cell(), cell(500)], [cell()]),
        ([cell()], [cell(), cell(500)]),
        ([cell()], [cell(300)]),
        ([cell(), cell(104)], [cell(102)]),
        ([cell(score=0.9)], [cell(score=0.87)]),
        ([cell(ours=0.9)], [cell(ours=0.8)]),
        ([cell(label="PNN")], [cell(label="Ly")]),
    ],
    ids=["lost", "invented", "one lost", "one more", "elsewhere", "merged", "score", "probability", "class"],
)  # fmt: skip
def test_what_a_row_would_say_otherwise_is_not_allowed(
    reference: list[Finding], found: list[Finding]
) -> None:
    assert not compared(reference, found)[1]


def test_a_cell_at_the_threshold_may_be_left_out() -> None:
    pair, allowed = compared([cell(), cell(500, score=0.51)], [cell()])
    assert allowed
    assert (pair.cells, pair.reference_cells, pair.unsure) == (1, 2, 1)


def test_a_class_that_was_too_close_to_call_may_be_another() -> None:
    pair, allowed = compared([cell(ours=0.52, label="PNN")], [cell(ours=0.52, label="Ly")])
    assert allowed
    assert (pair.close_calls, pair.deviation.classes_differ) == (1, 0)


def test_cells_of_another_class_are_counted_apart_by_whether_the_choice_was_clear() -> None:
    """Clear is more than twice the 0.05 that is tolerated; what is hardly a cell counts in neither."""
    kinds = {
        "clear": (0.9, 0.56),
        "close": (0.9, 0.54),
        "close too": (0.9, 0.54),
        "hardly a cell": (0.51, 0.9),
    }
    places = range(0, 200 * len(kinds), 200)
    reference = [cell(x, *numbers, label="M") for x, numbers in zip(places, kinds.values(), strict=True)]
    found = [cell(x, *numbers, label="PNN") for x, numbers in zip(places, kinds.values(), strict=True)]
    same = cell(900)
    pair, _ = compared([*reference, same], [*found, same])
    assert (pair.deviation.classes_differ, pair.close_calls, pair.unsure) == (1, 2, 2)
