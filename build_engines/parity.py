"""Two readings of one image held against each other, cell by cell: what a result row says, end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.backends.base import Outputs
from edge.cells import Finding
from edge.geometry import Letterbox, iou_matrix
from edge.selftest import Deviation, Tolerance, compare_detections

_NO_PARTNER = Deviation(float("inf"), 1, 1)


@dataclass(frozen=True, slots=True)
class Parity:
    """How two readings of one image differ.

    Attributes:
        deviation: the largest differences; boxes in tile pixels, infinite where a cell has no partner.
        cells, reference_cells: how many each found.
        unsure: cells of either whose score is nearer to the threshold than what is tolerated: the other
            reading may have left them out.
        close_calls: cells of another class, whose two best classes lie nearer than twice what is tolerated.
    """

    deviation: Deviation
    cells: int
    reference_cells: int
    unsure: int
    close_calls: int


def compare_findings(
    reference: Sequence[Finding],
    found: Sequence[Finding],
    placement: Letterbox,
    classes: Sequence[str],
    threshold: float,
    tolerance: Tolerance,
) -> Parity:
    """Compare what two engines found in one image, by the rules of `edge.selftest`.

    Args:
        reference, found: of the engine that is right, and of the other.
        placement: of the image on the detector's tile, in whose pixels boxes are compared.
        classes: in the bundle's order.
        threshold: of a finding.
        tolerance: what may be.
    """
    ours, theirs = (_outputs(findings, placement, classes) for findings in (reference, found))
    deviation = compare_detections(ours, theirs, threshold, tolerance.score)
    sure = threshold + tolerance.score
    unsure = sum(finding.detection_score <= sure for finding in (*reference, *found))
    close_calls = 0
    is_sure = ours["scores"][0] > sure
    if np.isfinite(deviation.box_px) and is_sure.any():
        partner = iou_matrix(ours["boxes"][0][is_sure], theirs["boxes"][0]).argmax(1)
        if len(set(partner.tolist())) < len(partner):
            deviation = _NO_PARTNER
        clear, close_calls = _other_classes(
            ours["probabilities"][0][is_sure], theirs["probabilities"][0][partner], tolerance.probability
        )
        deviation = deviation.worst(Deviation(0, 0, 0, clear))
    return Parity(deviation, len(found), len(reference), unsure, close_calls)


def _other_classes(ours: np.ndarray, theirs: np.ndarray, slack: float) -> tuple[int, int]:
    """How many cells have another class although ours was clear, and how many because it was not."""
    ranked = np.sort(ours, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 2 * slack
    other = ours.argmax(1) != theirs.argmax(1)
    return int((other & clear).sum()), int((other & ~clear).sum())


def _outputs(findings: Sequence[Finding], placement: Letterbox, classes: Sequence[str]) -> Outputs:
    """As a detector gives them, with one unused place at the end."""
    rows = len(findings) + 1
    boxes, scores = np.zeros((1, rows, 4), np.float32), np.zeros((1, rows), np.float32)
    probabilities = np.zeros((1, rows, len(classes)), np.float32)
    for row, finding in enumerate(findings):
        boxes[0, row] = placement.to_tile(np.array([finding.box_xyxy], np.float32))[0]
        scores[0, row] = finding.detection_score
        probabilities[0, row] = [finding.probabilities[name] for name in classes]
    return {"boxes": boxes, "scores": scores, "probabilities": probabilities}
