"""The journal's SQLite file: its schema, how it is opened, and what its errors mean.

WAL with synchronous=FULL: a commit is on the disk when the call returns, and a commit is all or nothing.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.errors import JournalError
from edge.locks import OutputFullError, fsync_folder, output_error

JOURNAL_NAME = "journal.sqlite3"

_LEAST_SPACE_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20

MIGRATIONS = (
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
    """
    ALTER TABLE writes ADD COLUMN batch INTEGER;
    """,
    """
    ALTER TABLE images ADD COLUMN unlike_training REAL;
    ALTER TABLE images ADD COLUMN unlike_because TEXT;
    """,
)
"""Statements that lead from schema version n to n + 1. Append only: stations in the field hold data."""


class JournalDamagedError(JournalError):
    """What the file of the journal holds is not, or no longer, a journal."""


def open_file(path: Path) -> sqlite3.Connection:
    """Open a journal, or begin one where there is none, and bring it to the newest schema.

    Raises:
        JournalDamagedError: the file holds no journal.
        JournalError: it cannot be opened, or was written by a newer version.
        OutputFullError: there is no space for it.
        OutputUnwritableError: its folder cannot be brought to the disk.
    """
    _read_through(path)
    with as_journal_errors(path):
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            (fault,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if fault != "ok":
                raise JournalDamagedError(_cannot_be_used(path, fault))
            _migrate(db, path)
            fsync_folder(path.parent)
        except OSError as error:
            db.close()
            raise output_error(error, path) from error
        except BaseException:
            db.close()
            raise
    return db


def _read_through(path: Path) -> None:
    """Bring a file into memory from its beginning to its end: `quick_check` reads it here and there, page by
    page, which takes a disk many times as long.

    Before SQLite opens it: whoever closes a file gives up the locks that SQLite has on it (fcntl(2)).
    """
    block = bytearray(_BLOCK_BYTES)
    with suppress(OSError), path.open("rb", buffering=0) as file:  # SQLite says what is wrong with it
        while file.readinto(block):
            pass


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise JournalError(
            f"the journal {str(path)!r} has schema {version} and this version knows up to "
            f"{len(MIGRATIONS)}; install the newer version again, or set other state and output folders."
        )
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {statements}; PRAGMA user_version = {number}; COMMIT;")


@contextmanager
def as_journal_errors(path: Path) -> Iterator[None]:
    """Errors of SQLite as those of the station.

    Raises:
        JournalDamagedError, JournalError, OutputFullError: in place of sqlite3.Error.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest tells what was done when it failed
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not _has_space(path)):
            raise OutputFullError(
                f"there is no space for the journal {str(path)!r}; free some: edge-watch then goes on "
                "by itself, other commands when they are started again."
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise JournalError(
                f"the journal {str(path)!r} is held by another program; end it, then start again."
            ) from error
        damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        kind = JournalDamagedError if damaged else JournalError
        raise kind(_cannot_be_used(path, error)) from error


def _has_space(path: Path) -> bool:
    """Whether SQLite could still enlarge its files: without space some of its errors name only the disk."""
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return True
    return status.f_bavail * status.f_frsize > _LEAST_SPACE_BYTES


def _cannot_be_used(path: Path, fault: object) -> str:
    return (
        f"the journal {str(path)!r} cannot be used ({fault}); keep a copy of it, and put a whole one "
        "back, or start anew with other state and output folders."
    )
