"""CSV files as people have them: written by programs, and by the spreadsheets of several countries."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
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
    of. What is not UTF-8, or UTF-16 with its mark, is read as Windows' own code for western Europe. A record
    of blank cells alone is blank, too: spreadsheets write such for rows whose cells were emptied.

    Args:
        needed: columns that must be there.

    Raises:
        AnnotationError: the file cannot be read, a quotation mark is not closed, or the first line lacks a
            column or names one twice.
    """
    try:
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read as a CSV file ({error}); check the path.") from error
    header = text.split("\n", 1)[0]
    lines = _lines(path, text, max(_SEPARATORS, key=header.count))
    columns = tuple(column.strip() for column in next(lines, (0, []))[1])
    records = tuple(_record(line, columns, cells) for line, cells in lines if any(map(str.strip, cells)))
    if missing := [column for column in needed if column not in columns]:
        raise AnnotationError(
            f"{path} has no column {', '.join(missing)}, only {', '.join(columns) or 'an empty first line'}; "
            f"its first line must name {','.join(needed)}."
        )
    if twice := [column for column in dict.fromkeys(columns) if column and columns.count(column) > 1]:
        raise AnnotationError(
            f"{path} has more than one column {', '.join(twice)}, of which nobody can tell which counts; "
            "remove or rename the others."
        )
    return columns, records


def _lines(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record, with the line on which it ends.

    A quotation mark that is not closed would make one cell of all rows up to the next one.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 0
    try:
        for cells in reader:
            line = reader.line_num
            yield line, cells
    except csv.Error as error:
        raise AnnotationError(
            f"{path} cannot be read as a CSV file from line {line + 1} on ({error}); close the quotation "
            "mark there, or remove it."
        ) from error


def _record(line: int, columns: Sequence[str], cells: Sequence[str]) -> Record:
    whole = [*cells, *[""] * (len(columns) - len(cells))]
    return Record(line, dict(zip(columns, whole, strict=False)), tuple(whole[len(columns) :]))


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # a spreadsheet's "Unicode text"
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
