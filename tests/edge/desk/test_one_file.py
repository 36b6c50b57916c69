"""One file: every way it can go, and that it is answered exactly once."""

import os

import numpy as np
import pytest

from edge import desk as desk_module
from edge import opening
from edge.cells import Finding, Unlikeness
from edge.errors import BackendError, ImageRejected
from edge.images import ImageLimits
from edge.locks import OutputFullError
from edge.records import State
from edge.results import unescape
from edge.tasks import Arrival
from tests.edge.desk.bench import Bench


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
    assert {"read", "journal", "decode", "detect", "commit", "csv"} <= result.stage_ms.keys()
    assert result.rgb is None
    assert bench.journal._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL, when it was committed
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


def test_promise_21_a_file_past_the_limit_is_not_read_into_memory(bench: Bench) -> None:
    bench.restart(limits=ImageLimits(max_bytes=1000))
    with bench.path("huge.tif").open("wb") as file:
        file.truncate(10**12)
    assert bench.process("huge.tif").reason == "too large"


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


def test_promise_10_an_engine_fault_is_published_only_after_three_tries_and_intake_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.put("a.png")
    bench.put("b.png", 100)
    bench.pipeline.error = BackendError("Xid 31")
    for _ in range(3):
        assert bench.rows() == []
        with pytest.raises(BackendError):
            bench.process("a.png")
        bench.restart()
    told = [text.rpartition(", ")[2] for text in caplog.messages]
    assert told == [f"try {number} of 3: Xid 31" for number in (1, 2, 3)]
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


@pytest.mark.parametrize(
    ("comes", "told"), [(None, State.REJECTED), ("again", State.REJECTED), ("as another", State.DONE)]
)
def test_an_answer_that_a_full_disk_kept_back_is_given_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, comes: str | None, told: State
) -> None:
    """It was committed, and what is told of it (an annotated copy, metrics) would be lost."""
    path = bench.path("a.png")
    path.write_text("no image")

    def full(_: object) -> None:
        raise OutputFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(bench.results, "apply", full)
        with pytest.raises(OutputFullError):
            bench.process("a.png")
    bench.desk.recover()
    entry = bench.journal.latest(path)
    assert entry is not None
    assert (entry.reason, entry.tries) == ("not an image", 1)
    if comes == "as another":
        bench.put("a.png")
    results = list(bench.desk.process_all([Arrival(path)] if comes else []))
    assert [(result.path, result.status, result.is_new) for result in results] == [(path, told, True)]
    assert not bench.process("a.png").is_new
    assert [status for _, status, _ in bench.answers()] == list(dict.fromkeys(["rejected", told.value]))
