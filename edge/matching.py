"""Boxes of two answers to one image, matched one to one."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.geometry import Boxes, iou_matrix

MATCH_IOU = 0.5
"""Overlap from which a predicted box counts as the true one, as in PASCAL VOC."""


def match_one_to_one(
    true_xyxy: Boxes, predicted_xyxy: Boxes, scores: ArrayLike, min_iou: float = MATCH_IOU
) -> NDArray[np.intp]:
    """Greedy matching within one image, each true box and each prediction used once at most.

    The rule: predictions choose in descending order of score (of equal ones the first), each the still free
    true box with the highest IoU of at least `min_iou`. A prediction's match does not depend on lower-scored
    ones, so one matching holds for every threshold on the score.

    Args:
        true_xyxy: float32 [n, 4].
        predicted_xyxy: float32 [m, 4].
        scores: float [m].

    Returns:
        Index of each prediction's true box, int [m], or -1.
    """
    iou = iou_matrix(true_xyxy, predicted_xyxy)
    matches = np.full(iou.shape[1], -1, dtype=np.intp)
    if iou.shape[0] == 0:
        return matches
    for prediction in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable"):
        best = int(iou[:, prediction].argmax())
        if iou[best, prediction] >= min_iou:
            matches[prediction] = best
            iou[best, :] = -1.0
    return matches
