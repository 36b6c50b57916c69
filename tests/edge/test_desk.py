"""One file: every way it can go, and that it is answered exactly once."""

import csv
import errno
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge import desk as desk_module
from edge import opening
from edge.cells import Finding, Unlikeness
from edge.desk import Desk
from edge.errors import BackendError, ImageRejected
from edge.images import ImageLimits
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.records import FileStamp, State
from edge.results import Results, unescape
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell


@dataclass
class Bench:
    """A desk with its outputs in a folder; `restart` opens it anew, as after a crash."""

    folder: Path
    pipeline: OneCell = field(default_factory=OneCell)
    options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("in", "state", "out"):
            (self.folder / name).mkdir()
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.folder / "state")
        self.results = Results(self.folder / "out", self.journal)
        self.desk = Desk(self.pipeline, self.journal, self.results, **self.options)  # type: ignore[arg-type]
        self.desk.recover()

    def close(self) -> None:
        self.journal.close()

    def restart(self, **options: object) -> None:
        self.close()
        self.options = options
        self.open()

    def path(self, name: str) -> Path:
        return self.folder / "in" / name

    def put(self, name: str, colour: int = 200) -> Path:
        image = Image.new("RGB", (8, 6), (colour, colour, colour))
        data = io.BytesIO()
        image.save(data, "PNG")
        self.path(name).write_bytes(data.getvalue())
        return self.path(name)

    def process(self, name: str) -> ImageResult:
        return self.desk.process(self.path(name))

    def rows(self, file: str = "images.csv") -> list[dict[str, str]]:
        with (self.folder / "out" / file).open(newline="", encoding="utf-8") as opened:
            return list(csv.DictReader(opened))

    def answers(self) -> list[tuple[str, str, str]]:
        return [(row["NAME"], row["status"], row["reason"]) for row in self.rows()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


class Darker:
    """A double of the comparison with the training images."""

    def compare(self, rgb: np.ndarray, findings: list[Finding]) -> Unlikeness | None:
        return Unlikeness(1.3, "background darker") if rgb.mean() < 100 else Unlikeness(0.4)


def test_every_image_that_is_read_is_compared_with_the_training_images(bench: Bench) -> None:
    bench.pipeline.likeness = Darker()
    for name, colour in (("a.png", 200), ("b.png", 50)):
        bench.put(name, colour)
        result = bench.process(name)
        assert "compare" in result.stage_ms
        assert result.unlikeness is not None
    bench.path("c.png").write_text("no image")
    assert bench.process("c.png").unlikeness is None
    told = [(row["status"], row["unlike_training"], row["unlike_because"]) for row in bench.rows()]
    assert told == [("done", "0.400", ""), ("done", "1.300", "background darker"), ("rejected", "", "")]


def test_an_image_becomes_durable_rows_in_both_files(bench: Bench) -> None:
    bench.put("a.png")
    result = bench.desk.process(bench.path("a.png"), "s1/left")
    assert (result.status, result.is_new, len(result.findings)) == (State.DONE, True, 1)
    assert {"read", "decode", "detect", "commit", "csv"} <= result.stage_ms.keys()
    assert result.rgb is None
    (cell,), (image,) = bench.rows("results.csv"), bench.rows()
    assert (cell["NAME"], cell["class"], cell["runner_up"], cell["sample"]) == (
        "a.png",
        "PNN",
        "EO",
        "s1/left",
    )
    assert (image["status"], image["leukocytes"], image["width"], image["height"]) == ("done", "1", "8", "6")
    assert cell["image_sha256"] == image["image_sha256"]
    assert image["finished_at"].endswith("Z")


def test_an_image_without_leukocytes_is_empty(bench: Bench) -> None:
    bench.put("a.png", 0)
    assert bench.process("a.png").status is State.EMPTY
    assert bench.rows("results.csv") == []


def test_promise_01_a_restart_neither_repeats_nor_forgets(bench: Bench) -> None:
    bench.put("a.png")
    bench.put("b.png", 100)
    bench.process("a.png")
    bench.restart()
    assert not bench.process("a.png").is_new
    assert bench.process("b.png").is_new
    assert bench.pipeline.images == 2
    assert [name for name, _, _ in bench.answers()] == ["a.png", "b.png"]


def test_a_known_file_is_not_opened_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put("a.png")
    bench.process("a.png")
    monkeypatch.setattr(opening, "_read_regular", lambda *_: pytest.fail("it was opened"))
    assert bench.process("a.png").status is State.DONE


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"some notes", "not an image"), (b"\x89PNG\r\n\x1a\n\0\0", "truncated")],
)
def test_promise_05_a_bad_file_is_rejected_and_its_whole_replacement_is_read(
    bench: Bench, data: bytes, reason: str
) -> None:
    bench.path("a.jpg").write_bytes(data)
    assert bench.process("a.jpg").status is State.REJECTED
    bench.put("a.jpg")
    assert bench.process("a.jpg").status is State.DONE
    assert bench.answers() == [("a.jpg", "rejected", reason), ("a.jpg", "done", "")]


def test_two_bad_files_of_the_same_bytes_are_both_rejected(bench: Bench) -> None:
    bench.path("a.txt").write_bytes(b"notes")
    bench.path("b.txt").write_bytes(b"notes")
    assert [bench.process(name).status for name in ("a.txt", "b.txt")] == [State.REJECTED] * 2


def test_promise_21_a_file_past_the_limit_is_not_read_into_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.restart(limits=ImageLimits(max_bytes=1000))
    with bench.path("huge.tif").open("wb") as file:
        file.truncate(10**12)
    assert bench.process("huge.tif").reason == "too large"


def test_promise_17_the_same_bytes_under_another_name_are_a_duplicate_that_names_the_first(
    bench: Bench,
) -> None:
    bench.put("a.png")
    bench.put("b.png")
    assert [bench.process(name).status for name in ("a.png", "b.png")] == [State.DONE, State.DUPLICATE]
    assert bench.answers()[1] == ("b.png", "duplicate", str(bench.path("a.png")))
    assert bench.pipeline.images == 1
    assert len(bench.rows("results.csv")) == 1


def test_a_duplicate_of_an_undecodable_name_names_it_escaped(bench: Bench) -> None:
    first = bench.put(os.fsdecode(b"\xff1.png"))
    bench.put("b.png")
    bench.process(first.name)
    assert bench.process("b.png").status is State.DUPLICATE
    reason = bench.answers()[1][2]
    assert reason == f"{bench.folder}/in/\\xff1.png"
    assert unescape(reason) == os.fsencode(first)
    assert bench.journal.pending_paths() == []


def test_promise_17_duplicates_are_read_again_by_policy(bench: Bench) -> None:
    bench.restart(duplicates="again")
    bench.put("a.png")
    bench.put("b.png")
    assert [bench.process(name).status for name in ("a.png", "b.png")] == [State.DONE, State.DONE]
    assert len(bench.rows("results.csv")) == 2


def test_a_touched_file_of_the_same_bytes_gives_no_new_row(bench: Bench) -> None:
    path = bench.put("a.png")
    bench.process("a.png")
    os.utime(path, (5, 5))
    assert not bench.process("a.png").is_new
    assert bench.journal.knows(path, FileStamp.of(path.lstat()))
    assert len(bench.rows()) == 1


def test_new_bytes_of_the_same_size_and_time_are_a_new_result(bench: Bench) -> None:
    for colour in (200, 100):
        Image.new("RGB", (8, 6), (colour, colour, colour)).save(bench.path(f"{colour}"), "BMP")
        os.utime(bench.path(f"{colour}"), (5, 5))
    first = bench.path("200").rename(bench.path("a.bmp"))
    assert bench.process("a.bmp").is_new
    second = FileStamp.of(bench.path("100").rename(first).lstat())
    assert not bench.journal.knows(first, second)
    assert bench.process("a.bmp").is_new
    assert bench.journal.knows(first, second)


@pytest.mark.parametrize("between", [b"\x89PNG\r\n\x1a\n\0\0", None])
def test_promise_01_bytes_that_come_back_after_another_version_give_no_second_rows(
    bench: Bench, between: bytes | None
) -> None:
    """As where somebody copies a file over itself, and the copy stalls halfway."""
    path = bench.put("a.png")
    whole = path.read_bytes()
    bench.process("a.png")
    if between is None:
        bench.put("a.png", 100)
    else:
        path.write_bytes(between)
    assert bench.process("a.png").is_new
    cells = bench.rows("results.csv")
    path.write_bytes(whole)
    result = bench.process("a.png")
    assert (result.status, result.reason) == (State.DUPLICATE, str(path))
    assert bench.rows("results.csv") == cells
    assert not bench.process("a.png").is_new


def test_promise_17_new_bytes_under_the_same_name_are_a_new_result(bench: Bench) -> None:
    for colour in (200, 100):
        bench.put("a.png", colour)
        assert bench.process("a.png").is_new
    assert len(bench.rows()) == len(bench.rows("results.csv")) == 2


def test_promise_18_a_file_that_is_gone_is_vanished_once_and_read_when_it_is_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    assert bench.process("a.png").status is State.VANISHED
    assert not bench.process("a.png").is_new
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    bench.put("a.png")
    assert bench.process("a.png").status is State.DONE


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def open_(path: Path, limit: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(opening, "_read_regular", open_)


def test_promise_19_a_file_without_permission_fails_once_and_is_read_when_it_is_granted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bench.put("a.png")
    refuse(monkeypatch, number)
    assert bench.process("a.png").status is State.PENDING
    bench.restart()
    assert bench.process("a.png").status is State.PENDING
    assert bench.process("a.png").status is State.FAILED
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
        assert sum(bench.process("a.png").is_new for _ in range(tries + 3)) == 1
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


def test_the_time_of_a_rejected_image_is_that_of_all_that_was_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 0
    monkeypatch.setattr("edge.stopwatch.time.perf_counter_ns", lambda: now_ns)

    def decode(*_: object) -> None:
        nonlocal now_ns
        now_ns += 50_000_000
        raise ImageRejected("damaged", "x")

    monkeypatch.setattr(desk_module, "decode", decode)
    bench.put("a.png")
    assert bench.process("a.png").stage_ms["decode"] == 50
    assert [row["latency_ms"] for row in bench.rows()] == ["50.0"]


def test_promise_20_a_permanent_fault_is_not_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png")
    refuse(monkeypatch, errno.ENAMETOOLONG)
    assert bench.process("a.png").status is State.FAILED


def test_promise_27_symlinks_and_fifos_are_neither_opened_nor_recorded(bench: Bench) -> None:
    bench.path("link.png").symlink_to(bench.put("a.png"))
    os.mkfifo(bench.path("fifo.png"))
    for name in ("link.png", "fifo.png"):
        result = bench.process(name)
        assert (result.status, result.reason) == (State.PENDING, "not a regular file")
    assert bench.rows() == []


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


def test_promise_10_an_engine_fault_is_published_only_after_three_tries_and_intake_goes_on(
    bench: Bench,
) -> None:
    bench.put("a.png")
    bench.put("b.png", 100)
    bench.pipeline.error = BackendError("Xid 31")
    for _ in range(3):
        assert bench.rows() == []
        with pytest.raises(BackendError):
            bench.process("a.png")
        bench.restart()
    bench.pipeline.error = None
    assert bench.process("a.png").status is State.FAILED
    assert bench.process("b.png").status is State.DONE
    assert bench.answers() == [("a.png", "failed", "engine fault"), ("b.png", "done", "")]


def test_promise_10_an_image_that_kills_the_process_three_times_is_failed_without_a_fourth(
    bench: Bench,
) -> None:
    class Killed(BaseException):
        pass

    bench.put("a.png")
    bench.pipeline.error = Killed()
    for _ in range(3):
        with pytest.raises(Killed):
            bench.process("a.png")
        bench.restart()
    assert bench.process("a.png").status is State.FAILED
    assert bench.pipeline.images == 3


def test_any_other_error_fails_the_image_with_a_traceback_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.put("a.png")
    bench.pipeline.error = ZeroDivisionError("two\nlines")
    assert bench.process("a.png").reason == "ZeroDivisionError: two lines"
    assert "Traceback" in caplog.text


def test_promise_09_an_error_of_any_text_fails_only_the_image(bench: Bench) -> None:
    bench.put("a.png")
    bench.pipeline.error = ValueError("\ud800 \udcff")
    assert bench.process("a.png").status is State.FAILED
    assert unescape(bench.answers()[0][2]) == rb"ValueError: \ud800 \udcff"


def test_promise_23_names_of_any_bytes_are_processed_and_logged_on_one_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    names = [b"new\nline.png", '🩸,\u202e".png'.encode(), b"\xff\xfe.png", b"=1+1.png", b"x" * 255]
    for number, name in enumerate(names):
        bench.put(os.fsdecode(name), 10 + number)
        bench.process(os.fsdecode(name))
        bench.pipeline.error = ValueError("x")
    assert [unescape(row["NAME"]) for row in bench.rows()] == names
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_full_disk_counts_no_try_and_the_image_follows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png")

    def full(*_: object) -> None:
        raise OutputFullError("no space")

    for _ in range(5):
        with monkeypatch.context() as patch:
            patch.setattr(bench.journal, "finish", full)
            with pytest.raises(OutputFullError):
                bench.process("a.png")
        bench.desk.recover()
    assert bench.rows() == []
    assert bench.process("a.png").status is State.DONE
    assert len(bench.rows()) == len(bench.rows("results.csv")) == 1
