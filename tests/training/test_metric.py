"""The score's definition and its traps, on boxes and labels made by hand."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_fscore_support

from edge.cells import CELL_CLASSES
from tests.real_files import data_path
from tests.some_boxes import boxes, solid_boxes
from training.annotations import read_boxes
from training.metric import (
    best_by_giou,
    calibration_error,
    challenge_score,
    class_figures,
    confusion,
    detection_curve,
    giou_matrix,
    macro_f1,
)

CODES = [known.code for known in CELL_CLASSES]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),  # the same box
        ((0, 0, 2, 2), (0, 0, 1, 2), 0.5),  # one within the other: nothing of C is outside both
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7 - 2 / 9),  # IoU 1/7; C is 9, of which the union covers 7
        ((0, 0, 1, 1), (2, 0, 3, 1), -1 / 3),  # apart: C is 3, a third of it between them
        ((0, 0, 1, 1), (1, 0, 2, 1), 0.0),  # touching
    ],
)
def test_giou_of_pairs_worked_out_by_hand(a: tuple, b: tuple, expected: float) -> None:
    assert giou_matrix(boxes(a), boxes(b))[0, 0] == pytest.approx(expected, abs=1e-6)


@given(solid_boxes(), solid_boxes())
def test_giou_is_symmetric_and_between_minus_one_and_one(a: np.ndarray, b: np.ndarray) -> None:
    giou = giou_matrix(a, b)
    assert giou.shape == (len(a), len(b))
    assert (giou > -1).all()
    assert (giou <= 1 + 1e-6).all()
    np.testing.assert_allclose(giou, giou_matrix(b, a).T, atol=1e-6)


@given(solid_boxes())
def test_giou_of_a_box_with_itself_is_one(a: np.ndarray) -> None:
    np.testing.assert_allclose(np.diag(giou_matrix(a, a)), 1, atol=1e-6)


def test_one_prediction_serves_several_true_boxes() -> None:
    index, giou = best_by_giou(boxes((0, 0, 10, 10), (0, 0, 10, 20)), boxes((0, 0, 10, 10)))
    assert index.tolist() == [0, 0]
    assert giou.tolist() == pytest.approx([1.0, 0.5])


def test_extra_predictions_cost_nothing() -> None:
    true = boxes((0, 0, 10, 10))
    alone = best_by_giou(true, boxes((0, 0, 10, 9)))
    crowded = best_by_giou(true, boxes((0, 0, 10, 9), (50, 50, 60, 60), (0, 0, 300, 300), (5, 5, 15, 15)))
    assert crowded[0].tolist() == alone[0].tolist()
    assert crowded[1].tolist() == alone[1].tolist()


def test_the_highest_giou_wins_even_without_overlap() -> None:
    index, giou = best_by_giou(boxes((0, 0, 10, 10)), boxes((100, 0, 110, 10), (20, 0, 30, 10)))
    assert index.tolist() == [1]
    assert giou[0] == pytest.approx(-1 / 3)


def test_of_equal_predictions_the_first_is_taken() -> None:
    assert best_by_giou(boxes((0, 0, 10, 10)), boxes((0, 0, 9, 10), (0, 0, 9, 10)))[0].tolist() == [0]


def test_without_predictions_giou_is_minus_one_and_there_is_no_class() -> None:
    index, giou = best_by_giou(boxes((0, 0, 10, 10), (5, 5, 9, 9)), boxes())
    assert index.tolist() == [-1, -1]
    assert giou.tolist() == [-1.0, -1.0]
    score = challenge_score(["PNN", "LY"], [None, None], giou)
    assert (score.score, score.macro_f1, score.giou_term) == (0.0, 0.0, 0.0)
    assert score.n_without_prediction == 2


def test_an_image_without_true_boxes_pairs_nothing() -> None:
    index, giou = best_by_giou(boxes(), boxes((0, 0, 1, 1)))
    assert (index.shape, giou.shape) == ((0,), (0,))


def test_a_perfect_prediction_scores_one() -> None:
    assert challenge_score(CODES, CODES, np.ones(23)).score == pytest.approx(1)


def test_the_score_weighs_f1_and_giou() -> None:
    score = challenge_score(["LY", "PNN"], ["LY", "PNN"], [0.5, -0.5])
    assert score.giou_term == pytest.approx(0.5)
    assert score.score == pytest.approx(0.8 + 0.2 * 0.5)


def test_one_foreign_label_adds_a_class_with_no_f1() -> None:
    truth = [code for code in CODES for _ in range(2000)]
    predicted = ["another", *truth[1:]]
    score = challenge_score(truth, predicted, np.ones(len(truth)))
    assert score.macro_f1 == pytest.approx(23 / 24, abs=2e-5)
    assert round(score.macro_f1, 4) == 0.9583
    assert score.score == pytest.approx(0.8 * 23 / 24 + 0.2, abs=2e-5)


def test_the_other_spelling_of_a_class_costs_two_classes() -> None:
    predicted = ["LH_LyAc" if code == "LH_lyAct" else code for code in CODES]
    assert macro_f1(CODES, predicted) == pytest.approx(22 / 24)


def test_a_missing_prediction_is_no_class_of_its_own() -> None:
    truth = [code for code in CODES for _ in range(1000)]
    predicted = [None, *truth[1:]]
    score = challenge_score(truth, predicted, np.ones(len(truth)))
    assert score.macro_f1 == pytest.approx(1, abs=1e-4)
    assert score.n_without_prediction == 1


@pytest.mark.parametrize(("single_cell_images", "expected"), [(True, 0.824), (False, 0.784)])
def test_a_constant_median_box_already_earns_most_of_the_giou_term(
    single_cell_images: bool, expected: float
) -> None:
    table = read_boxes([data_path("cytologia/train.csv")])
    if single_cell_images:
        table = table.filter(pl.len().over("NAME") == 1)
    true = table.select("x1", "y1", "x2", "y2").to_numpy()
    giou = giou_matrix(true, boxes(np.median(true, axis=0)))[:, 0]
    truth = table["class"].to_list()
    score = challenge_score(truth, ["PNN"] * len(truth), giou)
    assert score.giou_term == pytest.approx(expected, abs=0.0005)
    assert score.macro_f1 < 0.02


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("bcdef")), min_size=1, max_size=40))
def test_figures_of_classes_equal_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    figures = class_figures(truth, predicted)
    labels = [figure.label for figure in figures]
    assert labels == sorted({*truth, *predicted})
    reference = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    ours = np.array([(one.precision, one.recall, one.f1, one.support) for one in figures]).T
    np.testing.assert_allclose(ours, np.array(reference, dtype=float))
    assert macro_f1(truth, predicted) == pytest.approx(f1_score(truth, predicted, average="macro"))


def test_macro_f1_over_covered_classes_leaves_out_those_without_a_true_box() -> None:
    truth, predicted = ["LY", "LY", "MO", "SS"], ["LY", "MO", "MO", "LY"]
    # LY: 1 right of 2 true and 2 predicted; MO: 1 right of 1 true and 2 predicted; BA never shown
    assert macro_f1(truth, predicted, ["LY", "MO", "BA"]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(macro_f1(truth, predicted, ["BA"]))


def test_confusion_counts_missed_cells_and_detections_without_a_cell() -> None:
    table = confusion([("LY", "LY"), ("LY", "MO"), ("MO", None), (None, "LY")], ["LY", "MO"])
    assert table.counts == ((1, 1, 0), (0, 0, 1), (1, 0, 0))


def test_detection_curve_counts_scores_from_each_threshold_on() -> None:
    low, high, none = detection_curve([0.9, 0.5, 0.2], [True, True, False], 4, [0.2, 0.5, 0.95])
    assert (low.precision, low.recall) == (2 / 3, 0.5)
    assert (high.precision, high.recall, high.n_predicted) == (1.0, 0.5, 2)
    assert math.isnan(none.precision)
    assert none.recall == 0.0
    assert math.isnan(detection_curve([0.9], [False], 0, [0.5])[0].recall)


def test_calibration_error_of_bins_worked_out_by_hand() -> None:
    # bin (12/15, 13/15]: confidence 0.85, half right; bin (8/15, 9/15]: confidence 0.6, all right
    error = calibration_error([0.85, 0.85, 0.6, 0.6], [True, False, True, True])
    assert error == pytest.approx(0.5 * 0.35 + 0.5 * 0.4)


def test_bins_are_closed_on_the_right() -> None:
    """0.6 is the upper end of the bin (8/15, 9/15], in which 0.55 lies."""
    assert calibration_error([0.6, 0.55], [True, False]) == pytest.approx(abs(1 - 0.6 - 0.55) / 2)


def test_the_first_and_the_last_bin_are_bins_of_their_own() -> None:
    error = calibration_error([0.05, 0.1, 0.9, 1.0], [True, False, True, False])
    assert error == pytest.approx((0.95 + 0.1 + 0.1 + 1) / 4)


def test_calibration_error_of_certain_and_right_is_zero_and_of_nothing_undefined() -> None:
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert calibration_error([0.0], [True]) == 1.0
    assert math.isnan(calibration_error([], []))
