"""The journal: transactions, tries, and what counts as known."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge.cells import Finding, Unlikeness
from edge.errors import JournalError
from edge.journal import Journal
from edge.journal_file import MIGRATIONS, JournalDamagedError, as_journal_errors
from edge.locks import OutputFullError
from edge.records import Answer, Entry, FileStamp, State, Write

STAMP = FileStamp(10, 20, 30)
ANSWER = Answer(
    State.DONE,
    "",
    (Finding((0, 1, 2, 3), "LY", 0.9, 0.8, {"LY": 0.8, "PNN": 0.2}),),
    (4, 5),
    6,
    "b",
    "e",
    "t",
)
A, B = Path("/in/a.png"), Path("/in/b.png")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def finish(journal: Journal, path: Path, sha256: bytes = b"1", **changes: object) -> None:
    claim = journal.claim(path, STAMP, sha256)
    journal.finish(claim, replace(ANSWER, **changes), [])


def test_a_finished_version_of_a_file_is_known_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    finish(journal, A)
    journal.close()
    journal = Journal(tmp_path)
    assert journal.knows(A, STAMP)
    assert not journal.knows(A, replace(STAMP, inode=99))
    assert not journal.knows(A, replace(STAMP, mtime_ns=21))
    assert not journal.knows(A, replace(STAMP, size_bytes=11))
    assert not journal.knows(B, STAMP)
    journal.close()


def test_an_open_journal_keeps_the_lock_that_sqlite_has_on_it(tmp_path: Path) -> None:
    """Whoever opens and closes the file beside SQLite, as to read it, gives the lock up."""
    Journal(tmp_path).close()
    journal = Journal(tmp_path)
    alone = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('PRAGMA journal_mode = DELETE')"
    done = subprocess.run([sys.executable, "-c", alone, journal.path], capture_output=True, text=True)
    assert "database is locked" in done.stderr
    journal.close()


@pytest.mark.parametrize(
    ("state", "reason", "known"),
    [
        (State.EMPTY, "", True),
        (State.REJECTED, "truncated", True),
        (State.FAILED, "engine fault", True),
        (State.DUPLICATE, "/in/b.png", True),
        (State.VANISHED, "", False),  # it may be moved back
        (State.FAILED, "permission", False),  # the right to read may be granted
        (State.FAILED, "EBUSY", False),  # it may be closed
        (State.FAILED, "ENAMETOOLONG", True),
    ],
)
def test_what_need_not_be_opened_again(journal: Journal, state: State, reason: str, known: bool) -> None:
    finish(journal, A, state=state, reason=reason)
    assert journal.knows(A, STAMP) is known


def test_tries_are_counted_before_they_are_made_and_start_again_with_new_bytes(journal: Journal) -> None:
    assert [journal.claim(A, STAMP, b"1").tries for _ in range(3)] == [1, 2, 3]
    assert journal.claim(A, STAMP, b"2").tries == 1
    assert journal.pending_paths() == [A]
    assert not journal.knows(A, STAMP)


def test_a_try_that_is_asked_for_meanwhile_is_the_one_that_is_made(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and claiming nobody else may write: what was asked for would stay pending for ever."""
    path = tmp_path / "a.png"
    path.touch()
    finish(journal, path, state=State.REJECTED)
    real = journal.latest

    def latest(path: Path) -> Entry | None:
        found = real(path)
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            sqlite3.connect(journal.path, 0) as other,
        ):
            other.execute("INSERT INTO images (path, state) VALUES (?, 'pending')", (os.fsencode(path),))
        other.close()
        return found

    monkeypatch.setattr(journal, "latest", latest)
    journal.claim(path, STAMP, b"new")
    assert journal.counts() == {State.REJECTED: 1, State.PENDING: 1}


def test_undecodable_paths_are_kept_as_bytes(journal: Journal) -> None:
    path = Path(os.fsdecode(b"/in/\xff\n.png"))
    finish(journal, path)
    assert journal.knows(path, STAMP)
    assert journal.first_path(b"1") == path


def test_the_first_result_of_the_same_bytes_is_found_and_refusals_are_no_results(journal: Journal) -> None:
    finish(journal, A, b"1", state=State.REJECTED)
    assert journal.first_path(b"1") is None
    finish(journal, B, b"1")
    assert journal.first_path(b"1") == B


def test_stamps_of_64_bits_are_kept(journal: Journal) -> None:
    status = os.stat_result((0o644, 2**64 - 2, 0, 1, 0, 0, 5, 0, 0, 0), {"st_mtime_ns": 2**63 + 7})
    claim = journal.claim(A, FileStamp.of(status), b"1")
    journal.finish(claim, ANSWER, [])
    assert journal.knows(A, FileStamp.of(status))


def test_text_of_undecodable_bytes_is_kept_escaped(journal: Journal) -> None:
    reason = os.fsdecode("é".encode() + b"\xff")
    claim = journal.claim(A, STAMP, b"1", reason)
    assert known_reason(journal) == "é\\xff"
    journal.note(claim.image_id, reason + "2", 1)
    assert known_reason(journal) == "é\\xff2"
    journal.finish(claim, replace(ANSWER, reason=reason + "3"), [])
    assert known_reason(journal) == "é\\xff3"


def known_reason(journal: Journal) -> str:
    entry = journal.latest(A)
    assert entry is not None
    return entry.reason


def test_scores_and_all_class_probabilities_are_kept_with_6_digits(journal: Journal) -> None:
    """Those of a float32, which has a long tail as a float64."""
    score, other = float(np.float32(0.8123457)), float(np.float32(0.1876543))
    found = Finding((0, 1, 2, 3), "LY", score, score, {"LY": score, "PNN": other})
    finish(journal, A, findings=(found,))
    with sqlite3.connect(journal.path) as db:
        (findings,) = db.execute("SELECT findings FROM images").fetchone()
    db.close()
    scores = '"detection_score": 0.812346, "class_score": 0.812346'
    assert f'{scores}, "probabilities": {{"LY": 0.812346, "PNN": 0.187654}}' in findings


def test_a_transaction_is_all_or_nothing(journal: Journal) -> None:
    claim = journal.claim(A, STAMP, b"1")
    twice = [Write("images", "images.csv", 0, b"x"), Write("images", "images.csv", 0, b"y")]
    with pytest.raises(JournalError):
        journal.finish(claim, ANSWER, twice)
    assert journal.pending_paths() == [A]
    assert journal.last_write("images") is None


def test_a_journal_that_somebody_reads_is_not_settled(journal: Journal) -> None:
    """Its log of changes would be left behind where the file is moved."""
    journal._db.execute("PRAGMA busy_timeout = 0")
    finish(journal, A)
    with contextlib.closing(sqlite3.connect(journal.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM images").fetchone()
        finish(journal, B)
        with pytest.raises(JournalError, match="is in use; end what reads it"):
            journal.settle()
    journal.settle()
    assert journal.path.with_name("journal.sqlite3-wal").stat().st_size == 0


def test_bytes_are_found_by_their_place(journal: Journal) -> None:
    journal.record_writes([Write("images", "i", 0, b"head\n"), Write("images", "i", 5, b"row1\n")])
    journal.record_writes([Write("images", "i", 10, b"row2\n"), Write("results", "r", 0, b"other\n")])
    assert journal.bytes_before("i", 12, 4) == b"1\nro"
    assert journal.bytes_before("i", 12, 100) == b"head\nrow1\nro"
    assert journal.bytes_before("i", 0, 100) == b""
    assert [write.data for write in journal.writes_after("i", 7)] == [b"row1\n", b"row2\n"]
    assert [write.data for write in journal.writes_after("i", 10)] == [b"row2\n"]
    assert list(journal.writes_after("i", 15)) == []
    last = journal.last_write("images")
    assert last is not None
    assert last.end == 15


def test_a_journal_of_the_version_before_is_taken_over_and_keeps_its_answers(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.sqlite3") as db:
        db.executescript("".join(MIGRATIONS[:2]) + "PRAGMA user_version = 2")
        db.execute(
            "INSERT INTO images (path, sha256, state, findings) VALUES (?, ?, 'done', '[]')", (b"/a", b"s")
        )
    db.close()
    journal = Journal(tmp_path)
    assert journal.first_path(b"s") == Path("/a")
    claim = journal.claim(Path("/b"), None, b"t")
    journal.finish(claim, replace(ANSWER, unlikeness=Unlikeness(1.25, "blurred")), [])
    journal.close()
    with sqlite3.connect(journal.path) as db:
        found = db.execute("SELECT unlike_training, unlike_because FROM images ORDER BY id").fetchall()
    db.close()
    assert found == [(None, None), (1.25, "blurred")]


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    with sqlite3.connect(journal.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="schema 99 and this version knows up to 3"):
        Journal(tmp_path)


def test_a_damaged_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(JournalError, match="keep a copy"):
        Journal(tmp_path)
    assert (tmp_path / "journal.sqlite3").read_bytes().startswith(b"not a database")


def test_a_full_disk_is_told_from_a_damaged_one(journal: Journal) -> None:
    journal._db.execute("PRAGMA max_page_count = 12")
    with pytest.raises(OutputFullError, match="no space"):
        journal.record_writes([Write("images", "i", n * 9000, bytes(9000)) for n in range(100)])
    assert journal.last_write("images") is None


def test_a_journal_that_another_program_holds_is_not_taken_for_a_damaged_one(journal: Journal) -> None:
    journal._db.execute("PRAGMA busy_timeout = 0")
    with contextlib.closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="is held by another program; end it, then start again"):
            journal.claim(A, STAMP, b"1")


def test_damage_is_told_though_the_disk_is_full(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    monkeypatch.setattr("edge.journal_file._has_space", lambda _: False)
    with pytest.raises(JournalDamagedError, match="keep a copy"), as_journal_errors(journal.path):
        raise error


def test_promise_15_an_error_of_the_disk_without_space_means_no_space(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite calls it a disk I/O error when its shared memory cannot grow."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE

    def ask(free_blocks: int) -> None:
        status = SimpleNamespace(f_bavail=free_blocks, f_frsize=4096)
        monkeypatch.setattr("edge.journal_file.os.statvfs", lambda _: status)
        with as_journal_errors(journal.path):
            raise error

    with pytest.raises(OutputFullError, match="no space"):
        ask(0)
    with pytest.raises(JournalError, match="disk I/O error"):
        ask(1000)


def test_a_commit_is_synced_and_a_claim_survives_the_process(journal: Journal) -> None:
    finish(journal, A)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    with journal.together(durable=False):
        finish(journal, A)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (1,)
    with journal.together():
        finish(journal, A)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.claim(B, STAMP, b"2")
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (1,)  # an fsync less
    with sqlite3.connect(journal.path) as other:
        assert other.execute("SELECT tries FROM images WHERE state = 'pending'").fetchall() == [(1,)]
    other.close()
