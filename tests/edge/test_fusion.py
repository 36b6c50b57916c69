"""Weighted boxes fusion on cases worked out by hand.

On 3,000 random ensembles (11,367 clusters) boxes and scores were the ones of `ensemble-boxes` 1.0.9 to 2e-7.
"""

from itertools import permutations

import numpy as np
import pytest

from edge.fusion import Detections, fuse

IOU = 0.55


def found(*rows: tuple[float, ...], names: list[list[float]] | None = None, votes: float = 0) -> Detections:
    """Boxes with their scores, x1 y1 x2 y2 score."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    probabilities = None if names is None else np.array(names, np.float32)
    return Detections(array[:, :4], array[:, 4], probabilities, np.full(len(array), votes, np.float32))


def rows_of(detections: Detections) -> np.ndarray:
    return np.column_stack([detections.boxes_xyxy, detections.scores])


@pytest.mark.parametrize(
    ("passes", "weights", "expected"),
    [
        # one cell, seen twice: the box by score, the score the mean; (0 * 0.8 + 3 * 0.4) / 1.2 = 1
        ([found((0, 0, 30, 30, 0.8)), found((3, 0, 33, 30, 0.4))], [1, 1], [(1, 0, 31, 30, 0.6)]),
        # the second counts twice: (0 * 0.8 + 3 * 2 * 0.4) / 1.6 = 1.5; (0.8 + 2 * 0.4) / 3
        ([found((0, 0, 30, 30, 0.8)), found((3, 0, 33, 30, 0.4))], [1, 2], [(1.5, 0, 31.5, 30, 1.6 / 3)]),
        # a cell that one of two misses has half the score
        ([found((0, 0, 30, 30, 0.8)), found()], [1, 1], [(0, 0, 30, 30, 0.4)]),
        # and a quarter where the other counts three times
        ([found((0, 0, 30, 30, 0.8)), found()], [1, 3], [(0, 0, 30, 30, 0.2)]),
        # two cells, of which the second is the surer one
        (
            [found((0, 0, 30, 30, 0.5), (50, 0, 80, 30, 0.9)), found((0, 0, 30, 30, 0.5))],
            [1, 1],
            [(0, 0, 30, 30, 0.5), (50, 0, 80, 30, 0.45)],
        ),
        # an IoU of exactly a half is no more than a threshold of a half: two cells
        ([found((0, 0, 30, 30, 0.8)), found((10, 0, 40, 30, 0.8))], [1, 1], None),
        # one network's two boxes of a cell do not make it surer than its networks are
        (
            [found((0, 0, 30, 30, 0.9), (0, 0, 30, 30, 0.6)), found((0, 0, 30, 30, 0.9))],
            [1, 1],
            [(0, 0, 30, 30, 0.8)],
        ),
        # nothing found
        ([found(), found()], [1, 1], []),
    ],
)
def test_boxes_of_a_cell_become_one(
    passes: list[Detections], weights: list[float], expected: list[tuple[float, ...]] | None
) -> None:
    fused = fuse(passes, weights, 0.5 if expected is None else IOU)
    if expected is None:
        assert len(fused) == 2
    else:
        np.testing.assert_allclose(rows_of(fused), np.array(expected).reshape(-1, 5), rtol=1e-6)
        assert fused.boxes_xyxy.dtype == fused.scores.dtype == np.float32


def test_cells_of_one_score_stay_in_their_order() -> None:
    """Whatever numpy's fastest way to sort does on a processor."""
    scores = [0.5, 0.25] * 50
    alone = [(place, 0, place + 0.5, 1, score) for place, score in enumerate(scores)]
    expected = [*range(0, 100, 2), *range(1, 100, 2)]
    assert fuse([found(*alone)], [1], IOU).boxes_xyxy[:, 0].tolist() == expected


def test_a_box_joins_the_cluster_as_it_is_by_then() -> None:
    """The third overlaps the first by too little (0.5) and the mean of the first two by enough (0.6)."""
    passes = [found((0, 0, 30, 30, 0.9)), found((5, 0, 35, 30, 0.9)), found((10, 0, 40, 30, 0.8))]
    assert len(fuse(passes, [1, 1, 1], IOU)) == 1
    assert len(fuse([passes[0], passes[2]], [1, 1], IOU)) == 2


def test_the_box_of_a_cluster_so_far_is_by_score() -> None:
    """The second is so unsure that the mean stays at 0.5, which the third overlaps by too little (0.52)."""
    passes = [found((0, 0, 30, 30, 0.9)), found((5, 0, 35, 30, 0.1)), found((10, 0, 40, 30, 0.05))]
    fused = fuse(passes, [1, 1, 1], IOU)
    np.testing.assert_allclose(fused.boxes_xyxy[:, 0], [0.5, 10], rtol=1e-6)


def test_the_surer_box_comes_first_whatever_the_order_of_the_networks() -> None:
    """The two sure ones overlap by a half: two cells, of which the unsure one joins the nearer."""
    boxes = [(6, 0, 36, 30, 0.5), (0, 0, 30, 30, 0.9), (10, 0, 40, 30, 0.8)]
    expected = [((10 * 0.8 + 6 * 0.5) / 1.3, 0.65 * 2 / 3), (0, 0.9 / 3)]
    for order in permutations(boxes):
        fused = fuse([found(box) for box in order], [1, 1, 1], IOU)
        np.testing.assert_allclose(rows_of(fused)[:, [0, 4]], expected, rtol=1e-6)


def test_classes_and_votes_stay_with_their_cell() -> None:
    """The surest box is of one network alone, so that its cell is not the surest."""
    passes = [
        found((0, 0, 30, 30, 0.9), (50, 0, 80, 30, 0.8), names=[[1, 0], [0.5, 0.5]], votes=1),
        found((50, 0, 80, 30, 0.8), names=[[0.3, 0.7]], votes=3),
    ]
    fused = fuse(passes, [1, 1], IOU)
    assert fused.probabilities is not None
    np.testing.assert_allclose(rows_of(fused)[:, [0, 4]], [[50, 0.8], [0, 0.45]], rtol=1e-6)
    np.testing.assert_allclose(fused.probabilities, [[0.35, 0.65], [1, 0]], rtol=1e-6)
    assert fused.votes.tolist() == [4, 1]
    second = fused.take(np.array([False, True]))
    assert second.probabilities is not None
    assert (second.boxes_xyxy[:, 0].tolist(), second.votes.tolist()) == ([0], [1])
    assert second.probabilities.tolist() == [[1, 0]]


def test_class_probabilities_are_averaged_by_votes_over_those_who_found_the_cell_and_name_it() -> None:
    passes = [
        found((0, 0, 30, 30, 0.9), (90, 0, 120, 30, 0.8), names=[[0.8, 0.2], [0.5, 0.5]], votes=1),
        found((0, 0, 30, 30, 0.3), names=[[0.2, 0.8]], votes=3),
        found((0, 0, 30, 30, 0.9), (50, 0, 80, 30, 0.6)),  # names nothing
    ]
    fused = fuse(passes, [1, 1, 1], IOU)
    assert fused.probabilities is not None
    np.testing.assert_allclose(fused.boxes_xyxy[:, 0], [0, 90, 50])
    np.testing.assert_allclose(fused.probabilities, [[0.35, 0.65], [0.5, 0.5], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(fused.votes, [4, 1, 0])
    assert fuse([passes[2]], [1], IOU).probabilities is None
