"""The journal: an SQLite ledger, the only truth about what was done with which file.

One transaction stores the final state of an image, its findings, and the exact bytes and place of what
is then written to the CSV files. The CSV files are therefore a projection: whatever a crash does to
them, `edge.results` rebuilds them from here.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from edge.cells import Finding
from edge.errors import JournalError
from edge.journal_file import JOURNAL_NAME, as_journal_errors, open_file
from edge.names import as_text
from edge.records import LARGEST_BATCH, REASONS_THAT_MAY_PASS, Answer, Entry, FileStamp, State, Write


class Journal:
    """The ledger in a folder. For one thread, and one process at a time: its opener has locked the folder.

    Raises:
        JournalError, OutputFullError, OutputUnwritableError: as `edge.journal_file.open_file`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self._db = open_file(self.path)
        self._batch: int | None = None
        """Number of an open transaction that has writes: one more than the last write before it."""

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._db.close()

    def latest(self, path: Path) -> Entry | None:
        """What is known of a path, None if nothing."""
        with as_journal_errors(self.path):
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

        Not so for a file that had vanished and is back, and for one that could not be read for a reason that
        may pass: moving it back, granting the right to read it or closing it leave size, time of change
        and inode as they were.
        """
        entry = self.latest(path)
        if entry is None or entry.stamp != stamp:
            return False
        return (
            entry.state not in (State.PENDING, State.VANISHED) and entry.reason not in REASONS_THAT_MAY_PASS
        )

    def image_rows(self) -> Iterator[tuple[str, bytes]]:
        """Path of every image that was answered, and its row in images.csv; in the order of the rows."""
        with as_journal_errors(self.path):
            for path, row in self._db.execute(
                "SELECT path, data FROM writes JOIN images ON images.id = image_id WHERE output = 'images' "
                "ORDER BY writes.id"
            ):
                yield os.fsdecode(path), row

    def pending_paths(self) -> list[Path]:
        """Files that were begun and have no final answer."""
        with as_journal_errors(self.path):
            rows = self._db.execute("SELECT path FROM images WHERE state = 'pending' ORDER BY id").fetchall()
        return [Path(os.fsdecode(path)) for (path,) in rows]

    def first_path(self, sha256: bytes) -> Path | None:
        """Where the same bytes were first read with a result (done or empty)."""
        with as_journal_errors(self.path):
            row = self._db.execute(
                "SELECT path FROM images WHERE sha256 = ? AND state IN ('done', 'empty') ORDER BY id LIMIT 1",
                (sha256,),
            ).fetchone()
        return None if row is None else Path(os.fsdecode(row[0]))

    def has_result(self, path: Path, sha256: bytes) -> bool:
        """Whether these bytes were read with a result (done or empty) under this path."""
        with as_journal_errors(self.path):
            found = self._db.execute(
                "SELECT 1 FROM images WHERE path = ? AND sha256 = ? AND state IN ('done', 'empty') LIMIT 1",
                (os.fsencode(path), sha256),
            ).fetchone()
        return found is not None

    def last_read(self, path: Path) -> bytes | None:
        """sha256 of the newest version that could be read under this path, None if there is none."""
        with as_journal_errors(self.path):
            row = self._db.execute(
                "SELECT sha256 FROM images WHERE path = ? AND sha256 IS NOT NULL ORDER BY id DESC LIMIT 1",
                (os.fsencode(path),),
            ).fetchone()
        return None if row is None else row[0]

    def claim(self, path: Path, stamp: FileStamp | None, sha256: bytes | None, reason: str = "") -> Entry:
        """Count a try before it is made, so that one that kills the process is counted, too.

        Survives the end of the process; a power cut may forget it, which saves an fsync per image.

        Returns:
            The pending entry; `tries` counts this one, and starts again at 1 when the bytes are new.
        """
        version = astuple(stamp) if stamp else (None, None, None)
        with self._transaction(durable=False) as db:
            old = self.latest(path)
            if old is None or old.state is not State.PENDING:
                tries = 1
                image_id = db.execute(
                    "INSERT INTO images (path, size_bytes, mtime_ns, inode, sha256, state, reason, tries) "
                    "VALUES (?, ?, ?, ?, ?, 'pending', ?, 1)",
                    (os.fsencode(path), *version, sha256, as_text(reason)),
                ).lastrowid
                assert image_id is not None
            else:
                image_id, tries = old.image_id, 1
                if old.sha256 == sha256:
                    reason, tries = reason or old.reason, old.tries + 1
                db.execute(
                    "UPDATE images SET size_bytes = ?, mtime_ns = ?, inode = ?, sha256 = ?, reason = ?, "
                    "tries = ? WHERE id = ?",
                    (*version, sha256, as_text(reason), tries, image_id),
                )
        return Entry(image_id, stamp, sha256, State.PENDING, reason, tries)

    def note(self, image_id: int, reason: str, tries: int) -> None:
        """Keep why a try of a pending image failed, and set how many count."""
        with self._transaction() as db:
            db.execute(
                "UPDATE images SET reason = ?, tries = ? WHERE id = ? AND state = 'pending'",
                (as_text(reason), tries, image_id),
            )

    def finish(self, claim: Entry, answer: Answer, writes: list[Write]) -> None:
        """Store the final state of an image and what is to be written for it, in one transaction."""
        with self._transaction() as db:
            _store_answer(db, claim.image_id, answer)
            self._insert_writes(claim.image_id, writes)

    def adopt(self, images: Iterable[tuple[Path, bytes | None, Answer | None, list[Write]]]) -> int:
        """Take over all images that another record tells of, or none, in one transaction.

        Args:
            images: path, sha256, answer and rows of each, in order; without an answer: rows of no image.

        Returns:
            How many images there were.
        """
        count = 0
        with self._transaction() as db:
            for path, sha256, answer, writes in images:
                image_id = None
                if answer is not None:
                    image_id = db.execute(
                        "INSERT INTO images (path, sha256, state, tries) VALUES (?, ?, ?, 1)",
                        (os.fsencode(path), sha256, answer.state),
                    ).lastrowid
                    assert image_id is not None
                    _store_answer(db, image_id, answer)
                    count += 1
                self._insert_writes(image_id, writes)
        return count

    def settle(self) -> None:
        """Bring all commits from the log of changes into the file itself, so that it may be moved.

        Raises:
            JournalError, OutputFullError: that did not succeed.
        """
        with as_journal_errors(self.path):
            (is_busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise JournalError(
                f"the journal {str(self.path)!r} is in use; end what reads it, then start again."
            )

    def has_answer_of(self, finished_at: str) -> bool:
        """Whether an answer of that time is known."""
        query = "SELECT EXISTS (SELECT 1 FROM images WHERE finished_at = ?)"
        with as_journal_errors(self.path):
            return bool(self._db.execute(query, (finished_at,)).fetchone()[0])

    def record_writes(self, writes: list[Write]) -> None:
        """Store bytes that belong to no new image: headers, and rows that move to another file."""
        with self._transaction():
            self._insert_writes(None, writes)

    def touch(self, image_id: int, stamp: FileStamp) -> None:
        """The same bytes have a new time of change, or stand in another file."""
        with self._transaction() as db:
            db.execute(
                "UPDATE images SET size_bytes = ?, mtime_ns = ?, inode = ? WHERE id = ?",
                (*astuple(stamp), image_id),
            )

    def last_batch(self, output: str) -> list[Write]:
        """The bytes of an output that were committed last, together, in order."""
        with as_journal_errors(self.path):
            rows = self._db.execute(
                "SELECT output, file, offset, data, batch FROM writes WHERE output = ? ORDER BY id DESC "
                "LIMIT ?",
                (output, LARGEST_BATCH + 1),  # a header may come first
            ).fetchall()
        # Rows of schema 1 have no number: each was committed alone.
        batch = rows[:1] + [row for row in rows[1:] if row[4] == rows[0][4] is not None]
        return [Write(*row[:4]) for row in reversed(batch)]

    def last_write(self, output: str) -> Write | None:
        """The last bytes of an output, None if there are none."""
        return next(reversed(self.last_batch(output)), None)

    def writes_after(self, file: str, position: int) -> Iterator[Write]:
        """What stands in a file from a position on, in order; the first may begin before it."""
        with as_journal_errors(self.path):
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
        with as_journal_errors(self.path):
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
        with as_journal_errors(self.path):
            rows = self._db.execute("SELECT state, count(*) FROM images GROUP BY state").fetchall()
        return {State(state): count for state, count in rows}

    def _insert_writes(self, image_id: int | None, writes: list[Write]) -> None:
        if self._batch is None:
            (self._batch,) = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM writes").fetchone()
        self._db.executemany(
            "INSERT INTO writes (image_id, output, file, offset, data, batch) VALUES (?, ?, ?, ?, ?, ?)",
            [(image_id, write.output, write.file, write.offset, write.data, self._batch) for write in writes],
        )

    @contextmanager
    def together(self, durable: bool = True) -> Iterator[None]:
        """Make one transaction of all that is stored meanwhile.

        Args:
            durable: whether it is on the disk when this ends. Else it survives the end of the process, and a
                power cut may forget it.
        """
        with self._transaction(durable):
            yield

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        if self._db.in_transaction:  # of `together`
            yield self._db
            return
        with as_journal_errors(self.path):
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            self._batch = None
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _store_answer(db: sqlite3.Connection, image_id: int, answer: Answer) -> None:
    width, height = answer.size_wh or (None, None)
    findings = json.dumps([_as_json(finding) for finding in answer.findings])
    unlike = answer.unlikeness
    db.execute(
        "UPDATE images SET state = ?, reason = ?, width = ?, height = ?, findings = ?, latency_ms = ?, "
        "bundle = ?, engine = ?, finished_at = ?, unlike_training = ?, unlike_because = ? WHERE id = ?",
        (
            *(answer.state, as_text(answer.reason), width, height, findings, answer.latency_ms),
            *(answer.bundle, answer.engine, answer.finished_at),
            *((None, None) if unlike is None else (round(unlike.ratio, 6), unlike.because)),
            image_id,
        ),
    )


def _as_json(finding: Finding) -> dict[str, object]:
    """Scores with 6 digits: those of a float32, without the tail that it has as a float64."""
    return {
        "box_xyxy": finding.box_xyxy,
        "label": finding.label,
        "detection_score": round(finding.detection_score, 6),
        "class_score": round(finding.class_score, 6),
        "probabilities": {code: round(p, 6) for code, p in finding.probabilities.items()},
    }
