"""Asking for another try: the only thing that is written to the journal from outside the station.

A new pending entry for a path is enough: the station takes a path whose last entry is pending at its next
scan, or at its next start, whatever it knew of the file before.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge.journal_file import JOURNAL_NAME
from edge.journal_tool.access import as_reading_errors, open_existing
from edge.records import State

WITHOUT_RESULT = frozenset({State.REJECTED, State.FAILED, State.VANISHED})
"""Final states that may be asked again. For the others rows stand in results.csv, or would be doubled."""

ASKED_AGAIN = "asked again"


@dataclass(frozen=True, slots=True)
class Asked:
    """What asking for a path led to.

    Attributes:
        found: the state that it was in; None if the journal does not know it.
    """

    path: bytes
    found: State | None

    @property
    def is_granted(self) -> bool:
        return self.found is State.PENDING or self.found in WITHOUT_RESULT


def ask_again(folder: Path, paths: Sequence[bytes]) -> list[Asked]:
    """Let images without a result be read again, in one short transaction: the station may be at work.

    A pending entry has its tries set back to 0. A new entry knows no stamp and no sha256, so that the file
    is read even if it is the same as before.

    Args:
        folder: that of the journal.
        paths: absolute, as the file system has them.

    Raises:
        JournalError: nothing was written.
    """
    path = folder / JOURNAL_NAME
    with as_reading_errors(path), closing(open_existing(path, "rw")) as db:
        db.execute("PRAGMA synchronous = FULL")
        asked = []
        db.execute("BEGIN IMMEDIATE")  # nothing changes between looking and writing
        for image in paths:
            row = db.execute(
                "SELECT id, state FROM images WHERE path = ? ORDER BY id DESC LIMIT 1", (image,)
            ).fetchone()
            one = Asked(image, State(row[1]) if row else None)
            if one.found is State.PENDING:
                db.execute("UPDATE images SET tries = 0, reason = ? WHERE id = ?", (ASKED_AGAIN, row[0]))
            elif one.is_granted:
                db.execute(
                    "INSERT INTO images (path, state, reason, tries) VALUES (?, 'pending', ?, 0)",
                    (image, ASKED_AGAIN),
                )
            asked.append(one)
        db.execute("COMMIT")
    return asked
