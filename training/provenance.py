"""What provenance.csv tells of each image: its source, perhaps its patient, size, or group of duplicates."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from edge.names import as_text
from training.csv_files import read_csv
from training.errors import AnnotationError

SOURCE, PATIENT, DUPLICATE_GROUP = "source", "patient", "duplicate_group"

MARKS = (PATIENT, DUPLICATE_GROUP)
"""Columns whose images are never parted."""

_KNOWN = (SOURCE, *MARKS, "width", "height")

FILE_NAME = "provenance.csv"
"""Looked for beside an annotation file."""

Provenance = Mapping[str, Mapping[str, str]]
"""Cells by column, by NAME."""


def read_provenance(path: Path) -> Provenance:
    """All columns of the file, without spaces around the cells; of rows with one NAME the last.

    Raises:
        AnnotationError: the file cannot be read, has no column NAME, or spells a column that counts with
            other letters, so that it would count for nothing.
    """
    columns, records = read_csv(path, ("NAME",))
    meant = {column: column.lower() for column in columns if column.lower() in _KNOWN}
    if wrong := [column for column, known in meant.items() if known not in columns]:
        raise AnnotationError(
            f"{path} has a column {wrong[0]}, and only {meant[wrong[0]]} is read, in small letters; "
            "rename it."
        )
    rows = [{column: cell.strip() for column, cell in one.cells.items() if column} for one in records]
    return {row["NAME"]: row for row in rows}


def provenance_of(csv_path: Path, given: Path | None) -> Provenance:
    """That of the file given, else of provenance.csv beside an annotation file, else nothing."""
    beside = csv_path.parent / FILE_NAME
    if given is None and not beside.exists():
        return {}
    return read_provenance(given or beside)


def source_of(image: Path | None, name: str, known: Mapping[str, str]) -> str:
    """The source by provenance, else the name of the folder that holds the image's images/, else unknown.

    Args:
        image: where it is, None if it is nowhere.
        name: its NAME, with the sub-folders of images/ in which it lies; an absolute one tells of none.
        known: its cells of provenance.csv.
    """
    if known.get(SOURCE):
        return known[SOURCE]
    if image is None:
        return "unknown"
    depth = 1 if PurePath(name).is_absolute() else len(PurePath(name).parts)
    return as_text(image.absolute().parents[depth - 1].resolve().parent.name) or "unknown"


def file_word(source: str) -> str:
    """A source as it stands in the names of files: letters, figures and what is harmless in them."""
    return re.sub(r"[^\w.-]+", "_", source)


def together_of(source: str, known: Mapping[str, str], marks: Sequence[str] = MARKS) -> tuple[str, ...]:
    """What an image must not be parted from: all images that share one of these texts.

    Each source numbers its own patients, so that patient 1 of another one is somebody else. All other marks
    hold across sources.

    Args:
        source: of the image, as of `source_of`.
    """
    scopes = {PATIENT: f"{source}\n"}
    return tuple(f"{mark}\n{scopes.get(mark, '')}{known[mark]}" for mark in marks if known.get(mark))


def write_provenance(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows with a NAME; a column is written if one of them has it."""
    columns = ["NAME", *dict.fromkeys(column for row in rows for column in row if column != "NAME")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
