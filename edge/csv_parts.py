"""The CSV files read back: every row with the bytes that it is made of and their place."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

from edge.errors import JournalError
from edge.projection import part_name
from edge.records import Write


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
        """The text of a cell. JournalError: the row has other columns than the file."""
        if self.cells is None:
            raise self.contradiction("has more or fewer cells than there are columns")
        return self.cells[column]

    def number(self, column: str) -> float:
        """The number in a cell. JournalError: there is none."""
        try:
            return float(self[column])
        except ValueError:
            raise self.contradiction(f"has {self[column]!r} as {column}") from None

    @property
    def digest(self) -> bytes | None:
        """The sha256 of the image, None if it has none. JournalError: it is no hexadecimal number."""
        try:
            return bytes.fromhex(self["image_sha256"]) or None
        except ValueError:
            raise self.contradiction(f"has {self['image_sha256']!r} as image_sha256") from None

    def contradiction(self, what: str) -> JournalError:
        """An error that names this row."""
        return JournalError(
            f"the journal cannot be made anew from {str(self.path)!r}: the row at byte {self.write.offset} "
            f"{what}; put back the file as the station wrote it, or the right journal, or move the CSV files "
            "away to start anew."
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
            for line in _records(file):
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
    """
    parts: list[Part] = []
    for number in count(1):
        path = folder / part_name(output, number)
        if not path.is_file():
            return parts
        with path.open("rb") as file:
            header = next(_records(file), b"")
        found = tuple(_cells(header) or ())
        if set(columns) <= set(found):
            parts.append(Part(path, output, number, header, found))
        elif strict and columns[-1].encode() in header:
            raise JournalError(
                f"the journal cannot be made anew from {str(path)!r}: its first line was changed; put "
                "back the file as the station wrote it, or the right journal, or move the CSV files away to "
                "start anew."
            )
    raise AssertionError("count() has no end")


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends; one that ends inside quotes goes on in the next."""
    record = b""
    for line in file:
        record += line
        if record.endswith(b"\n") and record.count(b'"') % 2 == 0:
            yield record
            record = b""


def _cells(record: bytes) -> list[str] | None:
    try:
        return next(csv.reader(io.StringIO(record.decode("utf-8-sig"), newline=""), strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return None
