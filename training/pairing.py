"""What was said of each annotated cell: the challenge's pairing and the one-to-one match, image by image.

From these records every figure is made, at once or later: `cells.csv` of an evaluation holds them, so that
two systems can be compared without reading an image again.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.cells import Finding
from edge.geometry import Boxes
from edge.matching import match_one_to_one
from training import metric
from training.annotations import LEUKOCYTE_WITHOUT_CLASS, AnnotatedImage
from training.errors import AnnotationError

CELLS_CSV = "cells.csv"
"""In the folder of an evaluation."""

_CORNERS = ("x1", "y1", "x2", "y2")
CELL_COLUMNS = (
    *("NAME", "source", *_CORNERS, "class", "paired_class", "giou"),
    *("found_class", "class_score", "detection_score"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A true box with what was said of it by findings from the working threshold on.

    Attributes:
        box_xyxy: pixels of the image.
        truth: its class; None for a leukocyte without one.
        nearest: class of the finding that the challenge pairs with it; None in an image without findings.
        giou: of that finding, -1 without one.
        found: class of the finding that is matched one to one; None for a missed cell.
        class_score, detection_score: of that match; None for a missed cell.
    """

    image: str
    source: str
    box_xyxy: tuple[float, ...]
    truth: str | None
    nearest: str | None
    giou: float
    found: str | None
    class_score: float | None
    detection_score: float | None


@dataclass(frozen=True, slots=True)
class Detection:
    """A finding, and whether it was matched one to one with a true box."""

    image: str
    source: str
    box_xyxy: tuple[float, ...]
    label: str
    class_score: float
    detection_score: float
    matched: bool


def pair(
    images: Sequence[AnnotatedImage], predictions: Mapping[str, Sequence[Finding]], working_threshold: float
) -> tuple[list[Cell], list[Detection]]:
    """All cells of all images, and all findings, also those below the working threshold.

    Args:
        predictions: findings by `AnnotatedImage.name`; an image without an entry has none.
    """
    cells: list[Cell] = []
    detections: list[Detection] = []
    for image in images:
        of_image = _pair_image(image, predictions.get(image.name, ()), working_threshold)
        cells += of_image[0]
        detections += of_image[1]
    return cells, detections


def _pair_image(
    image: AnnotatedImage, findings: Sequence[Finding], working_threshold: float
) -> tuple[list[Cell], list[Detection]]:
    findings = sorted(findings, key=lambda finding: -finding.detection_score)
    boxes: Boxes = np.array([finding.box_xyxy for finding in findings], np.float32).reshape(-1, 4)
    matches = match_one_to_one(image.boxes_xyxy, boxes, [one.detection_score for one in findings])
    n_working = sum(finding.detection_score >= working_threshold for finding in findings)
    nearest, giou = metric.best_by_giou(image.boxes_xyxy, boxes[:n_working])
    match_of = {int(cell): findings[place] for place, cell in enumerate(matches[:n_working]) if cell >= 0}
    cells = []
    for place, truth in enumerate(image.labels):
        match = match_of.get(place)
        cells.append(
            Cell(
                image=image.name,
                source=image.source,
                box_xyxy=tuple(map(float, image.boxes_xyxy[place])),
                truth=truth,
                nearest=findings[nearest[place]].label if nearest[place] >= 0 else None,
                giou=float(giou[place]),
                found=match.label if match else None,
                class_score=match.class_score if match else None,
                detection_score=match.detection_score if match else None,
            )
        )
    detections = [
        Detection(
            image.name,
            image.source,
            one.box_xyxy,
            one.label,
            one.class_score,
            one.detection_score,
            bool(match >= 0),
        )
        for one, match in zip(findings, matches, strict=True)
    ]
    return cells, detections


def write_cells(cells: Iterable[Cell], false: Iterable[Detection], path: Path) -> None:
    """One row a true box (WBC without a class), then one a false detection, whose class is empty.

    The file is written whole or not at all.
    """
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(CELL_COLUMNS)
        for cell in cells:
            truth = cell.truth or LEUKOCYTE_WITHOUT_CLASS
            said = (cell.nearest or "", f"{cell.giou:.6f}", cell.found or "")
            scores = (_text(cell.class_score), _text(cell.detection_score))
            rows.writerow([cell.image, cell.source, *map(_text, cell.box_xyxy), truth, *said, *scores])
        for one in false:
            scores = (_text(one.class_score), _text(one.detection_score))
            rows.writerow([one.image, one.source, *map(_text, one.box_xyxy), "", "", "", one.label, *scores])
    partial.replace(path)


def read_cells(path: Path) -> tuple[list[Cell], list[Detection]]:
    """What `write_cells` wrote: the cells, and the false detections.

    Raises:
        AnnotationError: the file is missing or no such file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")  # a line that was cut off has cells that are no numbers
            rows = list(reader)
        if tuple(reader.fieldnames or ()) != CELL_COLUMNS:
            raise ValueError(f"its columns are {','.join(reader.fieldnames or ())}")
        cells = [_cell(row) for row in rows if row["class"]]
        return cells, [_false(row) for row in rows if not row["class"]]
    except (OSError, ValueError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise AnnotationError(
            f"{path} is no list of cells ({why}); run python -m training.evaluate with this version again."
        ) from error


def _cell(row: Mapping[str, str]) -> Cell:
    return Cell(
        image=row["NAME"],
        source=row["source"],
        box_xyxy=tuple(float(row[corner]) for corner in _CORNERS),
        truth=None if row["class"] == LEUKOCYTE_WITHOUT_CLASS else row["class"],
        nearest=row["paired_class"] or None,
        giou=float(row["giou"]),
        found=row["found_class"] or None,
        class_score=_number(row["class_score"]),
        detection_score=_number(row["detection_score"]),
    )


def _false(row: Mapping[str, str]) -> Detection:
    box = tuple(float(row[corner]) for corner in _CORNERS)
    scores = float(row["class_score"]), float(row["detection_score"])
    return Detection(row["NAME"], row["source"], box, row["found_class"], *scores, matched=False)


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"


def _number(text: str) -> float | None:
    return float(text) if text else None
