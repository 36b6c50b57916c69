"""The journal as it may be read while the station writes it.

Rows come in pages that are read at once: a transaction that stays open (a list in a pager over night) would
keep the station from folding its write-ahead log back.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.cells import Finding, Unlikeness
from edge.errors import JournalError
from edge.journal_file import JOURNAL_NAME
from edge.journal_tool.access import as_reading_errors, open_existing, version_at_rest, version_of
from edge.records import FileStamp, State, Write

_PAGE = 1000
_COLUMNS = (
    "id, path, size_bytes, mtime_ns, inode, sha256, state, reason, tries, json_array_length(findings), "
    "width, height, latency_ms, bundle, engine, finished_at, "
)
_UNLIKE_COLUMNS = ("unlike_training", "unlike_because")
"""A journal that no newer version has opened yet is without them."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One entry of an image: a path may have several, one for each version or time that it was asked for.

    Attributes:
        path: as the file system has it.
        sha256: of the file's bytes; None if they were not read.
        leukocytes: how many findings; None if there is no answer.
        size_wh: pixels of the decoded image.
        finished_at: UTC, ISO 8601 with milliseconds; None while pending, as are bundle, engine, latency_ms.
        unlikeness: from the training images; None if it was not compared.
    """

    image_id: int
    path: bytes
    stamp: FileStamp | None
    sha256: bytes | None
    state: State
    reason: str
    tries: int
    leukocytes: int | None
    size_wh: tuple[int, int] | None
    latency_ms: float | None
    bundle: str | None
    engine: str | None
    finished_at: str | None
    unlikeness: Unlikeness | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> "ImageEntry":
        image_id, path, size_bytes, mtime_ns, inode, sha256, state, reason, tries, leukocytes = row[:10]
        width, height, latency_ms, bundle, engine, finished_at, unlike, because = row[10:]
        stamp = None if size_bytes is None else FileStamp(size_bytes, mtime_ns, inode)
        size_wh = None if width is None else (width, height)
        return cls(
            *(image_id, path, stamp, sha256, State(state), reason, tries, leukocytes, size_wh),
            *(latency_ms, bundle, engine, finished_at),
            None if unlike is None else Unlikeness(unlike, because),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A CSV file that the journal knows.

    Attributes:
        end: how many bytes it has.
        is_current: rows go on here; False for a part that was left alone.
    """

    output: str
    file: str
    end: int
    is_current: bool


@dataclass(frozen=True, slots=True)
class StoredWrite:
    """Bytes of a CSV file, and the entry that they belong to; None for headers and rows that moved."""

    image_id: int | None
    write: Write


_IS_LATEST = "NOT EXISTS (SELECT 1 FROM images AS newer WHERE newer.path = one.path AND newer.id > one.id)"


class JournalReader:
    """Reads the journal in a folder. For one thread.

    Raises:
        JournalError: there is none, or it is damaged, busy, not to be read, or of a newer version; later
            also: the station has started, and this user may not read beside it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self._at_rest = version_at_rest(self.path)
        self._db = open_existing(self.path, "ro", at_rest=self._at_rest is not None)
        known = {name for (name,) in self._rows("SELECT name FROM pragma_table_info('images')", ())}
        self._columns = _COLUMNS + ", ".join(c if c in known else f"NULL AS {c}" for c in _UNLIKE_COLUMNS)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()

    def images(
        self, *, state: State | None = None, since: str | None = None, newest: int | None = None
    ) -> Iterator[ImageEntry]:
        """Entries in the order in which they were begun.

        Args:
            state: only these, and of files that have no later entry.
            since: only those answered at this time or later; written as `ImageEntry.finished_at`.
            newest: only so many, the last ones.
        """
        given = {f"state = :state AND {_IS_LATEST}": state, "finished_at >= :since": since}
        where = "".join(f" AND {condition}" for condition, value in given.items() if value is not None)
        values: dict[str, object] = {"state": state, "since": since, "newest": newest, "after": 0}
        if newest is not None:
            ((first,),) = self._rows(
                f"SELECT min(id) FROM (SELECT id FROM images AS one WHERE id > 0{where} "
                "ORDER BY id DESC LIMIT :newest)",
                values,
            )
            values["after"] = (first or 1) - 1
        query = f"SELECT {self._columns} FROM images AS one WHERE id > :after{where}"
        yield from map(self._entry, self._pages(query, values))

    def latest_images(self, state: State | None = None) -> Iterator[ImageEntry]:
        """The last entry of each path, those in a state if one is given."""
        where = "" if state is None else "state = :state AND "
        query = f"SELECT {self._columns} FROM images AS one WHERE {where}id > :after AND {_IS_LATEST}"
        return map(self._entry, self._pages(query, {"state": state, "after": 0}))

    def image(self, image_id: int) -> ImageEntry | None:
        """One entry, None if there is none of this number."""
        rows = self._rows(f"SELECT {self._columns} FROM images WHERE id = ?", (image_id,))
        return self._entry(rows[0]) if rows else None

    def entries(self, path: bytes) -> list[ImageEntry]:
        """All entries of a path, in order."""
        rows = self._rows(f"SELECT {self._columns} FROM images WHERE path = ? ORDER BY id", (path,))
        return [self._entry(row) for row in rows]

    def paths_named(self, word: str) -> list[bytes]:
        """Paths that a word names: itself a path, else a file's name, else the beginning of a sha256."""
        path = os.fsencode(os.path.abspath(word))  # noqa: PTH100, absolute() keeps the ".." of a path
        rows = self._rows("SELECT path FROM images WHERE path = ? LIMIT 1", (path,))
        grouped = "SELECT path FROM images WHERE {} GROUP BY path ORDER BY min(id)"
        if not rows and "/" not in word:
            tail = b"/" + os.fsencode(word)
            rows = self._rows(grouped.format("substr(path, -length(:tail)) = :tail"), {"tail": tail})
        if not rows and re.fullmatch("[0-9a-fA-F]{4,64}", word):
            ends = tuple(bytes.fromhex(word.ljust(64, digit)) for digit in "0f")
            rows = self._rows(grouped.format("sha256 BETWEEN ? AND ?"), ends)
        return [path for (path,) in rows]

    def findings(self, image_id: int) -> list[Finding]:
        """The leukocytes of an entry, none if it has no answer."""
        ((text,),) = self._rows("SELECT findings FROM images WHERE id = ?", (image_id,))
        with as_reading_errors(self.path):
            cells = json.loads(text or "[]")
            return [Finding(**{**cell, "box_xyxy": tuple(cell["box_xyxy"])}) for cell in cells]

    def counts(self) -> dict[State, int]:
        """How many entries are in each state; states without any are left out."""
        rows = self._rows("SELECT state, count(*) FROM images GROUP BY state", ())
        with as_reading_errors(self.path):
            return {State(state): count for state, count in rows}

    def writes(self) -> Iterator[StoredWrite]:
        """All bytes of all CSV files, in the order in which they were committed."""
        query = "SELECT id, image_id, output, file, offset, data FROM writes WHERE id > :after"
        for _, image_id, *write in self._pages(query, {"after": 0}):
            yield StoredWrite(image_id, Write(*write))

    def write_count(self) -> int:
        """About how many writes there are: the number of the last one."""
        ((number,),) = self._rows("SELECT max(id) FROM writes", ())
        return int(number or 0)

    def writes_of(self, image_id: int) -> list[Write]:
        """Where the rows of an entry stand; rows that moved to another part stand in both."""
        rows = self._rows(
            "SELECT output, file, offset, data FROM writes WHERE image_id = :id OR (image_id IS NULL AND "
            "data IN (SELECT data FROM writes WHERE image_id = :id)) ORDER BY id",
            {"id": image_id},
        )
        return [Write(*row) for row in rows]

    def writes_in(self, file: str) -> Iterator[StoredWrite]:
        """All bytes of one CSV file, in the order in which they stand."""
        query = (
            "SELECT id, image_id, output, file, offset, data FROM writes "
            "WHERE file = :file AND offset > :after"
        )
        for _, image_id, *write in self._pages(query, {"file": file, "after": -1}, "offset", 4):
            yield StoredWrite(image_id, Write(*write))

    def header(self, output: str) -> bytes | None:
        """The first line of an output, None if nothing was ever written to it."""
        query = "SELECT data FROM writes WHERE output = ? AND offset = 0 ORDER BY id DESC LIMIT 1"
        rows = self._rows(query, (output,))
        return rows[0][0] if rows else None

    def parts(self) -> list[Part]:
        """The CSV files, in the order of their names."""
        files = [file for (file,) in self._rows("SELECT DISTINCT file FROM writes ORDER BY file", ())]
        return [part for file in files if (part := self.part(file)) is not None]

    def part(self, file: str) -> Part | None:
        """What the journal says now of a CSV file, None if it does not know it."""
        rows = self._rows(
            "SELECT output, offset + length(data), file = (SELECT file FROM writes AS last WHERE "
            "last.output = writes.output ORDER BY id DESC LIMIT 1) FROM writes "
            "WHERE file = ? ORDER BY offset DESC LIMIT 1",
            (file,),
        )
        return Part(rows[0][0], file, rows[0][1], bool(rows[0][2])) if rows else None

    def faults(self) -> list[str]:
        """What SQLite finds wrong with its file; nothing if it is whole."""
        return [text for (text,) in self._rows("PRAGMA integrity_check", ()) if text != "ok"]

    def _pages(
        self, query: str, values: dict[str, object], key: str = "id", column: int = 0
    ) -> Iterator[Any]:
        """Rows of a query by a key that grows: `query` asks for those with a key after :after."""
        while rows := self._rows(f"{query} ORDER BY {key} LIMIT {_PAGE}", values):
            yield from rows
            values = {**values, "after": rows[-1][column]}

    def _entry(self, row: Sequence[Any]) -> ImageEntry:
        with as_reading_errors(self.path):
            return ImageEntry.of(row)

    def _rows(self, query: str, values: Any) -> list[Any]:
        try:
            with as_reading_errors(self.path):
                return self._db.execute(query, values).fetchall()
        finally:
            if self._at_rest not in (None, version_of(self.path)):
                raise JournalError(
                    f"the journal {str(self.path)!r} was written while it was read, so the station has "
                    "started; try again."
                )
