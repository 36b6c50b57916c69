"""Rows of the challenge's submission from findings: always as many as are asked for, always valid."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.cells import Finding, cell_class
from edge.names import as_text
from training.csv_files import read_csv
from training.errors import AnnotationError

COLUMNS = ("trustii_id", "NAME", "x1", "y1", "x2", "y2", "class")
COMMONEST_CLASS = "PNN"
"""Of the challenge's train.csv."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Expected:
    """A row of test.csv: a box of the image is wanted."""

    trustii_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of submission.csv; the box in whole pixels of the image."""

    trustii_id: str
    name: str
    box_xyxy: Box
    label: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of one image.

    Attributes:
        size_wh: None where not even the header of the file can be read.
        findings: the surest first.
        fault: why it could not be read, "" if it could.
    """

    size_wh: tuple[int, int] | None
    findings: tuple[Finding, ...]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """The rows, in the order of test.csv, and what was done where there was too little to say.

    Attributes:
        n_weak: rows from findings below the working threshold, for want of others.
        n_repeated: rows that repeat their image's surest finding.
        guessed: names of images that could not be read or show nothing, with the reason: their rows are
            the whole image and the commonest class.
    """

    rows: tuple[Row, ...]
    n_weak: int
    n_repeated: int
    guessed: dict[str, str]


def read_test(path: Path) -> tuple[list[Expected] | None, list[str]]:
    """The rows of test.csv, and the names of its images, each once.

    Returns:
        None in place of the rows where the file has no column trustii_id, which leaves the number open.

    Raises:
        AnnotationError: the file cannot be read as such.
    """
    columns, records = read_csv(path, ("NAME",))
    rows = [{column: cell.strip() for column, cell in one.cells.items()} for one in records]
    if blank := [one.line for one, row in zip(records, rows, strict=True) if not row["NAME"]]:
        raise AnnotationError(f"{path} has no NAME on line {blank[0]}; mend or remove it.")
    if not rows:
        raise AnnotationError(f"{path} has a header and no rows; give a file with at least one image.")
    names = list(dict.fromkeys(row["NAME"] for row in rows))
    if "trustii_id" not in columns:
        return None, names
    ids = Counter(row["trustii_id"] for row in rows)
    if bad := [trustii_id for trustii_id, count in ids.items() if not trustii_id or count > 1]:
        raise AnnotationError(
            f"{path} has {ids[bad[0]]} rows with the trustii_id {bad[0]!r}; each row needs one of its own."
        )
    return [Expected(row["trustii_id"], row["NAME"]) for row in rows], names


def expected_from(readings: Mapping[str, Reading], threshold: float) -> list[Expected]:
    """Where nobody tells how many boxes there are: one a finding from the threshold on.

    An image without gets one all the same. The ids are counted from 1.
    """
    names = [
        name
        for name, reading in readings.items()
        for _ in range(max(1, sum(one.detection_score >= threshold for one in reading.findings)))
    ]
    return [Expected(str(number), name) for number, name in enumerate(names, 1)]


def fill(expected: Sequence[Expected], readings: Mapping[str, Reading], threshold: float) -> Submission:
    """A row for each that is expected.

    An image's findings are taken in the order of their scores, also those below the threshold; when there
    are no more, the surest is repeated, which the challenge's pairing allows. An image without any gets its
    whole area and the commonest class of the other images.
    """
    commonest = _commonest(readings, threshold)
    usual_wh = Counter(one.size_wh for one in readings.values() if one.size_wh).most_common(1)
    taken: Counter[str] = Counter()
    rows, guessed, n_weak, n_repeated = [], {}, 0, 0
    for one in expected:
        reading = readings[one.name]
        width, height = reading.size_wh or (usual_wh[0][0] if usual_wh else (360, 363))
        place = taken[one.name]
        taken[one.name] += 1
        if not reading.findings:
            guessed[one.name] = reading.fault or "nothing found"
            rows.append(Row(one.trustii_id, one.name, (0, 0, width, height), commonest))
            continue
        if place >= len(reading.findings):
            place = 0
            n_repeated += 1
        finding = reading.findings[place]
        n_weak += finding.detection_score < threshold
        box = whole_pixels(finding.box_xyxy, (width, height))
        rows.append(Row(one.trustii_id, one.name, box, cell_class(finding.label).code))
    return Submission(tuple(rows), n_weak, n_repeated, guessed)


def _commonest(readings: Mapping[str, Reading], threshold: float) -> str:
    labels = Counter(
        cell_class(one.label).code
        for reading in readings.values()
        for one in reading.findings
        if one.detection_score >= threshold
    )
    return labels.most_common(1)[0][0] if labels else COMMONEST_CLASS


def whole_pixels(box_xyxy: Sequence[float], size_wh: tuple[int, int]) -> Box:
    """The box in whole pixels, inside the image and at least one pixel wide and high."""
    limits = np.array([*size_wh, *size_wh])
    x1, y1, x2, y2 = (int(side) for side in np.clip(np.round(box_xyxy), 0, limits))
    x1, y1 = min(x1, size_wh[0] - 1), min(y1, size_wh[1] - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def csv_text(rows: Sequence[Row]) -> str:
    """submission.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((one.trustii_id, as_text(one.name), *one.box_xyxy, one.label) for one in rows)
    return text.getvalue()
