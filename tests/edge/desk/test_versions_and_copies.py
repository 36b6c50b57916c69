"""The same bytes again, and others under the same name: what has its rows gets no more."""

import os

import pytest
from PIL import Image

from edge.images import ImageLimits
from edge.records import FileStamp, State
from edge.results import unescape
from tests.edge.desk.bench import Bench


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


def test_a_file_too_large_to_be_read_gets_a_new_row_only_with_another_size(bench: Bench) -> None:
    bench.restart(limits=ImageLimits(max_bytes=1000))
    path = bench.path("large.tif")
    path.write_bytes(bytes(2000))
    assert bench.process("large.tif").is_new
    bench.path("copy").write_bytes(bytes(2000))  # as on another machine: another inode and time of change
    bench.path("copy").replace(path)
    os.utime(path, (5, 5))
    result = bench.process("large.tif")
    assert (result.status, result.reason, result.is_new) == (State.REJECTED, "too large", False)
    assert bench.journal.knows(path, FileStamp.of(path.lstat()))
    path.write_bytes(bytes(3000))
    assert bench.process("large.tif").is_new
    bench.restart(limits=ImageLimits(max_bytes=4000))
    os.utime(path, (6, 6))
    assert bench.process("large.tif").reason == "not an image"
    assert [row["reason"] for row in bench.rows()] == ["too large", "too large", "not an image"]


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
