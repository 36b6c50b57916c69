"""What crashes, power cuts and full disks do to CSV files is mended."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from edge import projection
from edge.locks import OutputFullError, OutputUnwritableError
from tests.edge.projection.bench import Bench, PowerCut, dies_after, real_pwrite


@pytest.fixture
def synced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which files were fsynced, and how large images.csv was then."""
    happened: list[tuple[str, int]] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        happened.append((Path(f"/proc/self/fd/{handle}").readlink().name, bench.csv.stat().st_size))

    monkeypatch.setattr(projection.os, "fsync", note)
    return happened


def test_headers_stand_before_the_first_image(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    assert bench.names() == ["NAME"]
    assert bench.names("results.csv") == ["NAME"]
    assert caplog.get_records("setup") == []


@pytest.mark.parametrize("count", [0, 1, 20, 10_000])
def test_promise_03_a_row_whose_write_was_cut_off_stands_once_after_a_restart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    bench.answer("a")
    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "pwrite", dies_after(count))
        with pytest.raises(PowerCut):
            bench.answer("b")
    bench.restart()
    assert bench.names() == ["NAME", "a", "b"]
    bench.answer("c")
    assert bench.names() == ["NAME", "a", "b", "c"]


def test_promise_03_a_crash_between_write_and_fsync_leaves_the_row_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fsync(handle: int) -> None:
        raise PowerCut

    bench.answer("a")
    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "fsync", no_fsync)
        with pytest.raises(PowerCut):
            bench.results.sync()
    bench.restart()
    assert bench.names() == ["NAME", "a"]


@pytest.mark.parametrize("lost", [1, 100, 5_000, 50_000])
@pytest.mark.parametrize("leaves_zeros", [True, False])
def test_promise_03_what_a_power_cut_took_since_the_last_fsync_is_written_again(
    bench: Bench, lost: int, leaves_zeros: bool
) -> None:
    for number in range(500):
        bench.answer(f"{number:03}", f"{number:03}".encode().ljust(32))
    whole = bench.csv.read_bytes()
    bench.csv.write_bytes(whole[:-lost] + bytes(lost if leaves_zeros else 0))
    bench.restart()
    assert bench.csv.read_bytes() == whole
    assert not (bench.folder / "images.2.csv").exists()


@pytest.mark.parametrize("what", ["appended", "written again", "moved"])
def test_so_much_is_never_written_without_fsync_that_a_start_could_not_see_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    synced = [0]
    fsync = os.fsync
    written = bench.folder / ("images.2.csv" if what == "moved" else "images.csv")

    def count(handle: int) -> None:
        if written.exists():
            synced.append(written.stat().st_size)
        fsync(handle)

    opened = bench.csv.read_bytes()
    if what == "appended":
        monkeypatch.setattr(projection.os, "fsync", count)
    for number in range(1500):
        bench.answer(f"{number}")
    size = bench.csv.stat().st_size
    monkeypatch.setattr(projection.os, "fsync", count)
    if what == "written again":
        bench.csv.unlink()
    if what == "moved":
        bench.csv.write_bytes(opened.replace(b"\n", b"\r\n"))
    bench.results.mend()
    bench.results.sync()
    assert synced[-1] == size
    assert np.diff(synced).max() < projection._UNSYNCED_BYTES + projection._COMPARED_BYTES


def test_what_could_not_be_fsynced_is_written_again_though_it_looks_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives the pages of a failed fsync as they should be, until it drops them."""
    bench.answer("a")
    bench.results.sync()
    bench.answer("b")
    bench.answer("c")
    whole = bench.csv.read_bytes()

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "fsync", no_space)
        with pytest.raises(OutputFullError):
            bench.results.sync()
    written: list[tuple[int, bytes]] = []

    def pwrite(handle: int, data: bytes, at: int) -> int:
        written.append((at, bytes(data)))
        return real_pwrite(handle, data, at)

    monkeypatch.setattr(projection.os, "pwrite", pwrite)
    bench.results.mend()
    assert b"".join(data for _, data in written) == whole[written[0][0] :]
    assert written[0][1].startswith(b"b,")
    bench.results.sync()
    bench.answer("d")
    assert bench.names() == ["NAME", "a", "b", "c", "d"]


def test_promise_02_a_crash_before_the_commit_leaves_no_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_commit(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(bench.journal, "finish", no_commit)
        with pytest.raises(PowerCut):
            bench.answer("a")
    bench.restart()
    assert bench.names() == ["NAME"]
    assert bench.journal.pending_paths() == [Path("/in/a")]


def test_short_writes_are_completed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection.os, "pwrite", lambda handle, data, at: real_pwrite(handle, data[:7], at))
    bench.answer("a")
    bench.answer("b")
    assert bench.names() == ["NAME", "a", "b"]


def test_promise_03_a_torn_tail_is_cut_back_and_kept_beside(bench: Bench) -> None:
    bench.answer("a")
    with bench.csv.open("ab") as file:
        file.write(b"torn,do")
    bench.restart()
    assert bench.names() == ["NAME", "a"]
    assert (bench.folder / "images.csv.cut").read_bytes() == b"torn,do"


def test_promise_03_what_is_cut_off_is_on_the_disk_before_the_file_loses_it(
    bench: Bench, synced: list[tuple[str, int]]
) -> None:
    bench.answer("a")
    bench.results.sync()
    whole = bench.csv.stat().st_size
    with bench.csv.open("ab") as file:
        file.write(b"torn,do")
    synced.clear()
    bench.results.look()
    folder = (bench.folder.name, whole + 7)
    assert synced == [("images.csv.cut", whole + 7), folder, ("images.csv", whole)]


def test_promise_03_what_a_start_writes_again_is_on_the_disk(
    bench: Bench, synced: list[tuple[str, int]]
) -> None:
    bench.answer("a")
    whole = bench.csv.read_bytes()
    bench.csv.write_bytes(whole[:-5])
    synced.clear()
    bench.restart()
    assert ("images.csv", len(whole)) in synced


def test_promise_03_a_page_that_a_power_cut_took_before_the_last_one_is_written_again(bench: Bench) -> None:
    for number in range(500):
        bench.answer(f"{number:03}")
    whole = bench.csv.read_bytes()
    bench.csv.write_bytes(whole[:20_000] + bytes(4096) + whole[24_096:])
    bench.restart()
    assert bench.csv.read_bytes() == whole
    assert not (bench.folder / "images.2.csv").exists()


@pytest.mark.usefixtures("no_block")
@pytest.mark.parametrize("lost", [1, 30, 90, 150], ids="{} bytes".format)
def test_promise_03_zeros_that_a_power_cut_left_are_written_over(bench: Bench, lost: int) -> None:
    """However many rows were committed together and not yet fsynced."""
    with bench.journal.together():
        for name in ("a", "b"):
            bench.answer(name)
    whole = bench.csv.read_bytes()
    bench.csv.write_bytes(whole[:-lost] + bytes(lost))
    bench.restart()
    assert bench.csv.read_bytes() == whole
    assert not (bench.folder / "images.2.csv").exists()


@pytest.mark.parametrize("kept_bytes", [0, 3, 150, -1])
def test_promise_03_missing_rows_are_written_again(bench: Bench, kept_bytes: int) -> None:
    for name in ("a", "b", "c"):
        bench.answer(name)
    whole = bench.csv.read_bytes()
    bench.csv.write_bytes(whole[:kept_bytes])
    bench.restart()
    assert bench.csv.read_bytes() == whole


def test_a_removed_file_is_written_again(bench: Bench) -> None:
    bench.answer("a")
    whole = bench.csv.read_bytes()
    bench.csv.unlink()
    bench.answer("b")
    assert bench.csv.read_bytes().startswith(whole)
    assert bench.names() == ["NAME", "a", "b"]


def test_a_file_that_is_moved_away_between_commit_and_write_is_written_again(bench: Bench) -> None:
    bench.answer("a")
    bench.answer("b", meanwhile=lambda: bench.csv.rename(bench.csv.with_name("taken.csv")))
    bench.answer("c")
    assert bench.names() == ["NAME", "a", "b", "c"]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, OutputFullError), (errno.EIO, OutputUnwritableError)]
)
def test_promise_15_a_disk_that_fills_up_tears_no_row_and_the_row_follows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    bench.answer("a")
    whole = bench.csv.read_bytes()

    def full(handle: int, data: bytes, at: int) -> int:
        if len(data) > 10:
            return real_pwrite(handle, data[:10], at)
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "pwrite", full)
        with pytest.raises(kind):
            bench.answer("b")
    assert bench.csv.read_bytes() == whole
    bench.results.mend()
    assert bench.names() == ["NAME", "a", "b"]


def test_a_whole_csv_is_rebuilt_from_the_journal_alone(bench: Bench) -> None:
    for n in range(200):
        bench.answer(f"{n}.png")
    whole = bench.csv.read_bytes()
    bench.csv.unlink()
    bench.restart()
    assert bench.csv.read_bytes() == whole
