"""Annotation files read row by row, with nothing mended yet: what the trainers would refuse is read, too."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.names import as_text
from training.annotations import COLUMNS
from training.csv_files import Record, read_csv
from training.errors import AnnotationError


@dataclass(frozen=True, slots=True)
class Row(Record):
    """One row as the file has it."""

    @property
    def name(self) -> str:
        """The NAME without spaces around it."""
        return self.cells["NAME"].strip()

    @property
    def text(self) -> str:
        """The cells x1,y1,x2,y2,class."""
        return ",".join(self.cells[column] for column in COLUMNS[1:])


@dataclass(frozen=True, slots=True)
class Table:
    """One annotation file.

    Attributes:
        label: its name in the report, and that of the cleaned file: distinct among the tables of one audit.
        columns: of its header, in order.
        folders: where its images are looked for; none if its images are not looked at.
    """

    path: Path
    label: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    folders: tuple[Path, ...] = ()


def read_table(path: Path, label: str, folders: Sequence[Path] = ()) -> Table:
    """Read a CSV file, as `training.csv_files.read_csv` does; blank lines are no rows.

    Raises:
        AnnotationError: the file cannot be read, lacks a column or has no rows.
    """
    columns, records = read_csv(path, COLUMNS)
    if not records:
        raise AnnotationError(f"{path} has a header and no rows; give a file with at least one box.")
    rows = tuple(Row(one.line, one.cells, one.surplus) for one in records)
    return Table(path, label, columns, rows, tuple(folders))


def labels_of(paths: Sequence[Path]) -> list[str]:
    """Distinct names for the files: the file's own, with its folders before it where two share one.

    The files need not be there yet.

    Raises:
        AnnotationError: one file is given twice.
    """
    parts = [path.resolve().parts for path in paths]
    if repeated := [path for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1]:
        raise AnnotationError(f"{repeated[0]} was given twice; name each CSV file once.")
    parts = [tuple(map(as_text, own)) for own in parts]
    labels = [own[-1] for own in parts]
    for depth in range(2, max((len(own) for own in parts), default=1) + 1):
        shared = {label for label in labels if labels.count(label) > 1}
        labels = [
            "-".join(own[-depth:]).lstrip("/") if label in shared else label
            for own, label in zip(parts, labels, strict=True)
        ]
    return labels
