"""CSV files as people have them: written by programs, and by the spreadsheets of several countries."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import AnnotationError

_SEPARATORS = ",;\t"


@dataclass(frozen=True, slots=True)
class Record:
    """One record below the header, as it is.

    Attributes:
        line: where it ends in the file, from 1.
        cells: text by column; a cell that the record lacks is empty.
        surplus: cells beyond the last column.
    """

    line: int
    cells: dict[str, str]
    surplus: tuple[str, ...] = ()


def read_csv(path: Path, needed: Sequence[str]) -> tuple[tuple[str, ...], tuple[Record, ...]]:
    """The columns of the first line, without spaces around them, and all records below it that are not blank.

    Cells are separated by commas, semicolons (French spreadsheets) or tabs, whichever the first line has most
    of. What is not UTF-8 is read as Windows' own code for western Europe.

    Args:
        needed: columns that must be there.

    Raises:
        AnnotationError: the file cannot be read or lacks a column.
    """
    try:
        text = _decoded(path.read_bytes())
        header = text.split("\n", 1)[0]
        separator = max(_SEPARATORS, key=header.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        columns = tuple(column.strip() for column in next(reader, ()))
        records = tuple(_record(reader.line_num, columns, cells) for cells in reader if cells)
    except (OSError, csv.Error) as error:
        raise AnnotationError(f"{path} cannot be read as a CSV file ({error}); check the path.") from error
    if missing := [column for column in needed if column not in columns]:
        raise AnnotationError(
            f"{path} has no column {', '.join(missing)}, only {', '.join(columns) or 'an empty first line'}; "
            f"its first line must name {','.join(needed)}."
        )
    return columns, records


def _record(line: int, columns: Sequence[str], cells: Sequence[str]) -> Record:
    whole = [*cells, *[""] * (len(columns) - len(cells))]
    return Record(line, dict(zip(columns, whole, strict=False)), tuple(whole[len(columns) :]))


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
