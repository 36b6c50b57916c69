"""Several detectors' boxes of one image become one box a cell: weighted boxes fusion.

R. Solovyev, W. Wang, T. Gabruseva: Weighted boxes fusion: Ensembling boxes from different object detection
models. Image and Vision Computing 107 (2021), arXiv 1910.13302. As in the authors' own `ensemble-boxes`
with `conf_type="avg"`, but of one class: a cell has one box, whatever each network calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.geometry import Boxes, iou_matrix

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What one detector, or several that were fused, found in one image.

    Attributes:
        boxes_xyxy: float32 [n, 4] in pixels of the image.
        scores: float32 [n], 0 to 1, falling.
        probabilities: float32 [n, C] of the bundle's classes, each row summing to 1, or 0 where none of the
            detectors that found the cell names classes; None where no detector names any.
        votes: float32 [n], the weight with which `probabilities` enter the mean with the classifiers'.
    """

    boxes_xyxy: Boxes
    scores: Floats
    probabilities: Floats | None
    votes: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, places: NDArray[np.bool_] | NDArray[np.intp]) -> "Detections":
        """Some of them: by a mask or by indices, in the order of these."""
        probabilities = None if self.probabilities is None else self.probabilities[places]
        return Detections(self.boxes_xyxy[places], self.scores[places], probabilities, self.votes[places])


def fuse(passes: Sequence[Detections], weights: Sequence[float], iou_threshold: float) -> Detections:
    """One box for each cluster of boxes.

    In order of falling `weight * score`, a box joins the cluster whose fused box it overlaps most, by more
    than `iou_threshold`, or founds a new one. A cluster's box is the mean of its members by `weight * score`.
    Its score is their mean `weight * score`, times the part of the passes that found it, over the mean
    weight: a cell that half of the networks miss has half the score. Its probabilities are the mean of its
    members' by their votes.

    Args:
        passes: one or more, each what one network found in one view of the image.
        weights: of each, greater than 0.
        iou_threshold: 0 to 1.

    Returns:
        The clusters, the highest score first.
    """
    boxes = np.concatenate([found.boxes_xyxy for found in passes]).astype(np.float64)
    weighted = np.concatenate(
        [weight * found.scores.astype(np.float64) for weight, found in zip(weights, passes, strict=True)]
    )
    clusters = _clusters(boxes, weighted, iou_threshold)
    fused = np.array([_mean(boxes[members], weighted[members]) for members in clusters]).reshape(-1, 4)
    scores = np.array(
        [
            weighted[members].mean() * min(len(members), len(passes)) / sum(weights)
            for members in clusters
        ]
    )  # fmt: skip
    votes = np.concatenate([found.votes for found in passes])
    total = np.array([votes[members].sum() for members in clusters])
    order = np.argsort(-scores, kind="stable")
    return Detections(
        fused[order].astype(np.float32),
        scores[order].astype(np.float32),
        _probabilities(passes, votes, [clusters[index] for index in order]),
        total[order].astype(np.float32),
    )


def _clusters(
    boxes: NDArray[np.float64], weighted: NDArray[np.float64], iou_threshold: float
) -> list[list[int]]:
    """Indices of the members of each cluster."""
    fused = np.empty_like(boxes, np.float32)  # the clusters' boxes so far
    clusters: list[list[int]] = []
    for index in map(int, np.argsort(-weighted, kind="stable")):
        ious = iou_matrix(boxes[index : index + 1].astype(np.float32), fused[: len(clusters)])[0]
        place = int(ious.argmax()) if len(ious) else 0
        if len(ious) and ious[place] > iou_threshold:
            clusters[place].append(index)
        else:
            place = len(clusters)
            clusters.append([index])
        fused[place] = _mean(boxes[clusters[place]], weighted[clusters[place]])
    return clusters


def _mean(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean of rows; zeros where all weights are."""
    return np.asarray(weights @ rows / max(weights.sum(), np.finfo(np.float64).tiny))


def _probabilities(
    passes: Sequence[Detections], votes: Floats, clusters: Sequence[list[int]]
) -> Floats | None:
    widths = {found.probabilities.shape[1] for found in passes if found.probabilities is not None}
    if not widths:
        return None
    (width,) = widths
    rows = np.concatenate(
        [
            np.zeros((len(found), width)) if found.probabilities is None else found.probabilities
            for found in passes
        ]
    )
    by_vote = votes.astype(np.float64)
    means = [_mean(rows[members], by_vote[members]) for members in clusters]
    return np.array(means, np.float32).reshape(-1, width)
