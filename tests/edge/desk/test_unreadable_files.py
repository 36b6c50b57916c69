"""Files that cannot be read, for ever or for a while, and those that are gone."""

import errno
import hashlib
import io
import os
from pathlib import Path

import pytest

from edge import opening
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.records import Answer, State
from tests.edge.desk.bench import Bench

DONE = Answer(State.DONE, "", (), (8, 6), 1.0, "b", "e", "t")


def test_promise_18_a_file_that_is_gone_is_vanished_once_and_read_when_it_is_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    assert bench.process("a.png").status is State.VANISHED
    assert not bench.process("a.png").is_new
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    bench.put("a.png")
    assert bench.process("a.png").status is State.DONE


def full() -> None:
    raise OutputFullError("there is no space; free some.")


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Images cannot be opened."""
    real = os.open

    def open_(path: Path, *args: int) -> int:
        if Path(path).parent.name == "in":
            raise OSError(number, os.strerror(number))
        return real(path, *args)

    monkeypatch.setattr(opening.os, "open", open_)


@pytest.mark.parametrize("duplicates", ["skip", "again"])
def test_promise_19_a_file_without_permission_fails_once_and_is_read_when_it_is_granted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, duplicates: str
) -> None:
    bench.restart(duplicates=duplicates)
    bench.put("a.png").chmod(0o640)
    with monkeypatch.context() as patch:
        refuse(patch, errno.EACCES)
        assert bench.process("a.png").reason == "permission"
        assert not bench.process("a.png").is_new
    assert f"owner {os.getuid()}" in caplog.text
    assert "mode 0640" in caplog.text
    assert bench.process("a.png").status is State.DONE
    assert [status for _, status, _ in bench.answers()] == ["failed", "done"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_mode_0_fails(bench: Bench) -> None:
    bench.put("a.png").chmod(0)
    assert bench.process("a.png").reason == "permission"


@pytest.mark.parametrize(
    "number",
    [errno.EIO, errno.EBUSY, errno.ESTALE, errno.ENOSPC, errno.EHOSTDOWN, errno.ENOTCONN, errno.EMFILE],
)
def test_promise_20_a_fault_that_can_pass_is_tried_three_times_across_restarts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    bench.put("a.png")
    refuse(monkeypatch, number)
    assert bench.process("a.png").status is State.PENDING
    bench.restart()
    assert bench.process("a.png").status is State.PENDING
    assert bench.process("a.png").status is State.FAILED
    told = [text.rpartition(")")[2] for text in caplog.messages]
    assert told == [", try 1 of 3.", ", try 2 of 3.", "."]
    assert bench.answers() == [("a.png", "failed", errno.errorcode[number])]


def test_promise_20_a_fault_that_passes_later_is_told_once_and_the_image_is_read_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.put("a.png")
    with monkeypatch.context() as patch:
        refuse(patch, errno.EBUSY)
        for _ in range(3):
            bench.process("a.png")
        caplog.clear()
        refuse(patch, errno.EIO)
        assert [bench.process("a.png").is_new for _ in range(3)] == [False] * 3
    assert caplog.text == ""
    assert bench.process("a.png").status is State.DONE
    assert bench.answers() == [("a.png", "failed", "EBUSY"), ("a.png", "done", "")]


@pytest.mark.parametrize(
    ("number", "reason", "tries"), [(errno.EACCES, "permission", 1), (errno.EHOSTDOWN, "EHOSTDOWN", 3)]
)
def test_promise_19_a_new_version_that_cannot_be_read_fails_once_and_old_bytes_are_not_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, tries: int
) -> None:
    bench.put("a.png")
    bench.process("a.png")
    os.utime(bench.path("a.png"), (5, 5))
    with monkeypatch.context() as patch:
        refuse(patch, number)
        told = [bench.process("a.png").is_new for _ in range(tries + 3)]
    assert [number for number, is_new in enumerate(told, 1) if is_new] == [tries]
    assert bench.process("a.png").status is State.DUPLICATE
    bench.put("a.png", 100)
    assert bench.process("a.png").status is State.DONE
    assert bench.answers() == [
        ("a.png", "done", ""),
        ("a.png", "failed", reason),
        ("a.png", "duplicate", str(bench.path("a.png"))),
        ("a.png", "done", ""),
    ]
    assert len(bench.rows("results.csv")) == 2


@pytest.mark.parametrize("duplicates", ["skip", "again"])
@pytest.mark.parametrize("faults", [1, 2, 3])
def test_promise_01_an_answered_image_that_meets_faults_has_no_second_rows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, duplicates: str, faults: int
) -> None:
    bench.restart(duplicates=duplicates)
    bench.put("a.png")
    bench.process("a.png")
    os.utime(bench.path("a.png"), (5, 5))
    with monkeypatch.context() as patch:
        refuse(patch, errno.EIO)
        for _ in range(faults):
            bench.process("a.png")
    bench.process("a.png")
    told = [("a.png", "failed", "EIO"), ("a.png", "duplicate", str(bench.path("a.png")))]
    assert bench.answers() == [("a.png", "done", ""), *(told if faults == 3 else [])]
    assert len(bench.rows("results.csv")) == 1
    os.utime(bench.path("a.png"), (6, 6))
    with monkeypatch.context() as patch:
        refuse(patch, errno.EIO)
        assert bench.process("a.png").status is State.PENDING  # those before are forgotten


def test_promise_15_a_full_disk_takes_no_reason_from_a_file_whose_try_is_given_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.restart(duplicates="again")
    bench.put("a.png")
    bench.process("a.png")
    os.utime(bench.path("a.png"), (5, 5))
    with monkeypatch.context() as patch:
        refuse(patch, errno.EIO)
        bench.process("a.png")
        bench.process("a.png")
        patch.setattr(Journal, "finish", lambda *_: full())
        with pytest.raises(OutputFullError):
            bench.process("a.png")
    bench.desk.recover()
    bench.process("a.png")
    assert bench.answers() == [("a.png", "done", ""), ("a.png", "duplicate", str(bench.path("a.png")))]
    assert len(bench.rows("results.csv")) == 1


def test_an_answered_file_of_which_nothing_is_known_keeps_its_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png")
    bench.process("a.png")

    def no_stamp(_: object) -> None:
        raise OSError(number, "x")

    monkeypatch.setattr(opening.FileStamp, "of", no_stamp)
    number = errno.EACCES
    assert bench.process("a.png").status is State.DONE
    number = errno.EIO
    assert bench.process("a.png").status is State.PENDING
    assert bench.answers() == [("a.png", "done", "")]


def test_an_answered_file_whose_stamp_is_not_known_keeps_its_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a journal that was made anew."""
    path = bench.put("a.png")
    bench.journal.adopt([(path, hashlib.sha256(path.read_bytes()).digest(), DONE, [])])
    with monkeypatch.context() as patch:
        refuse(patch, errno.EACCES)
        assert bench.process("a.png").status is State.DONE
    assert not bench.process("a.png").is_new
    assert bench.rows() == []


def test_a_fault_that_passed_leaves_no_trace_in_the_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png")
    with monkeypatch.context() as patch:
        refuse(patch, errno.EIO)
        bench.process("a.png")
    assert bench.process("a.png").status is State.DONE
    assert bench.answers() == [("a.png", "done", "")]


def test_promise_20_a_file_for_which_there_is_no_memory_is_tried_three_times(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoMemory(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            raise MemoryError

    bench.put("a.png")
    monkeypatch.setattr(opening.os, "fdopen", lambda handle, mode: NoMemory(io.FileIO(handle, mode)))
    assert [bench.process("a.png").status for _ in range(3)] == [State.PENDING, State.PENDING, State.FAILED]
    assert bench.answers() == [("a.png", "failed", "ENOMEM")]


def test_promise_20_a_permanent_fault_is_not_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png")
    refuse(monkeypatch, errno.ENAMETOOLONG)
    assert bench.process("a.png").status is State.FAILED


def test_promise_04_a_file_that_changes_while_it_is_read_is_put_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.put("a.png")
    real_fstat = os.fstat

    def fstat(handle: int) -> os.stat_result:
        status = real_fstat(handle)
        with path.open("ab") as file:
            file.write(b"more")
        return status

    with monkeypatch.context() as patch:
        patch.setattr(opening.os, "fstat", fstat)
        assert bench.process("a.png").reason == "still changing"
    assert bench.rows() == []


def test_promise_27_symlinks_fifos_and_folders_are_neither_read_nor_recorded(bench: Bench) -> None:
    bench.path("link.png").symlink_to(bench.put("a.png"))
    os.mkfifo(bench.path("fifo.png"))
    bench.path("folder.png").mkdir()  # in the place of a file that was seen there
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("link.png", "fifo.png", "folder.png"):
        result = bench.process(name)
        assert (result.status, result.reason) == (State.PENDING, "not a regular file")
    assert bench.rows() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
