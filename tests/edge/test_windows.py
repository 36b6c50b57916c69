"""Fields read in windows: every cell exactly once, wherever it lies."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.fusion import Detections
from edge.geometry import iou_matrix
from edge.windows import Window, counted_once, windows_over

WINDOW, OVERLAP = 64, 20


def detections(boxes: np.ndarray, scores: np.ndarray) -> Detections:
    return Detections(boxes.astype(np.float32), scores.astype(np.float32), None, np.zeros(len(boxes), "f4"))


def seen(window: Window, cells: np.ndarray, scores: np.ndarray, least_part: float) -> Detections:
    """Test double of a detector: the cells of which a window shows at least a part, cut at its borders."""
    left, top, right, bottom = window.region
    inside = np.clip(cells, [left, top, left, top], [right, bottom, right, bottom])
    sides, shown = cells[:, 2:] - cells[:, :2], inside[:, 2:] - inside[:, :2]
    enough = (shown.prod(1) >= least_part * sides.prod(1)) & (shown > 0).all(1)
    return detections((inside - [left, top, left, top])[enough], scores[enough])


@st.composite
def fields(draw: st.DrawFn) -> tuple[tuple[int, int], np.ndarray]:
    """Sizes and cells that are no larger than the overlap, at any position; no two are nearly the same."""
    size_wh = draw(st.tuples(st.integers(20, 230), st.integers(20, 230)))
    sides = st.floats(6, OVERLAP)
    cells = []
    for width, height, x, y in draw(
        st.lists(st.tuples(sides, sides, st.floats(0, 1), st.floats(0, 1)), max_size=12)
    ):
        x1, y1 = x * (size_wh[0] - width), y * (size_wh[1] - height)
        # Borders and middles of overlaps are whole or half pixels: half of the cells are put on such.
        if len(cells) % 2:
            x1, y1 = round(2 * x1) / 2, round(2 * y1) / 2
        box = np.clip([[x1, y1, x1 + width, y1 + height]], 0, [*size_wh, *size_wh])
        if not cells or iou_matrix(box, np.array(cells)).max() <= 0.45:
            cells.append(box[0])
    return size_wh, np.array(cells).reshape(-1, 4)


@given(fields(), st.sampled_from([1.0, 0.3]), st.randoms(use_true_random=False))
def test_every_cell_is_found_exactly_once(
    field: tuple[tuple[int, int], np.ndarray], least_part: float, order: Random
) -> None:
    """By a detector that finds what is wholly visible, and by one that finds cut cells too."""
    size_wh, cells = field
    windows = windows_over(size_wh, WINDOW, OVERLAP)
    found = counted_once(
        windows,
        [
            seen(window, cells, np.array([order.random() for _ in cells]), least_part - 1e-6)
            for window in windows
        ],
    )
    assert len(found) == len(cells)
    assert (np.diff(found.scores) <= 0).all()
    if len(cells):
        ious = iou_matrix(cells, found.boxes_xyxy)
        assert sorted(ious.argmax(1)) == list(range(len(cells)))
        assert ious.max(1).min() > 0.999


@given(fields(), st.lists(st.floats(-0.4, 0.4), min_size=8, max_size=8))
def test_a_cell_whose_box_two_windows_see_a_little_apart_is_still_there_once(
    field: tuple[tuple[int, int], np.ndarray], apart_px: list[float]
) -> None:
    """Each window shifts what it finds, so that two of them may put a cell on either side of their border."""
    size_wh, cells = field
    overlapping = np.triu(iou_matrix(cells, cells) > 0.05, 1).any(0)
    cells = cells[~overlapping]
    windows = windows_over(size_wh, WINDOW, OVERLAP)
    answers = []
    for number, window in enumerate(windows):
        one = seen(window, cells, np.ones(len(cells)), 1 - 1e-6)
        answers.append(detections(one.boxes_xyxy + apart_px[number % len(apart_px)], one.scores))
    found = counted_once(windows, answers)
    assert len(found) == len(cells)
    if len(cells):
        assert iou_matrix(cells, found.boxes_xyxy).max(1).min() > 0.6


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(20, 900), st.floats(0.01, 0.5))
def test_windows_cover_an_image_overlap_enough_and_are_no_more_than_needed(
    width: int, height: int, window: int, part: float
) -> None:
    overlap = max(int(part * window), 1)
    windows = windows_over((width, height), window, overlap)
    columns = sorted({(one.region[0], one.region[2]) for one in windows})
    rows = sorted({(one.region[1], one.region[3]) for one in windows})
    assert len(windows) == len(columns) * len(rows)
    for spans, size in ((columns, width), (rows, height)):
        assert spans[0][0] == 0
        assert spans[-1][1] == size
        assert all(end - start == min(window, size) for start, end in spans)
        assert all(before[1] - after[0] >= overlap for before, after in pairwise(spans))
        assert len(spans) == 1 or (len(spans) - 1) * (window - overlap) + overlap < size


def test_an_image_no_larger_than_a_window_is_one_window() -> None:
    (window,) = windows_over((64, 40), WINDOW, OVERLAP)
    assert window.region == (0, 0, 64, 40)
    assert window.core == (-np.inf, -np.inf, np.inf, np.inf)


def test_neighbours_in_one_window_are_not_taken_for_one_cell() -> None:
    """Two boxes of an IoU of 0.6, which the network itself kept apart, stay apart within their window."""
    windows = windows_over((200, 64), WINDOW, OVERLAP)
    boxes = np.array([[10, 10, 26, 26], [14, 10, 30, 26]])
    answers = [detections(boxes, np.array([0.9, 0.8])), *[detections(boxes[:0], np.empty(0))] * 3]
    assert len(counted_once(windows, answers[: len(windows)])) == 2


@pytest.mark.parametrize("apart_px", [(0.4, -0.4), (-0.4, 0.4), (0.4, 0.4), (0, 0)])
def test_a_cell_on_the_border_of_two_cores_is_there_once(apart_px: tuple[float, float]) -> None:
    """Both windows may see its centre beyond the border, or both on their own side."""
    left, right = windows_over((108, 64), WINDOW, OVERLAP)
    assert left.core[2] == right.core[0] == 54
    cell = np.array([[46, 20, 62, 36]])
    answers = [seen(window, cell, np.ones(1), 1) for window in (left, right)]
    moved = [
        detections(one.boxes_xyxy + np.array([px, 0, px, 0]), one.scores)
        for one, px in zip(answers, apart_px, strict=True)
    ]
    assert len(counted_once([left, right], moved)) == 1


def test_of_a_cell_that_one_window_cuts_the_whole_box_is_kept() -> None:
    """Whatever their scores."""
    windows = windows_over((108, 64), WINDOW, OVERLAP)
    cell = np.array([[44.5, 20, 64.5, 36]])
    answers = [
        seen(window, cell, np.array([score]), 0.3) for window, score in zip(windows, (0.9, 0.5), strict=True)
    ]
    assert [len(one) for one in answers] == [1, 1]
    found = counted_once(windows, answers)
    np.testing.assert_array_equal(found.boxes_xyxy, cell)


def test_what_scores_less_than_the_threshold_takes_no_cell_from_what_has_it() -> None:
    """Though its window answers for the cell."""
    windows = windows_over((108, 64), WINDOW, OVERLAP)
    cell = np.array([[44.5, 20, 64.5, 36]])
    answers = [
        seen(window, cell, np.array([score]), 0.3) for window, score in zip(windows, (0.9, 0.1), strict=True)
    ]
    alone = counted_once(windows, [answers[0], seen(windows[1], cell[:0], np.array([]), 0.3)])
    assert alone.scores.tolist() == pytest.approx([0.9])
    found = counted_once(windows, answers, threshold=0.3)
    np.testing.assert_array_equal(found.boxes_xyxy, alone.boxes_xyxy)
    assert counted_once(windows, answers).scores.tolist() == pytest.approx([0.1])
