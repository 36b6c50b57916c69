"""Annotations curated by what a network says that never saw them: of one image, without touching a file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import cv2
import numpy as np

from edge.cells import Finding
from edge.geometry import Boxes, Image
from edge.matching import MATCH_IOU, match_one_to_one
from training.annotations import LEUKOCYTE_WITHOUT_CLASS
from training.audit.cleaning import CleanRow, number_text
from training.audit.faults import Action, Change
from training.mistakes import FALSE_DETECTION, MISSED, WRONG_CLASS, Mistake

_JPEG = (".jpg", ".jpeg")


class Curated(StrEnum):
    """What the bundle and the annotations do not agree in."""

    GEOMETRY = "other geometry"
    CLASS = "other class"
    UNMATCHED_BOX = "box that was not found"
    UNMATCHED_FINDING = "finding without a box"


@dataclass(frozen=True, slots=True)
class CuratedImage:
    """What became of the rows of one image.

    Attributes:
        rows: those that stay.
        painted: boxes xyxy that are to be painted black, in pixels of the image.
        shown: what both do not agree in, but for geometry, as a picture shows it.
    """

    rows: tuple[CleanRow, ...]
    changes: tuple[Change, ...]
    painted: tuple[tuple[float, ...], ...]
    shown: tuple[Mistake, ...]


def curate_image(
    rows: Sequence[CleanRow],
    findings: Sequence[Finding],
    file: str,
    source: str = "",
    *,
    may_paint: bool = True,
    compare_classes: bool = True,
) -> CuratedImage:
    """Hold the rows of one image against what was found in it by a bundle that was trained without it.

    A row that is matched one to one, from an IoU of 0.5 on, takes the geometry of its finding in whole pixels
    and keeps its class. What is not matched is taken out and painted, on both sides.

    Args:
        findings: from the working threshold on; each may be matched.
        file: as the changes name it.
        may_paint: False leaves rows and regions that are not matched as they are.
        compare_classes: False for a bundle whose classes mean nothing.
    """
    matches = match_one_to_one(
        _boxes(row.box_xyxy for row in rows),
        _boxes(one.box_xyxy for one in findings),
        [one.detection_score for one in findings],
    )
    finding_of = {int(place): one for one, place in zip(findings, matches, strict=True) if place >= 0}
    lost = [row for place, row in enumerate(rows) if place not in finding_of]
    surplus = [one for one, place in zip(findings, matches, strict=True) if place < 0]
    kept: list[CleanRow] = []
    changes: list[Change] = []
    shown: list[Mistake] = []

    def tell(row: CleanRow | None, action: Action, fault: Curated, reason: str, after: str) -> None:
        line, before = (row.line, row.text) if row else (None, "")
        changes.append(Change(file, line, rows[0].name, action, fault, reason, before, after))

    def show(kind: str, box: tuple[float, ...], truth: str | None, found: Finding | None) -> None:
        score = None
        if found is not None:
            score = found.class_score if kind == WRONG_CLASS else found.detection_score
        label = found.label if found else None
        shown.append(Mistake(kind, rows[0].name, source, box, truth, label, score))

    for place, row in enumerate(rows):
        found = finding_of.get(place)
        now = _as_found(row, found) if found else row
        if found or not may_paint:
            kept.append(now)
        if found and now.text != row.text:
            reason = f"as it was found with a score of {found.detection_score:.2f}"
            tell(row, Action.MENDED, Curated.GEOMETRY, reason, now.text)
        if found and compare_classes and row.label not in (found.label, LEUKOCYTE_WITHOUT_CLASS):
            reason = f"{found.label} was found with a probability of {found.class_score:.2f}; the label stays"
            tell(row, Action.KEPT, Curated.CLASS, reason, now.text)
            show(WRONG_CLASS, now.box_xyxy, row.label, found)
    painted_too = "; painted black" if may_paint else ""
    for row in lost:
        reason = f"nothing was found that overlaps it by an IoU of {MATCH_IOU:g} or more{painted_too}"
        action, after = (Action.DROPPED, "") if may_paint else (Action.KEPT, row.text)
        tell(row, action, Curated.UNMATCHED_BOX, reason, after)
        show(MISSED, row.box_xyxy, row.label, None)
    for one in surplus:
        reason = f"a score of {one.detection_score:.2f}; perhaps a cell that nobody boxed{painted_too}"
        box = ",".join([*(number_text(round(corner)) for corner in one.box_xyxy), one.label])
        tell(None, Action.MENDED if may_paint else Action.KEPT, Curated.UNMATCHED_FINDING, reason, box)
        show(FALSE_DETECTION, one.box_xyxy, None, one)
    black = [row.box_xyxy for row in lost] + [one.box_xyxy for one in surplus] if may_paint else []
    return CuratedImage(tuple(kept), tuple(changes), tuple(black), tuple(shown))


def _boxes(boxes: Iterable[Iterable[float]]) -> Boxes:
    return np.array([tuple(box) for box in boxes], np.float32).reshape(-1, 4)


def _as_found(row: CleanRow, found: Finding) -> CleanRow:
    """With the finding's box in whole pixels, unless nothing is left of it so."""
    x1, y1, x2, y2 = (float(round(corner)) for corner in found.box_xyxy)
    return replace(row, box_xyxy=(x1, y1, x2, y2)) if x1 < x2 and y1 < y2 else row


def painted(rgb: Image, black: Iterable[Iterable[float]], kept: Iterable[Iterable[float]]) -> Image:
    """A copy with boxes painted black, but for what lies in a box that is kept: no kept cell loses a pixel.

    Args:
        rgb: uint8 [H, W, 3].
        black, kept: boxes xyxy in its pixels.
    """
    mask = np.zeros(rgb.shape[:2], np.bool_)
    for boxes, value in ((black, True), (kept, False)):
        for box in boxes:
            x1, y1, x2, y2 = box
            left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
            mask[top : max(int(np.ceil(y2)), 0), left : max(int(np.ceil(x2)), 0)] = value
    copy = rgb.copy()
    copy[mask] = 0
    return copy


def coded(rgb: Image, suffix: str) -> bytes:
    """The bytes of an image file, in the format of its suffix, so that it keeps its NAME.

    A JPEG is of quality 98 with colours at full resolution. Of a suffix that is not known: PNG.
    """
    suffix = suffix.lower()
    options = []
    if suffix in _JPEG:
        full = int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        options = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    known = suffix if suffix in (*_JPEG, ".png", ".bmp", ".tif", ".tiff") else ".png"
    return cv2.imencode(known, np.ascontiguousarray(rgb[..., ::-1]), options)[1].tobytes()
