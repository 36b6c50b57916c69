"""Whether two ways found the same: a faster way that finds something else is no faster way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.cells import Finding
from edge.geometry import Boxes
from edge.matching import MATCH_IOU, match_one_to_one


@dataclass(frozen=True, slots=True)
class Agreement:
    """Findings of a way against those of the reference, over all images.

    Attributes:
        reference_cells, cells: how many each found.
        matched: pairs with an IoU of at least 0.5, one to one.
        same_class: pairs of one class.
        worst_box_px, worst_score, worst_probability: largest difference in a pair: of a coordinate in image
            pixels, of the detection scores, of the probability of any class.
    """

    reference_cells: int
    cells: int
    matched: int
    same_class: int
    worst_box_px: float
    worst_score: float
    worst_probability: float


def agreement(reference: Sequence[Sequence[Finding]], found: Sequence[Sequence[Finding]]) -> Agreement:
    """Compare findings image by image."""
    pairs = [pair for ours, theirs in zip(reference, found, strict=True) for pair in _matched(ours, theirs)]
    return Agreement(
        reference_cells=sum(map(len, reference)),
        cells=sum(map(len, found)),
        matched=len(pairs),
        same_class=sum(ours.label == theirs.label for ours, theirs in pairs),
        worst_box_px=max((_box_px(*pair) for pair in pairs), default=0.0),
        worst_score=max((abs(a.detection_score - b.detection_score) for a, b in pairs), default=0.0),
        worst_probability=max((_probability(*pair) for pair in pairs), default=0.0),
    )


def _matched(ours: Sequence[Finding], theirs: Sequence[Finding]) -> list[tuple[Finding, Finding]]:
    scores = [finding.detection_score for finding in theirs]
    matches = match_one_to_one(_boxes(ours), _boxes(theirs), scores, MATCH_IOU)
    return [(ours[match], finding) for match, finding in zip(matches, theirs, strict=True) if match >= 0]


def _boxes(findings: Sequence[Finding]) -> Boxes:
    return np.array([finding.box_xyxy for finding in findings], np.float32).reshape(-1, 4)


def _box_px(ours: Finding, theirs: Finding) -> float:
    return float(np.abs(np.subtract(ours.box_xyxy, theirs.box_xyxy)).max())


def _probability(ours: Finding, theirs: Finding) -> float:
    # Two bundles may know different classes.
    labels = ours.probabilities.keys() | theirs.probabilities.keys()
    return max(
        abs(ours.probabilities.get(label, 0.0) - theirs.probabilities.get(label, 0.0)) for label in labels
    )
