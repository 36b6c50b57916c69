"""Rows that a CSV file lacks after somebody saved it go on in its next part."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import projection
from edge.records import LARGEST_BATCH
from tests.edge.projection.bench import Bench, PowerCut, dies_after, edit

SAVED: dict[str, Callable[[bytes], bytes]] = {
    "edited": lambda text: text.replace(b"a,empty", b"a,done"),
    "semicolons": lambda text: text.replace(b",", b";").replace(b"\n", b"\r\n"),
    "quotes": lambda text: b'"' + text.replace(b",", b'","').replace(b"\n", b'"\n"')[:-1],
    "a mark": lambda text: b"\xef\xbb\xbf" + text,
}


def test_promise_30_a_row_that_was_not_yet_written_moves_to_the_new_part(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.answer("a")
    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "pwrite", dies_after(0))
        with pytest.raises(PowerCut):
            bench.answer("b")
    bench.csv.write_text(bench.csv.read_text().replace("a,empty", "a,done"))
    bench.restart()
    assert bench.names("images.2.csv") == ["NAME", "b"]


def test_promise_30_all_rows_that_were_committed_together_and_not_written_move_to_the_new_part(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.answer("a")
    names = [f"b{number}" for number in range(LARGEST_BATCH)]
    monkeypatch.setattr(bench.results, "apply", lambda _: None)
    with bench.journal.together():
        for name in names:
            bench.answer(name)
    bench.csv.write_text(bench.csv.read_text().replace("a,empty", "a,done"))
    bench.restart()
    assert bench.names("images.2.csv") == ["NAME", *names]


@pytest.mark.parametrize("sha256", [b"a".ljust(32), None], ids=["bytes of another image", "no bytes"])
def test_promise_30_a_row_that_was_not_yet_written_is_not_taken_for_an_earlier_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sha256: bytes | None
) -> None:
    bench.answer("a1")
    bench.answer("a")
    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "pwrite", dies_after(0))
        with pytest.raises(PowerCut):
            bench.answer("1", sha256, "a duplicate" if sha256 else "vanished")
    bench.csv.write_text(bench.csv.read_text().replace("a,empty", "a,done"))
    bench.restart()
    assert bench.names("images.2.csv") == ["NAME", "1"]


def test_promise_30_of_rows_of_one_moment_only_those_that_the_file_lacks_move(bench: Bench) -> None:
    with bench.journal.together():
        for name in ("x", "y"):  # nothing but their names tells them apart
            bench.answer(name, None, "vanished")
    lines = bench.csv.read_text().splitlines(keepends=True)
    bench.csv.write_text("".join(lines[:-1]).replace("x,empty", "x,done"))
    bench.restart()
    assert bench.names("images.2.csv") == ["NAME", "y"]


def test_promise_30_a_part_that_was_taken_away_is_not_begun_again(bench: Bench) -> None:
    bench.answer("a")
    edit(bench.csv, "\na,", "\nz,")
    bench.answer("b")
    bench.csv.unlink()
    edit(bench.folder / "images.2.csv", "\nb,", "\nz,")
    bench.answer("c")
    assert bench.names("images.2.csv") == ["NAME", "z"]
    assert bench.names("images.3.csv") == ["NAME", "c"]
    assert not bench.csv.exists()


def test_promise_30_a_row_that_was_written_does_not_move_from_a_file_that_cannot_be_read_any_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.answer("a")
    real_open, real_read = os.open, Path.read_bytes

    def open_(path: Path, *args: int) -> int:
        if Path(path) == bench.csv:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, *args)

    monkeypatch.setattr(projection.os, "open", open_)
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: real_read(path) if path != bench.csv else open_(path, 0)
    )
    bench.csv.touch()
    bench.answer("b")
    assert bench.names("images.2.csv") == ["NAME", "b"]


def test_promise_30_the_last_rows_of_a_file_that_a_start_may_not_read_are_written_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they stand there cannot be told."""
    for name in ("a", "b"):
        bench.answer(name)
    real_open, real_read = os.open, Path.read_bytes

    def refuse(path: Path) -> None:
        if Path(path) == bench.csv:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(projection.os, "open", lambda path, *args: refuse(path) or real_open(path, *args))
    monkeypatch.setattr(Path, "read_bytes", lambda path: refuse(path) or real_read(path))
    bench.restart()
    assert bench.names("images.2.csv") == ["NAME", "b"]


@pytest.mark.parametrize("while_running", [True, False])
@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_promise_30_rows_that_came_while_a_file_was_open_in_a_spreadsheet_go_on_in_the_new_part(
    bench: Bench, save: Callable[[bytes], bytes], while_running: bool
) -> None:
    bench.answer("a")
    bench.answer("b", cells=3)
    opened = bench.csv.read_bytes()
    for number in range(2 * LARGEST_BATCH):
        bench.answer(f"{number}")
    bench.answer("c", b"a".ljust(32))  # a copy of the first
    bench.csv.write_bytes(save(opened))
    if not while_running:
        bench.restart()
    bench.answer("d")
    assert bench.csv.read_bytes() == save(opened)
    assert bench.names("images.2.csv") == ["NAME", *map(str, range(2 * LARGEST_BATCH)), "c", "d"]
    assert not (bench.folder / "results.2.csv").exists()


@pytest.mark.parametrize("while_running", [True, False])
def test_promise_30_rows_that_came_while_nothing_but_a_header_was_open_go_on_in_the_new_part(
    bench: Bench, while_running: bool
) -> None:
    opened = bench.csv.read_bytes().replace(b"\n", b"\r\n")
    bench.answer("a")
    bench.csv.write_bytes(opened)
    if not while_running:
        bench.restart()
    bench.answer("b")
    assert bench.names("images.2.csv") == ["NAME", "a", "b"]


def test_promise_30_an_image_of_which_a_row_was_taken_out_is_not_written_again(bench: Bench) -> None:
    bench.answer("a", cells=1)
    bench.answer("b", cells=3)
    lines = (bench.folder / "results.csv").read_bytes().splitlines(keepends=True)
    (bench.folder / "results.csv").write_bytes(b"".join((*lines[:-2], lines[-1])))
    bench.restart()
    bench.answer("c", cells=1)
    assert bench.names("results.csv") == ["NAME", "a", "b", "b"]
    assert bench.names("results.2.csv") == ["NAME", "c"]


def test_promise_30_a_copy_whose_original_was_taken_out_is_not_written_again(bench: Bench) -> None:
    for name, sha256, finished_at in (("a", b"x", "1"), ("z", b"z", "2"), ("b", b"x", "3")):
        bench.answer(name, sha256.ljust(32), finished_at)
    lines = bench.csv.read_bytes().splitlines(keepends=True)
    bench.csv.write_bytes(b"".join((lines[0], *lines[2:])))
    bench.answer("c")
    assert bench.names() == ["NAME", "z", "b"]
    assert bench.names("images.2.csv") == ["NAME", "c"]
