"""Which box of one answer is which of the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge.matching import match_one_to_one
from tests.some_boxes import boxes, solid_boxes


def test_matching_uses_each_box_once_and_the_higher_score_chooses_first() -> None:
    true = boxes((0, 0, 10, 10), (100, 0, 110, 10))
    predicted = boxes((0, 0, 10, 10), (0, 0, 10, 9), (200, 0, 210, 10))
    assert match_one_to_one(true, predicted, [0.5, 0.9, 0.8]).tolist() == [-1, 0, -1]


def test_a_prediction_whose_best_box_is_taken_gets_the_next_best() -> None:
    true = boxes((0, 0, 10, 10), (0, 0, 10, 14))
    predicted = boxes((0, 0, 10, 10), (0, 0, 10, 11))
    assert match_one_to_one(true, predicted, [0.9, 0.8]).tolist() == [0, 1]


def test_of_predictions_of_one_score_the_first_chooses_first() -> None:
    """Whatever numpy's fastest way to sort does on a processor."""
    true = boxes(*[(20 * place, 0, 20 * place + 10, 10) for place in range(50)])
    matches = match_one_to_one(true, np.concatenate([true, true]), [0.5, 0.25] * 50)
    assert matches.tolist() == [*range(50), *[-1] * 50]


@pytest.mark.parametrize(("height", "matched"), [(5.0, True), (4.9, False)])
def test_a_match_needs_half_of_the_union(height: float, matched: bool) -> None:
    matches = match_one_to_one(boxes((0, 0, 10, 10)), boxes((0, 0, 10, height)), [0.9])
    assert matches.tolist() == ([0] if matched else [-1])


@given(solid_boxes(), solid_boxes(), st.data())
def test_a_match_does_not_depend_on_lower_scored_predictions(
    true: np.ndarray, predicted: np.ndarray, data: st.DataObject
) -> None:
    unit = st.floats(0, 1, width=32)
    scores = data.draw(npst.arrays(np.float32, len(predicted), elements=unit, unique=True))
    kept = scores >= data.draw(unit)
    together = match_one_to_one(true, predicted, scores, min_iou=0.1)
    alone = match_one_to_one(true, predicted[kept], scores[kept], min_iou=0.1)
    assert together[kept].tolist() == alone.tolist()
    used = together[together >= 0]
    assert len(used) == len(set(used.tolist()))


def test_nothing_to_match() -> None:
    assert match_one_to_one(boxes(), boxes((0, 0, 1, 1)), [0.5]).tolist() == [-1]
    assert match_one_to_one(boxes((0, 0, 1, 1)), boxes(), []).tolist() == []
