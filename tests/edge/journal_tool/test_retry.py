"""`edge-journal retry`: an image is read again, once, by the station at work."""

import sqlite3
from contextlib import closing

import pytest

from edge.errors import BackendError
from edge.journal_file import JOURNAL_NAME
from edge.journal_tool import access
from edge.records import FileStamp, State
from tests.edge.journal_tool.open_station import Station


def test_an_image_that_failed_is_read_once_more(busy: Station) -> None:
    path = busy.folder / "in/f.png"
    assert not busy.desk.process(path).is_new
    result = busy.ask("retry", path)
    assert (result.exit_code, result.stdout) == (0, "1 asked for again, 0 not.\n")
    assert busy.statuses()[-1] == ("f.png", "pending")
    assert busy.journal.pending_paths() == [path]
    assert not busy.journal.knows(path, FileStamp.of(path.lstat()))
    assert busy.desk.process(path).status is State.DONE
    assert not busy.desk.process(path).is_new
    assert [row[1] for row in busy.rows("images.csv") if row[0] == "f.png"] == ["failed", "done"]
    assert [row[5] for row in busy.rows("results.csv") if row[0] == "f.png"] == ["PNN", "EO"]
    assert busy.journal.pending_paths() == []
    assert busy.differences("--images") == []


def test_a_rejected_file_is_read_again_though_it_is_the_same(busy: Station) -> None:
    path = busy.folder / "in/b.txt"
    assert not busy.desk.process(path).is_new
    assert busy.ask("retry", path).exit_code == 0
    answer = busy.desk.process(path)
    assert (answer.status, answer.reason, answer.is_new) == (State.REJECTED, "not an image", True)


def test_a_pending_image_has_all_its_tries_again(station: Station) -> None:
    path = station.put("p.png", 9)
    station.pipeline.error = BackendError("a fault of the engine")
    for _ in range(2):
        with pytest.raises(BackendError):
            station.desk.process(path)
    assert station.asked("list")[0]["tries"] == 2
    assert station.ask("retry", path).exit_code == 0
    assert station.asked("list")[0]["tries"] == 0
    for _ in range(2):
        with pytest.raises(BackendError):
            station.desk.process(path)
    station.pipeline.error = None
    assert station.desk.process(path).status is State.DONE
    assert len(station.asked("list")) == 1


def test_all_of_a_status_are_asked_for_but_what_was_answered_since(busy: Station) -> None:
    for number in range(5):
        busy.text(f"{number}.txt")
    busy.put("0.txt", 77)
    busy.desk.process(busy.folder / "in/0.txt")  # its last entry is no longer `rejected`
    result = busy.ask("retry", "--status", "rejected")
    assert result.stdout == "5 asked for again, 0 not.\n"
    assert busy.statuses("--status", "pending") == [
        (name, "pending") for name in ("b.txt", "1.txt", "2.txt", "3.txt", "4.txt")
    ]


def test_what_has_rows_is_not_read_twice(busy: Station) -> None:
    names = ("a.png", "black.png", "copy.png", "gone.png", "never.png")
    busy.put("never.png", 3)
    before = busy.asked("list")
    result = busy.ask("retry", *(busy.folder / "in" / name for name in names))
    assert result.exit_code == 1
    assert "0 asked for again, 5 not." in result.stdout
    order = ("a.png", "black.png", "copy.png", "never.png", "gone.png")
    said = dict(zip(order, result.stderr.splitlines(), strict=True))
    for name, why in (("a.png", "done"), ("black.png", "empty"), ("copy.png", "duplicate")):
        assert f"{name} is {why}: " in said[name]
    assert "never.png is not in the journal" in said["never.png"]
    assert "gone.png is not there" in said["gone.png"]
    assert busy.asked("list") == before
    assert busy.ask("retry").exit_code == busy.ask("retry", "x", "--status", "failed").exit_code == 2


def test_asking_waits_for_a_writer_and_says_when_it_does_not_end(
    busy: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_BUSY_TIMEOUT_S", 0.01)
    with closing(sqlite3.connect(busy.out / ".edge" / JOURNAL_NAME, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        result = busy.ask("retry", busy.folder / "in/f.png")
    assert result.exit_code == 74
    assert "database is locked" in result.output
    assert "try again" in result.output
