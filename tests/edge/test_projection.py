"""CSV files agree with the journal after whatever happened to either."""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge import projection, results
from edge.cells import Finding
from edge.journal import Journal
from edge.locks import OutputFullError, OutputUnwritableError
from edge.records import LARGEST_BATCH, Answer, FileStamp, State
from edge.results import FIRST_IMAGE_COLUMNS, IMAGE_COLUMNS, Results

ANSWER = Answer(State.EMPTY, "", (), (4, 5), 6.0, "b", "e", "t")
CELLS = tuple(Finding((x, 0, x + 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2}) for x in range(9))


class PowerCut(BaseException):
    """The process is gone: nothing after this runs."""


@dataclass
class Bench:
    """A journal and its results in a folder; `restart` opens both anew, as after a crash."""

    folder: Path
    journal: Journal = field(init=False)
    results: Results = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        (self.folder / "state").mkdir(exist_ok=True)
        self.journal = Journal(self.folder / "state")
        self.results = Results(self.folder, self.journal)
        self.results.mend()

    def close(self) -> None:
        self.journal.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def answer(
        self,
        name: str,
        sha256: bytes | None = b"",
        finished_at: str = "t",
        meanwhile: Callable[[], object] = lambda: None,
        cells: int = 0,
    ) -> None:
        """Record an image; `meanwhile` is called after its commit, before it is written."""
        sha256 = name.encode().ljust(32) if sha256 == b"" else sha256
        answer = replace(ANSWER, finished_at=finished_at, findings=CELLS[:cells])
        claim = self.journal.claim(Path("/in") / name, FileStamp(1, 2, 3), sha256)
        self.results.look()
        writes = self.results.plan(name.encode(), b"", sha256, answer)
        self.journal.finish(claim, answer, writes)
        meanwhile()
        self.results.apply(writes)

    @property
    def csv(self) -> Path:
        return self.folder / "images.csv"

    def names(self, file: str = "images.csv") -> list[str]:
        return [line.split(",")[0] for line in (self.folder / file).read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench that an older version left, whose images.csv has two columns less."""
    with monkeypatch.context() as patch:
        patch.setattr(results, "IMAGE_COLUMNS", FIRST_IMAGE_COLUMNS)
        patch.setattr(results, "_unlikeness", lambda _: ())
        bench = Bench(tmp_path)
        bench.answer("a")
        bench.answer("b")
    yield bench
    bench.close()


def dies_after(count: int) -> Callable[[int, bytes, int], int]:
    def pwrite(handle: int, data: bytes, at: int) -> int:
        if count:
            real_pwrite(handle, data[:count], at)
        raise PowerCut

    return pwrite


real_pwrite = os.pwrite


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


@pytest.fixture
def no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file were so long that a change lies before the block that is compared always."""
    monkeypatch.setattr(projection, "_COMPARED_BYTES", 1)
    monkeypatch.setattr(projection, "_UNSYNCED_BYTES", 0)


def edit(path: Path, old: str, new: str) -> None:
    """As `sed -i`: another file takes the place."""
    text = path.read_text()
    assert text.count(old) == 1
    path.with_name("edited").write_text(text.replace(old, new))
    path.with_name("edited").replace(path)


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
    monkeypatch.setattr(projection, "time", SimpleNamespace(monotonic=lambda: now_s))
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


SAVED: dict[str, Callable[[bytes], bytes]] = {
    "edited": lambda text: text.replace(b"a,empty", b"a,done"),
    "semicolons": lambda text: text.replace(b",", b";").replace(b"\n", b"\r\n"),
    "quotes": lambda text: b'"' + text.replace(b",", b'","').replace(b"\n", b'"\n"')[:-1],
    "a mark": lambda text: b"\xef\xbb\xbf" + text,
}


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


def test_a_file_that_is_moved_away_between_commit_and_write_is_written_again(bench: Bench) -> None:
    bench.answer("a")
    bench.answer("b", meanwhile=lambda: bench.csv.rename(bench.csv.with_name("taken.csv")))
    bench.answer("c")
    assert bench.names() == ["NAME", "a", "b", "c"]


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


def test_a_file_with_fewer_columns_is_left_whole_and_rows_go_on_in_a_new_part(
    older: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    before = older.csv.read_bytes()
    older.restart()
    older.answer("c")
    older.restart()
    older.answer("d")
    assert older.csv.read_bytes() == before
    assert older.names("images.2.csv") == ["NAME", "c", "d"]
    assert (older.folder / "images.2.csv").read_text().splitlines()[0] == ",".join(IMAGE_COLUMNS)
    assert not (older.folder / "images.3.csv").exists()
    assert not (older.folder / "results.2.csv").exists()
    assert caplog.messages == [
        "images.csv of an older version has no column unlike_training, unlike_because: it is left alone, "
        "rows go on in images.2.csv."
    ]


@pytest.mark.parametrize("count", [0, 1, 20])
def test_what_an_older_version_left_torn_is_mended_before_the_new_part_begins(
    older: Bench, count: int
) -> None:
    whole = older.csv.read_bytes()
    older.csv.write_bytes(whole[: len(whole) - count])
    older.restart()
    older.answer("c")
    assert older.csv.read_bytes() == whole
    assert older.names("images.2.csv") == ["NAME", "c"]


def test_rows_that_move_from_an_edited_older_file_keep_their_own_columns(older: Bench) -> None:
    older.csv.write_text("NAME\na\nedited by hand\n")
    older.restart()
    older.answer("c")
    assert older.names("images.2.csv") == ["NAME", "b"]
    assert older.names("images.3.csv") == ["NAME", "c"]
    for file in ("images.2.csv", "images.3.csv"):
        header, row = (line.count(",") for line in (older.folder / file).read_text().splitlines())
        assert header == row


@pytest.mark.parametrize("count", [0, 1, 20, 10_000])
def test_a_crash_while_the_new_part_begins_leaves_every_row_once(
    older: Bench, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "pwrite", dies_after(count))
        with pytest.raises(PowerCut):
            older.restart()
    older.restart()
    older.answer("c")
    assert older.names() == ["NAME", "a", "b"]
    assert older.names("images.2.csv") == ["NAME", "c"]
