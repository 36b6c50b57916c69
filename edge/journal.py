"""The journal: an SQLite ledger, the only truth about what was done with which file.

One transaction stores the final state of an image, its findings, and the exact bytes and place of what
is then written to the CSV files. The CSV files are therefore a projection: whatever a crash does to
them, `edge.results` rebuilds them from here. WAL with synchronous=FULL: a commit is on the disk when
the call returns, and a commit is all or nothing.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path

from edge.cells import Finding
from edge.errors import JournalError
from edge.locks import OutputFullError, fsync_folder, lock_folder
from edge.records import Answer, Entry, FileStamp, State, Write

JOURNAL_NAME = "journal.sqlite3"

_MIGRATIONS = (
    """
    CREATE TABLE images (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL,
        size_bytes INTEGER, mtime_ns INTEGER, inode INTEGER,
        sha256 BLOB,
        state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0,
        width INTEGER, height INTEGER, findings TEXT, latency_ms REAL,
        bundle TEXT, engine TEXT, finished_at TEXT
    );
    CREATE INDEX images_by_path ON images (path);
    CREATE INDEX images_by_sha256 ON images (sha256);
    CREATE INDEX images_by_state ON images (state);
    CREATE TABLE writes (
        id INTEGER PRIMARY KEY,
        image_id INTEGER REFERENCES images (id),
        output TEXT NOT NULL, file TEXT NOT NULL, offset INTEGER NOT NULL, data BLOB NOT NULL
    );
    CREATE UNIQUE INDEX writes_by_place ON writes (file, offset);
    """,
)
"""Statements that lead from schema version n to n + 1. Append only: stations in the field hold data."""


class Journal:
    """The ledger in a folder that nobody else may open meanwhile. For one thread.

    Raises:
        FolderLockedError: another process holds the folder.
        JournalError: the file is damaged, or was written by a newer version.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = lock_folder(folder, "journal.lock")
        self.path = folder / JOURNAL_NAME
        try:
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> sqlite3.Connection:
        with _as_journal_errors(self.path):
            db = sqlite3.connect(self.path, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                (fault,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if fault != "ok":
                    raise sqlite3.DatabaseError(fault)
                self._migrate(db)
                fsync_folder(self.path.parent)
            except BaseException:
                db.close()
                raise
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise JournalError(
                f"the journal {str(self.path)!r} has schema {version} and this version knows up to "
                f"{len(_MIGRATIONS)}; install the newer version again, or set other state and output folders."
            )
        for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN IMMEDIATE; {statements}; PRAGMA user_version = {number}; COMMIT;")

    def close(self) -> None:
        """Close the file and let others in; may be called twice."""
        self._db.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def latest(self, path: Path) -> Entry | None:
        """What is known of a path, None if nothing."""
        with _as_journal_errors(self.path):
            row = self._db.execute(
                "SELECT id, size_bytes, mtime_ns, inode, sha256, state, reason, tries FROM images "
                "WHERE path = ? ORDER BY id DESC LIMIT 1",
                (os.fsencode(path),),
            ).fetchone()
        if row is None:
            return None
        image_id, size_bytes, mtime_ns, inode, sha256, state, reason, tries = row
        stamp = None if size_bytes is None else FileStamp(size_bytes, mtime_ns, inode)
        return Entry(image_id, stamp, sha256, State(state), reason, tries)

    def knows(self, path: Path, stamp: FileStamp) -> bool:
        """Whether this version of a file has its final answer and need not be opened again.

        Not so for a file that had vanished and is back, and for one that could not be opened: moving it
        back and granting the right to read it leave size, time of change and inode as they were.
        """
        entry = self.latest(path)
        if entry is None or entry.stamp != stamp:
            return False
        return entry.state not in (State.PENDING, State.VANISHED) and entry.reason != "permission"

    def pending_paths(self) -> list[Path]:
        """Files that were begun and have no final answer."""
        with _as_journal_errors(self.path):
            rows = self._db.execute("SELECT path FROM images WHERE state = 'pending' ORDER BY id").fetchall()
        return [Path(os.fsdecode(path)) for (path,) in rows]

    def first_path(self, sha256: bytes) -> Path | None:
        """Where the same bytes were first read with a result (done or empty)."""
        with _as_journal_errors(self.path):
            row = self._db.execute(
                "SELECT path FROM images WHERE sha256 = ? AND state IN ('done', 'empty') ORDER BY id LIMIT 1",
                (sha256,),
            ).fetchone()
        return None if row is None else Path(os.fsdecode(row[0]))

    def claim(self, path: Path, stamp: FileStamp | None, sha256: bytes | None, reason: str = "") -> Entry:
        """Count a try before it is made, so that one that kills the process is counted, too.

        Survives the end of the process; a power cut may forget it, which saves an fsync per image.

        Returns:
            The pending entry; `tries` counts this one, and starts again at 1 when the bytes are new.
        """
        old = self.latest(path)
        version = astuple(stamp) if stamp else (None, None, None)
        with self._transaction(durable=False) as db:
            if old is None or old.state is not State.PENDING:
                tries = 1
                image_id = db.execute(
                    "INSERT INTO images (path, size_bytes, mtime_ns, inode, sha256, state, reason, tries) "
                    "VALUES (?, ?, ?, ?, ?, 'pending', ?, 1)",
                    (os.fsencode(path), *version, sha256, _text(reason)),
                ).lastrowid
                assert image_id is not None
            else:
                image_id, tries = old.image_id, 1
                if old.sha256 == sha256:
                    reason, tries = reason or old.reason, old.tries + 1
                db.execute(
                    "UPDATE images SET size_bytes = ?, mtime_ns = ?, inode = ?, sha256 = ?, reason = ?, "
                    "tries = ? WHERE id = ?",
                    (*version, sha256, _text(reason), tries, image_id),
                )
        return Entry(image_id, stamp, sha256, State.PENDING, reason, tries)

    def note(self, image_id: int, reason: str, tries: int) -> None:
        """Keep why a try of a pending image failed, and set how many count."""
        with self._transaction() as db:
            db.execute(
                "UPDATE images SET reason = ?, tries = ? WHERE id = ?", (_text(reason), tries, image_id)
            )

    def finish(self, claim: Entry, answer: Answer, writes: list[Write]) -> None:
        """Store the final state of an image and what is to be written for it, in one transaction."""
        width, height = answer.size_wh or (None, None)
        findings = json.dumps([_as_json(finding) for finding in answer.findings])
        with self._transaction() as db:
            db.execute(
                "UPDATE images SET state = ?, reason = ?, width = ?, height = ?, findings = ?, "
                "latency_ms = ?, bundle = ?, engine = ?, finished_at = ? WHERE id = ?",
                (
                    *(answer.state, _text(answer.reason), width, height, findings, answer.latency_ms),
                    *(answer.bundle, answer.engine, answer.finished_at, claim.image_id),
                ),
            )
            _insert_writes(db, claim.image_id, writes)

    def record_writes(self, writes: list[Write]) -> None:
        """Store bytes that belong to no new image: headers, and rows that move to another file."""
        with self._transaction() as db:
            _insert_writes(db, None, writes)

    def touch(self, image_id: int, stamp: FileStamp) -> None:
        """The same bytes have a new time of change, or stand in another file."""
        with self._transaction() as db:
            db.execute(
                "UPDATE images SET size_bytes = ?, mtime_ns = ?, inode = ? WHERE id = ?",
                (*astuple(stamp), image_id),
            )

    def last_write(self, output: str) -> Write | None:
        """The last bytes of an output, None if there are none."""
        with _as_journal_errors(self.path):
            row = self._db.execute(
                "SELECT output, file, offset, data FROM writes WHERE output = ? ORDER BY id DESC LIMIT 1",
                (output,),
            ).fetchone()
        return Write(*row) if row else None

    def writes_after(self, file: str, position: int) -> Iterator[Write]:
        """What stands in a file from a position on, in order; the first may begin before it."""
        with _as_journal_errors(self.path):
            yield from (
                Write(*row)
                for row in self._db.execute(
                    "SELECT output, file, offset, data FROM writes WHERE file = ?1 AND offset >= "
                    "(SELECT max(offset) FROM writes WHERE file = ?1 AND offset <= ?2) "
                    "AND offset + length(data) > ?2 ORDER BY offset",
                    (file, position),
                )
            )

    def bytes_before(self, file: str, position: int, count: int) -> bytes:
        """The last `count` bytes (or fewer, at the beginning) before a position of a file."""
        block = b""
        with _as_journal_errors(self.path):
            for offset, data in self._db.execute(
                "SELECT offset, data FROM writes WHERE file = ? AND offset < ? ORDER BY offset DESC",
                (file, position),
            ):
                block = data[: position - offset - len(block)] + block
                if len(block) >= count:
                    break
        return block[-count:]

    def counts(self) -> dict[State, int]:
        """How many images are in each state; states without any are left out."""
        with _as_journal_errors(self.path):
            rows = self._db.execute("SELECT state, count(*) FROM images GROUP BY state").fetchall()
        return {State(state): count for state, count in rows}

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with _as_journal_errors(self.path):
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _insert_writes(db: sqlite3.Connection, image_id: int | None, writes: list[Write]) -> None:
    db.executemany(
        "INSERT INTO writes (image_id, output, file, offset, data) VALUES (?, ?, ?, ?, ?)",
        [(image_id, write.output, write.file, write.offset, write.data) for write in writes],
    )


def _text(text: str) -> str:
    """Text that SQLite takes: a byte of a file name that is not UTF-8 becomes \\xHH, as in the CSV files."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _as_json(finding: Finding) -> dict[str, object]:
    """Scores with 6 digits: those of a float32, without the tail that it has as a float64."""
    probabilities = {code: round(p, 6) for code, p in finding.probabilities.items()}
    scores = {name: round(getattr(finding, name), 6) for name in ("detection_score", "class_score")}
    return {**asdict(finding), **scores, "probabilities": probabilities}


@contextmanager
def _as_journal_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise OutputFullError(
                f"there is no space for the journal {str(path)!r}; free some, the station goes on by itself."
            ) from error
        raise JournalError(
            f"the journal {str(path)!r} cannot be used ({error}); keep a copy of it, and put a whole one "
            "back, or start anew with other state and output folders."
        ) from error
