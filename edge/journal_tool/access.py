"""Opening a journal from outside the station, which may be at work: without its lock, and making nothing."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from edge.errors import JournalError
from edge.journal_file import MIGRATIONS
from edge.records import FileStamp

_BUSY_TIMEOUT_S = 10.0
_NO_RIGHT = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def version_at_rest(path: Path) -> FileStamp | None:
    """The version of a journal that nobody has open, for a user who may not open it beside the station.

    None for all who may: SQLite then sees to what the station writes meanwhile.
    """
    if os.access(path.parent, os.W_OK) or Path(f"{path}-wal").exists():
        return None
    return version_of(path)


def version_of(path: Path) -> FileStamp | None:
    """The version of a journal's file, None if there is none."""
    try:
        return FileStamp.of(path.stat())
    except OSError:
        return None


def open_existing(path: Path, mode: Literal["ro", "rw"], *, at_rest: bool = False) -> sqlite3.Connection:
    """The database of a journal that exists, of a version that is known.

    Args:
        at_rest: read the file as it lies there; what the station writes meanwhile makes nonsense of it.

    Raises:
        JournalError: as `JournalReader`.
    """
    try:
        path.stat()
    except OSError as error:
        raise JournalError(
            f"there is no journal {str(path)!r}, or this user may not look there ({error.strerror}); name "
            "its folder with --state, or the station's settings file with --settings."
        ) from error
    with as_reading_errors(path):
        uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if at_rest else ''}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        try:
            _check_version(path, db.execute("PRAGMA user_version").fetchone()[0])
        except BaseException:
            db.close()
            raise
    return db


def _check_version(path: Path, version: int) -> None:
    if version > len(MIGRATIONS):
        raise JournalError(
            f"the journal {str(path)!r} has schema {version} and this version knows up to "
            f"{len(MIGRATIONS)}; use the edge-journal of the station's own installation."
        )
    if version == 0:
        raise JournalError(f"{str(path)!r} holds no journal; start the station, which makes one.")


@contextmanager
def as_reading_errors(path: Path) -> Iterator[None]:
    """Faults of SQLite, or of what it gives, as one sentence for somebody who looks from outside.

    Raises:
        JournalError: in place of sqlite3.Error, and of what values raise that the station never wrote.
    """
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the upper bits only refine it
        if code in _NO_RIGHT:
            advice = "run this as root or as the user of the station"
        elif code in _BUSY:
            advice = "somebody else writes it without a pause; try again"
        else:
            advice = "keep a copy of its folder, then start the station again, which looks at it"
        raise JournalError(f"the journal {str(path)!r} cannot be used ({error}); {advice}.") from error
