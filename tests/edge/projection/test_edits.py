"""A CSV file that somebody edited, locked or put there is left alone."""

import errno
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge import projection
from edge.journal import Journal
from edge.locks import OutputFullError, OutputUnwritableError
from tests.edge.projection.bench import Bench, edit, real_pwrite


@pytest.mark.parametrize("while_running", [True, False])
@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("a,empty", "a,done"),
        lambda text: text.replace(",", ";"),  # saved by a spreadsheet
        lambda text: text.replace("NAME", "Name of it"),
        lambda text: text + "b,done,added by hand\n",
    ],
    ids=["cell", "delimiter", "header", "added row"],
)
def test_promise_30_a_hand_edited_file_is_left_alone_and_a_new_part_begins(
    bench: Bench, edit: Callable[[str], str], while_running: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench.answer("a")
    edited = edit(bench.csv.read_text())
    bench.csv.write_text(edited)
    if not while_running:
        bench.restart()
    bench.answer("b")
    assert bench.csv.read_text() == edited
    assert bench.names("images.2.csv") == ["NAME", "b"]
    assert bench.names("results.csv") == ["NAME"]
    assert "images.csv was changed" in caplog.text
    bench.restart()
    bench.answer("c")
    assert bench.names("images.2.csv") == ["NAME", "b", "c"]


def test_promise_30_a_file_that_is_edited_before_its_first_row_is_left_alone(bench: Bench) -> None:
    bench.csv.write_text("mine\n")
    bench.restart()
    bench.answer("a")
    assert bench.csv.read_text() == "mine\n"
    assert bench.names("images.2.csv") == ["NAME", "a"]


@pytest.mark.usefixtures("no_block")
def test_promise_30_an_edit_of_equal_length_is_seen_wherever_it_is(bench: Bench) -> None:
    for name in "abc":
        bench.answer(name)
    edit(bench.csv, "\na,", "\nz,")
    bench.answer("d")
    assert bench.names() == ["NAME", "z", "b", "c"]
    assert bench.names("images.2.csv") == ["NAME", "d"]


@pytest.mark.usefixtures("no_block")
def test_promise_30_an_edit_soon_after_another_change_is_seen_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(projection, "time", SimpleNamespace(monotonic=lambda: now_s, sleep=lambda _: None))
    bench.answer("a")
    bench.answer("b")
    bench.results._files["images"]._whole_due_s = 1060.0
    edit(bench.csv, "\na,", "\nz,")
    bench.answer("c")
    assert bench.names() == ["NAME", "z", "b", "c"]  # too early to compare all of it
    now_s = 1060.0
    bench.answer("d")
    assert bench.names() == ["NAME", "z", "b", "c"]
    assert bench.names("images.2.csv") == ["NAME", "d"]


@pytest.mark.usefixtures("no_block")
def test_promise_30_an_edit_while_the_disk_is_full_is_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.answer("a")
    bench.answer("b")

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(projection.os, "pwrite", no_space)
        with pytest.raises(OutputFullError):
            bench.answer("c")
    edit(bench.csv, "\na,", "\nz,")
    bench.results.mend()
    bench.answer("d")
    assert bench.names() == ["NAME", "z", "b"]
    assert bench.names("images.2.csv") == ["NAME", "c", "d"]


@pytest.mark.usefixtures("no_block")
def test_promise_30_an_edit_is_not_forgotten_where_the_next_part_cannot_begin(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.answer("a")
    bench.answer("b")
    edit(bench.csv, "\na,", "\nz,")

    def full(*_: object) -> None:
        raise OutputFullError("there is no space for the journal")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record_writes", full)
        with pytest.raises(OutputFullError):
            bench.answer("c")
    bench.results.mend()
    bench.answer("d")
    assert bench.names() == ["NAME", "z", "b"]
    assert bench.names("images.2.csv") == ["NAME", "d"]


@pytest.mark.usefixtures("no_block")
def test_a_share_whose_times_change_by_themselves_does_not_have_all_of_a_file_compared_each_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "time", SimpleNamespace(monotonic=itertools.count(1000).__next__))
    bench.answer("a")
    read: list[int] = []
    real = os.pread
    monkeypatch.setattr(projection.os, "pread", lambda *args: read.append(args[2]) or real(*args))
    for number in range(1, 21):
        os.utime(bench.csv, ns=(0, number))
        bench.results.look()
    assert 2 <= read.count(0) <= 4
    bench.answer("b")
    assert bench.names() == ["NAME", "a", "b"]


def test_promise_30_a_file_that_is_saved_between_commit_and_write_is_left_alone(bench: Bench) -> None:
    for name in "abc":
        bench.answer(name)
    header, a, _, c = bench.csv.read_bytes().splitlines(keepends=True)
    saved = header + a + c

    def save() -> None:
        bench.csv.with_name("saving").write_bytes(saved)
        bench.csv.with_name("saving").replace(bench.csv)

    bench.answer("d", meanwhile=save)
    bench.answer("e")
    assert bench.csv.read_bytes() == saved
    assert bench.names("images.2.csv") == ["NAME", "d", "e"]


def test_promise_30_a_file_that_is_saved_between_the_last_look_and_the_write_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.answer("a")
    saved = bench.csv.read_bytes() + b"mine\n"
    looks = itertools.count(1)
    look = projection.CsvFile.look

    def look_and_save(file: projection.CsvFile) -> None:
        look(file)
        if file._name == "images.csv" and next(looks) == 2:  # one before the plan, one before the write
            bench.csv.write_bytes(saved)

    monkeypatch.setattr(projection.CsvFile, "look", look_and_save)
    bench.answer("b")
    assert bench.csv.read_bytes() == saved
    assert bench.names("images.2.csv") == ["NAME", "b"]


def test_a_file_of_an_unknown_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("mine")
    bench = Bench(tmp_path)
    bench.answer("a")
    assert (tmp_path / "images.csv").read_text() == "mine"
    assert bench.names("images.2.csv") == ["NAME", "a"]
    bench.close()


def test_promise_30_a_locked_file_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.answer("a")
    bench.csv.touch()
    real_open = os.open

    def open_(path: Path, *args: int) -> int:
        if Path(path) == bench.csv:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, *args)

    monkeypatch.setattr(projection.os, "open", open_)
    bench.answer("b")
    assert bench.names("images.2.csv") == ["NAME", "b"]


def test_a_folder_that_is_withheld_begins_no_new_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are not somebody else's: rows go on in them when the rights are back."""
    bench.answer("a")
    bench.csv.touch()

    def withheld(path: Path, *_: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "open", withheld)
        patch.setattr(projection.os, "access", lambda path, _, **__: path != bench.folder)
        with pytest.raises(OutputUnwritableError, match=r"images\.csv' cannot be read or written"):
            bench.answer("b")
    bench.restart()
    bench.answer("b")
    assert bench.names() == ["NAME", "a", "b"]
    assert not (bench.folder / "images.2.csv").exists()


@pytest.mark.parametrize("while_running", [True, False])
def test_promise_30_the_log_names_a_new_part_also_where_the_disk_is_full(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, while_running: bool
) -> None:
    bench.answer("a")
    edit(bench.csv, "\na,", "\nz,")

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(projection.os, "pwrite", no_space)
        with pytest.raises(OutputFullError):
            bench.answer("b")
    if while_running:
        bench.results.mend()
    else:
        bench.restart()
    bench.answer("b")
    assert bench.names("images.2.csv") == ["NAME", "b"]
    assert "it is left alone, rows go on in images.2.csv" in caplog.text


def test_promise_30_a_file_that_is_locked_between_plan_and_write_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.answer("a")
    whole = bench.csv.read_bytes()
    place = bench.csv.stat().st_ino

    def locked(handle: int, data: bytes, at: int) -> int:
        if os.fstat(handle).st_ino == place:
            raise OSError(errno.EACCES, "locked by a program on another machine")
        return real_pwrite(handle, data, at)

    monkeypatch.setattr(projection.os, "pwrite", locked)
    bench.answer("b")
    assert bench.csv.read_bytes() == whole
    assert bench.names("images.2.csv") == ["NAME", "b"]
    bench.answer("c")
    assert bench.names("images.2.csv") == ["NAME", "b", "c"]


def test_promise_30_a_file_that_is_being_saved_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        bench.answer(f"{number}")
    saved = bench.csv.read_bytes().replace(b",", b";")
    pieces = iter([saved[:900], saved])

    def pass_time(seconds: float) -> None:
        if piece := next(pieces, b""):
            bench.csv.write_bytes(piece)

    bench.csv.write_bytes(saved[:300])
    monkeypatch.setattr(projection, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pass_time))
    bench.answer("a")
    assert bench.csv.read_bytes() == saved
    assert bench.names("images.2.csv") == ["NAME", "a"]


@pytest.mark.parametrize("while_running", [True, False])
def test_promise_30_a_link_to_nothing_in_place_of_a_file_is_left_alone(
    bench: Bench, while_running: bool
) -> None:
    bench.answer("a")
    bench.csv.unlink()
    bench.csv.symlink_to("away.csv")
    if not while_running:
        bench.restart()
    bench.answer("b")
    assert bench.csv.is_symlink()
    assert bench.names("images.2.csv")[-1] == "b"
    bench.answer("c")
    assert bench.names("images.2.csv")[-2:] == ["b", "c"]
