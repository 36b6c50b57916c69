"""What is measured of a model: the challenge's score, and what that score does not say.

The challenge takes for each true box the predicted box with the highest GIoU in its image. That is not one
to one: a prediction may serve several true boxes and extra predictions cost nothing. Detection precision and
recall are therefore counted beside it, with one-to-one matching.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.geometry import Boxes, box_areas, iou_matrix

F1_WEIGHT, GIOU_WEIGHT = 0.8, 0.2
CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class ChallengeScore:
    """The score of the challenge and its two parts, each 0 to 1.

    Attributes:
        score: 0.8 macro_f1 + 0.2 giou_term.
        macro_f1: over every class that occurs in the truth or in the predictions.
        giou_term: mean over true boxes of (GIoU + 1) / 2.
        n_boxes: true boxes.
        n_without_prediction: true boxes in images where nothing was predicted.
    """

    score: float
    macro_f1: float
    giou_term: float
    n_boxes: int
    n_without_prediction: int


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class: precision, recall and F1 (0 where undefined) and its number of true boxes."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class DetectionFigures:
    """Detection with predictions of at least `threshold`, matched one to one.

    Precision is nan without predictions, recall is nan without true boxes.
    """

    threshold: float
    precision: float
    recall: float
    n_true: int
    n_predicted: int
    n_matched: int


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """The images of one source. Figures of classes count the boxes that have one; nan without any.

    `mean_giou`, `accuracy` and `macro_f1` follow the challenge's pairing; macro F1 is over the classes
    present in the source. Precision and recall are of detection, one to one.
    """

    source: str
    n_images: int
    n_boxes: int
    n_labelled: int
    precision: float
    recall: float
    mean_giou: float
    accuracy: float
    macro_f1: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Cells by true class and predicted class.

    Attributes:
        labels: k class codes.
        counts: [k + 1][k + 1], rows are the truth; the last column counts missed cells, the last row
            detections without a cell.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def giou_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[np.float32]:
    """Generalised intersection over union of every pair, float32 [n, m], -1 to 1.

    GIoU = IoU - |C without (A or B)| / |C|, with C the smallest box around both: Rezatofighi et al.,
    "Generalized Intersection over Union", CVPR 2019, algorithm 1 (arXiv:1902.09630).

    Args:
        a_xyxy: float32 [n, 4].
        b_xyxy: float32 [m, 4]. One box of each pair must have an area.
    """
    iou = iou_matrix(a_xyxy, b_xyxy)
    # |A or B| = |A| + |B| - |A and B|, and |A and B| = IoU |A or B|
    union = (box_areas(a_xyxy)[:, None] + box_areas(b_xyxy)[None, :]) / (1 + iou)
    top_left = np.minimum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.maximum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    enclosing = np.prod(bottom_right - top_left, axis=2)
    return np.asarray(iou - (enclosing - union) / enclosing, np.float32)


def best_by_giou(true_xyxy: Boxes, predicted_xyxy: Boxes) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The challenge's pairing within one image: for each true box the prediction with the highest GIoU.

    Args:
        true_xyxy: float32 [n, 4].
        predicted_xyxy: float32 [m, 4]; of equal ones the first is taken.

    Returns:
        Index of the prediction, int [n], and its GIoU, float32 [n]; -1 and -1.0 where nothing was predicted.
    """
    n_true = len(true_xyxy)
    if len(predicted_xyxy) == 0:
        return np.full(n_true, -1, dtype=np.intp), np.full(n_true, -1.0, dtype=np.float32)
    giou = giou_matrix(true_xyxy, predicted_xyxy)
    return giou.argmax(axis=1), giou.max(axis=1)


def challenge_score(truth: Sequence[str], predicted: Sequence[str | None], giou: ArrayLike) -> ChallengeScore:
    """The score over all true boxes of all images together.

    Args:
        truth: n class codes.
        predicted: the n classes that `best_by_giou` paired with them; None where nothing was predicted.
        giou: float [n] of the same pairing.
    """
    f1 = macro_f1(truth, predicted)
    term = float((np.asarray(giou, dtype=np.float64).mean() + 1) / 2) if len(truth) else float("nan")
    return ChallengeScore(
        score=F1_WEIGHT * f1 + GIOU_WEIGHT * term,
        macro_f1=f1,
        giou_term=term,
        n_boxes=len(truth),
        n_without_prediction=sum(label is None for label in predicted),
    )


def class_figures(
    truth: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str] | None = None
) -> tuple[ClassFigures, ...]:
    """Figures of each class of `labels`, by default of every label in truth or predictions, sorted.

    A prediction of None is wrong for its true class and is not a class itself. Labels are compared letter
    for letter: another spelling is another class.
    """
    if labels is None:
        labels = sorted({*truth, *(label for label in predicted if label is not None)})
    n_true, n_predicted = Counter(truth), Counter(predicted)
    n_right = Counter(is_true for is_true, said in zip(truth, predicted, strict=True) if is_true == said)
    figures = []
    for label in labels:
        right, true, said = n_right[label], n_true[label], n_predicted[label]
        figures.append(
            ClassFigures(
                label=label,
                precision=right / said if said else 0.0,
                recall=right / true if true else 0.0,
                f1=2 * right / (true + said) if true + said else 0.0,
                support=true,
            )
        )
    return tuple(figures)


def macro_f1(
    truth: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str] | None = None
) -> float:
    """Mean F1 over classes.

    Without `labels`: over every label in truth or predictions, so that each label foreign to the truth adds
    a class with F1 0 (scikit-learn's `f1_score(average="macro")`). With `labels`: over those of them that
    have a true box, because a class that was never shown is not measured. nan if there is none.
    """
    figures = class_figures(truth, predicted, labels)
    counted = [figure.f1 for figure in figures if labels is None or figure.support]
    return float(np.mean(counted)) if counted else float("nan")


def confusion(pairs: Sequence[tuple[str | None, str | None]], labels: Sequence[str]) -> Confusion:
    """Counts of (true class, predicted class); None stands for missed and for no cell there."""
    counted, places = Counter(pairs), (*labels, None)
    return Confusion(tuple(labels), tuple(tuple(counted[true, said] for said in places) for true in places))


def detection_curve(
    scores: ArrayLike, matched: ArrayLike, n_true: int, thresholds: Sequence[float]
) -> tuple[DetectionFigures, ...]:
    """Precision and recall of detection at each threshold, over all images together.

    Args:
        scores: float [m] of all predictions.
        matched: bool [m], whether `match_one_to_one` gave the prediction a true box.
        n_true: true boxes in all images.
        thresholds: a prediction counts from this score on.
    """
    score = np.asarray(scores, dtype=np.float64)
    is_matched = np.asarray(matched, dtype=bool)
    figures = []
    for threshold in thresholds:
        kept = score >= threshold
        n_predicted, n_matched = int(kept.sum()), int((kept & is_matched).sum())
        figures.append(
            DetectionFigures(
                threshold=threshold,
                precision=n_matched / n_predicted if n_predicted else float("nan"),
                recall=n_matched / n_true if n_true else float("nan"),
                n_true=n_true,
                n_predicted=n_predicted,
                n_matched=n_matched,
            )
        )
    return tuple(figures)


def calibration_error(confidences: ArrayLike, correct: ArrayLike, n_bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of the most probable class, 0 to 1; nan without cells.

    Mean over cells of |accuracy - mean confidence| of the cell's bin, bins of equal width, closed on the
    right: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3 (arXiv:1706.04599).

    Args:
        confidences: float [n], probability of the predicted class.
        correct: bool [n], whether that class is the true one.
    """
    confidence = np.asarray(confidences, dtype=np.float64)
    is_correct = np.asarray(correct, dtype=np.float64)
    if confidence.size == 0:
        return float("nan")
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, weights=is_correct - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / confidence.size)
