"""The CSV files read back: every row with the bytes that it is made of and their place."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge.errors import JournalError
from edge.records import Write


class ContradictionError(JournalError):
    """The CSV files contradict themselves, or hold what the station did not write."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a CSV file.

    Attributes:
        write: its bytes, and where they stand.
        cells: by column; None if there are more or fewer of them than columns.
    """

    path: Path
    write: Write
    cells: dict[str, str] | None

    def __getitem__(self, column: str) -> str:
        """The text of a cell. ContradictionError: the row has other columns than the file."""
        if self.cells is None:
            raise self.contradiction("has more or fewer cells than there are columns")
        return self.cells[column]

    def get(self, column: str) -> str:
        """As `[column]`; empty where an older version began the file without that column."""
        return self[column] if self.cells is None or column in self.cells else ""

    def number(self, column: str) -> float:
        """The number in a cell, without a sign. ContradictionError: there is none."""
        if not re.fullmatch(r"[0-9]+(\.[0-9]*)?", self[column], re.ASCII):
            raise self.contradiction(f"has {self[column]!r} as {column}")
        return float(self[column])

    @property
    def digest(self) -> bytes | None:
        """The sha256 of the image, None if it has none. ContradictionError: it is no hexadecimal number."""
        try:
            return bytes.fromhex(self["image_sha256"]) or None
        except ValueError:
            raise self.contradiction(f"has {self['image_sha256']!r} as image_sha256") from None

    def contradiction(self, what: str) -> ContradictionError:
        """An error that names this row."""
        return ContradictionError(
            f"the journal cannot be made anew from {str(self.path)!r}: the row at byte {self.write.offset} "
            f"{what}; put back the file as the station wrote it, or the right journal, or move journal and "
            "CSV files away to start anew."
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an output that begins with the station's header.

    Attributes:
        number: 1 for results.csv, 2 for results.2.csv ...
    """

    path: Path
    output: str
    number: int
    header: bytes
    columns: tuple[str, ...]

    def rows(self, position: int | None = None) -> Iterator[Row]:
        """Its whole rows, from a position on or all; a last line without an end is none."""
        offset = len(self.header) if position is None else position
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in _records(file, len(self.columns)):
                cells = _cells(line)
                named = None
                if cells is not None and len(cells) == len(self.columns):
                    named = dict(zip(self.columns, cells, strict=True))
                yield Row(self.path, Write(self.output, self.path.name, offset, line), named)
                offset += len(line)


def parts_of(folder: Path, output: str, columns: tuple[str, ...], *, strict: bool = False) -> list[Part]:
    """The files of an output that have at least these columns, in order; files of somebody else are left out.

    Args:
        strict: refuse a file that was the station's, and was saved so that its columns cannot be told.

    Raises:
        ContradictionError: by `strict`.
        OSError: the folder or a file cannot be read; one that may not be read is left out, but for `strict`.
    """
    parts = []
    for number, path in _numbered(folder, output):
        try:
            with path.open("rb") as file:
                header = next(_records(file), b"")
        except PermissionError:
            if strict:
                raise
            continue
        found = tuple(_cells(header) or ())
        if set(columns) <= set(found):
            parts.append(Part(path, output, number, header, found))
        elif strict and columns[-1].encode() in header:
            raise ContradictionError(
                f"the journal cannot be made anew from {str(path)!r}: its first line was changed; put "
                "back the file as the station wrote it, or the right journal, or move journal and CSV files "
                "away to start anew."
            )
    return parts


def _numbered(folder: Path, output: str) -> list[tuple[int, Path]]:
    """Files that have the name of a part, in order; a number may be missing."""
    names = re.compile(rf"{output}(?:\.([0-9]+))?\.csv")
    found = ((names.fullmatch(path.name), path) for path in folder.iterdir() if path.is_file())
    return sorted((int(name[1] or 1), path) for name, path in found if name)


def _records(file: BinaryIO, columns: int = 0) -> Iterator[bytes]:
    """Lines with their ends; one that ends inside quotes goes on in the next.

    What is left at the end is given, too, if whole rows of so many columns are in it: a quote too many.
    """
    lines: list[bytes] = []
    is_quoted = False
    for line in file:
        lines.append(line)
        is_quoted ^= line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not is_quoted:
            yield b"".join(lines)
            lines.clear()
    record = b"".join(lines)
    if columns and any(len(_cells(line) or ()) == columns for line in record.splitlines()[1:]):
        yield record


def _cells(record: bytes) -> list[str] | None:
    try:
        return next(csv.reader(io.StringIO(record.decode("utf-8-sig"), newline=""), strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return None
