"""A journal that is lost, damaged or older than the CSV files is made anew from them, or all stops."""

import csv
import errno
import io
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edge import results
from edge.desk import Desk
from edge.errors import BackendError, JournalError
from edge.images import ImageLimits
from edge.journal import Journal
from edge.locks import OutputFullError, OutputUnwritableError
from edge.outputs import open_desk
from edge.records import State
from tests.edge.pipeline_doubles import AsManyAsBright


class Station:
    """An inbox with files of every fate, and what stands beside it."""

    def __init__(self, folder: Path) -> None:
        self.inbox, self.out, self.state = (folder / name for name in ("in", "out", "state"))
        (self.inbox / "sample, 1").mkdir(parents=True)
        for n in (0, 1, 3):
            Image.new("RGB", (8, 6), (n, 7, 7)).save(self.inbox / f"{n}.png")
        shutil.copy(self.inbox / "3.png", self.inbox / "sample, 1" / "=copy \udcff\n.png")
        Image.new("RGB", (8, 6), (2, 7, 7)).save(self.inbox / "sample, 1" / "2.png")
        (self.inbox / "text.png").write_text("no image")
        (self.inbox / "large.png").write_bytes(bytes(5000))
        (self.inbox / "empty.png").touch()

    def run(self, more: Callable[[Desk], object] = lambda _: None, state: Path | None = None) -> int:
        """Process all files once; how many new answers there were."""
        new = 0
        options = {"inbox": self.inbox, "limits": ImageLimits(max_bytes=4096)}
        with open_desk(AsManyAsBright(), self.out, state or self.state, **options) as (desk, _):
            for path in [*sorted(self.inbox.rglob("*.png")), self.inbox / "gone.png"]:
                new += desk.process(path, self.sample(path)).is_new
            more(desk)
        return new

    def sample(self, path: Path) -> str:
        return "" if path.parent == self.inbox else path.parent.name

    @property
    def journal(self) -> Path:
        return self.state / "journal.sqlite3"

    def csv(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.out.glob("*.csv"))}

    def kept(self) -> list[str]:
        return sorted(path.name.split("-")[0] for path in self.state.glob("journal.*-*.sqlite3"))


@pytest.fixture
def station(tmp_path: Path) -> Station:
    station = Station(tmp_path)
    assert station.run() == 9
    return station


def damage(station: Station) -> None:
    with station.journal.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 20_000)


def blank(station: Station) -> None:
    station.journal.write_bytes(b"")


def nonsense(station: Station) -> None:
    station.journal.write_bytes(b"damaged" * 1000)


def lose(station: Station) -> None:
    shutil.rmtree(station.state)


@pytest.mark.parametrize(
    ("harm", "kept"),
    [(damage, ["journal.damaged"]), (nonsense, ["journal.damaged"]), (blank, []), (lose, [])],
)
def test_promise_32_a_journal_that_is_gone_is_made_anew_from_the_csv_files(
    station: Station,
    harm: Callable[[Station], None],
    kept: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (station.out / "images.9.csv").write_text("of somebody else\n")
    before = station.csv()
    harm(station)
    assert station.run() == 0
    assert station.csv() == before
    assert station.kept() == kept
    assert "made anew from the rows of 9 images" in caplog.text
    assert ("the old one is kept as journal.damaged-" in caplog.text) == bool(kept)
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    assert station.run() == 1
    after = station.csv()
    assert all(after[name].startswith(before[name]) for name in before)
    assert after["results.csv"].count(b"\n4.png,") == 4


def with_columns_moved(text: bytes) -> bytes:
    rows = csv.reader(io.StringIO(text.decode(), newline=""))
    moved = io.StringIO(newline="")
    csv.writer(moved, lineterminator="\n").writerows([*row[1:3], row[0], *row[3:]] for row in rows)
    return moved.getvalue().encode()


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda text: text.replace(b"\n", b"\r\r\n"), ""),
        (with_columns_moved, "images.csv has its columns in another order: it is left alone, rows go on in"),
    ],
    ids=["line ends of two programs", "columns moved"],
)
def test_rows_stand_under_their_own_header_where_a_saved_file_stood_in_for_the_journal(
    station: Station, save: Callable[[bytes], bytes], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = station.out / "images.csv"
    path.write_bytes(save(path.read_bytes()))
    lose(station)
    station.run()
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    assert station.run() == 1
    assert said in caplog.text
    parts = [part.read_bytes().replace(b"\r", b"") for part in station.out.glob("images*.csv")]
    rows = [row for part in parts for row in csv.DictReader(io.StringIO(part.decode(), newline=""))]
    assert [row["status"] for row in rows if row["NAME"] == "4.png"] == ["done"]


def test_promise_32_what_the_rows_tell_is_in_the_journal_again(station: Station) -> None:
    def told() -> list[tuple[object, ...]]:
        with sqlite3.connect(station.journal) as db:
            columns = "path, sha256, state, reason, width, height, bundle, engine, finished_at, findings"
            images = db.execute(f"SELECT {columns} FROM images ORDER BY id").fetchall()
            rows = [(*image[:-1], json.loads(image[-1])) for image in images]
            rows += db.execute(
                "SELECT output, file, offset, data, image_id FROM writes ORDER BY file, offset"
            )
        db.close()
        return rows

    before = told()
    lose(station)
    station.run()
    assert told() == before


def test_promise_32_a_journal_without_csv_files_is_neither_replaced_nor_ignored(station: Station) -> None:
    nonsense(station)
    for path in station.out.glob("*.csv"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(JournalError, match="keep a copy"):
            station.run()
    assert station.journal.read_bytes().startswith(b"damaged")
    assert station.csv() == {}


@pytest.mark.parametrize(
    ("harm", "said"),
    [(lose, r"lost: the CSV files in .* have rows that it does not know"), (damage, "keep a copy of it")],
)
def test_promise_32_without_an_inbox_nothing_is_made_anew(
    station: Station, harm: Callable[[Station], None], said: str
) -> None:
    harm(station)
    for _ in range(2):
        with (
            pytest.raises(JournalError, match=said),
            open_desk(AsManyAsBright(), station.out, station.state),
        ):
            pass
        # `edge-journal` would take an empty one for the station's.
        assert station.journal.exists() == (harm is damage)


def test_an_older_journal_that_was_put_back_is_made_anew(station: Station, tmp_path: Path) -> None:
    shutil.copytree(station.state, tmp_path / "backup")
    for n in (4, 5):
        Image.new("RGB", (8, 6), (n, 7, 7)).save(station.inbox / f"{n}.png")
    assert station.run() == 2
    before = station.csv()
    shutil.rmtree(station.state)
    (tmp_path / "backup").rename(station.state)
    assert station.run() == 0
    assert station.csv() == before
    assert station.kept() == ["journal.older"]


def test_an_older_journal_without_an_inbox_is_refused(station: Station, tmp_path: Path) -> None:
    shutil.copytree(station.state, tmp_path / "backup")
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    station.run()
    shutil.rmtree(station.state)
    (tmp_path / "backup").rename(station.state)
    with (
        pytest.raises(JournalError, match="is older: the CSV files"),
        open_desk(AsManyAsBright(), station.out, station.state),
    ):
        pass


def test_an_older_journal_is_told_though_the_files_have_new_parts(station: Station, tmp_path: Path) -> None:
    shutil.copytree(station.state, tmp_path / "backup")
    for name in ("results.csv", "images.csv"):
        text = (station.out / name).read_text()
        (station.out / name).write_text(text.replace("double:fp32", "double, by hand".replace(",", "")))
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    assert station.run() == 1
    before = station.csv()
    assert list(before) == ["images.2.csv", "images.csv", "results.2.csv", "results.csv"]
    shutil.rmtree(station.state)
    (tmp_path / "backup").rename(station.state)
    assert station.run() == 0
    assert station.csv() == before


def test_a_row_that_was_copied_by_hand_makes_no_journal_older(station: Station) -> None:
    images = station.out / "images.csv"
    images.write_bytes(images.read_bytes() + images.read_bytes().splitlines(keepends=True)[1])
    assert station.run() == 0
    assert station.kept() == []
    assert (station.out / "images.2.csv").exists()


@pytest.mark.parametrize("minute", [b"T", b"T0"], ids=["its time", "a time of its own"])
def test_promise_30_a_row_that_was_typed_by_hand_neither_stops_the_station_nor_enters_the_journal(
    station: Station, caplog: pytest.LogCaptureFixture, minute: bytes
) -> None:
    images = station.out / "images.csv"
    row = images.read_bytes().splitlines(keepends=True)[2]
    typed = row.replace(b"1.png", b"typed.png").replace(b"T", minute)
    images.write_bytes(images.read_bytes() + typed)
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    assert station.run() == 1
    assert station.kept() == []
    assert ("not ours" in caplog.text) == (minute == b"T0")
    assert images.read_bytes().endswith(typed)
    assert (station.out / "images.2.csv").read_bytes().count(b"4.png,") == 1


def test_promise_32_nothing_of_the_empty_journal_stays_beside_the_one_made_anew(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that holds the empty journal open leaves its log of changes there."""
    lose(station)
    before = station.csv()
    real = Journal.close
    left = []

    def close(journal: Journal) -> None:
        real(journal)
        if journal.path.parent == station.state and not left:
            left.append(journal.path.with_name("journal.sqlite3-wal"))
            left[0].write_bytes(b"of another journal")

    monkeypatch.setattr(Journal, "close", close)
    assert station.run() == 0
    assert left
    assert not left[0].exists()
    assert station.csv() == before


def test_promise_32_a_journal_that_cannot_be_settled_is_not_put_in_place(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not tell of a checkpoint that failed when a file is closed."""
    damage(station)
    before = station.journal.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "settle", lambda _: None)
        patch.setattr("edge.restore.Journal.close", lambda journal: None)
        with pytest.raises(JournalError, match="not whole"):
            station.run()
    assert station.journal.read_bytes() == before
    assert station.run() == 0


@pytest.mark.parametrize("fault", [JournalError("disk I/O error"), OutputFullError("no space")])
def test_a_fault_while_an_older_journal_is_replaced_is_not_taken_for_a_typed_row(
    station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    shutil.copytree(station.state, tmp_path / "backup")
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    station.run()
    before = station.csv()
    shutil.rmtree(station.state)
    (tmp_path / "backup").rename(station.state)

    def fail(*_: object) -> int:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "adopt", fail)
        with pytest.raises(type(fault), match=str(fault)):
            station.run()
    assert station.run() == 0
    assert station.csv() == before


@pytest.mark.parametrize("gap", ["missing", "a folder"])
def test_promise_32_rows_behind_a_missing_part_are_found(station: Station, gap: str) -> None:
    for name in ("results.csv", "images.csv"):
        (station.out / name).write_text((station.out / name).read_text().replace("double:fp32", "double:fp3"))
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    station.run()
    for name in ("results.csv", "images.csv"):
        (station.out / name).unlink()
        if gap == "a folder":
            (station.out / name).mkdir()
    lose(station)
    assert station.run() == 9  # all whose rows were taken away, and not 4.png
    rows = b"".join(path.read_bytes() for path in station.out.glob("images.*csv") if path.is_file())
    assert rows.count(b"\n4.png,") == 1


@pytest.mark.parametrize("changed", [False, True])
def test_a_start_without_csv_files_names_those_that_it_does_not_write_again(
    station: Station, caplog: pytest.LogCaptureFixture, changed: bool
) -> None:
    before = station.csv()
    if changed:
        results = station.out / "results.csv"
        results.write_bytes(results.read_bytes().replace(b"double:fp32", b"by hand"))
        Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
        assert station.run() == 1
        assert "is missing" not in caplog.text
    for path in station.out.glob("*.csv"):
        path.unlink()
    assert station.run() == 0
    if not changed:
        assert station.csv() == before
    told = [line for line in caplog.messages if "is missing" in line]
    assert [line.split()[0] for line in told] == ["results.csv"] * changed
    assert list(station.csv()) == ["images.csv", "results.2.csv" if changed else "results.csv"]


def test_rows_of_the_very_first_image_that_was_not_finished_are_cut_off(tmp_path: Path) -> None:
    station = Station(tmp_path)
    for path in station.inbox.rglob("*.png"):
        if path.name != "3.png":
            path.unlink()
    station.run()
    header = (station.out / "images.csv").read_bytes().splitlines(keepends=True)[0]
    (station.out / "images.csv").write_bytes(header)
    lose(station)
    station.run()
    assert (station.out / "results.csv").read_bytes().count(b"\n3.png,") == 3
    assert not (station.out / "results.2.csv").exists()


@pytest.mark.parametrize(
    "save",
    [lambda data: data.replace(b",", b";"), lambda data: data.decode().encode("utf-16")],
    ids=["delimiter", "encoding"],
)
def test_promise_30_a_file_that_a_spreadsheet_saved_does_not_stop_the_start(
    station: Station, save: Callable[[bytes], bytes]
) -> None:
    images = station.out / "images.csv"
    images.write_bytes(save(images.read_bytes()))
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    assert station.run() == 1
    assert (station.out / "images.2.csv").read_bytes().count(b"\n4.png,") == 1


@pytest.fixture
def withheld(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """images.csv may not be read."""
    real_open, real_path_open = os.open, Path.open

    def refuse(path: object, *args: object, **kwargs: object) -> int:
        if Path(str(path)).name == "images.csv":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)  # type: ignore[arg-type]

    def refuse_path(path: Path, *args: str, **kwargs: object) -> object:
        if path.name == "images.csv":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_path_open(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse_path)


@pytest.mark.usefixtures("withheld")
def test_promise_30_a_file_that_may_not_be_read_does_not_stop_the_start(station: Station) -> None:
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    assert station.run() == 1
    assert (station.out / "images.2.csv").exists()


@pytest.mark.usefixtures("withheld")
@pytest.mark.parametrize("harm", [damage, lose])
def test_promise_32_a_file_that_may_not_be_read_is_not_left_out_of_a_new_journal(
    station: Station, harm: Callable[[Station], None]
) -> None:
    harm(station)
    for _ in range(2):
        with pytest.raises(OutputUnwritableError, match=r"images\.csv' cannot be read or written"):
            station.run()
    assert station.kept() == []


def test_promise_01_a_known_image_that_cannot_be_read_once_gets_no_second_rows(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss every file is read once more, and a share that stumbles is enough."""
    before = station.csv()
    lose(station)

    def stumble(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("edge.opening._read_regular", stumble)
        assert station.run() == 0
    (station.inbox / "3.png").rename(station.inbox.parent / "away.png")
    station.run()
    (station.inbox.parent / "away.png").rename(station.inbox / "3.png")
    assert station.run() == 0
    assert station.csv() == before


def test_rows_of_an_image_that_was_not_finished_are_cut_off_and_the_image_is_read_again(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended between the two files, and the journal is lost, too."""
    synced: list[int] = []
    sync, settle = os.fsync, Journal.settle

    def settle_then(journal: Journal) -> None:
        assert synced[-1] == len(cut)  # before there is a journal that does not know them
        settle(journal)

    images = station.out / "images.csv"
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    old = images.read_bytes()
    station.run()
    images.write_bytes(old)
    results = (station.out / "results.csv").read_bytes()
    (station.out / "results.csv").write_bytes(results[:-5])
    cut = results[: results.index(b"4.png,")]
    lose(station)
    monkeypatch.setattr(os, "fsync", lambda handle: sync(handle) or synced.append(os.fstat(handle).st_size))
    monkeypatch.setattr(Journal, "settle", settle_then)
    assert station.run() == 1
    assert (station.out / "results.csv").read_bytes().count(b"\n4.png,") == 4
    assert len((station.out / "results.csv").read_bytes()) == len(results)
    assert (station.out / "results.csv.cut").read_bytes() == results[len(cut) : -5]
    assert images.read_bytes().count(b"4.png,") == 1


@pytest.mark.parametrize(
    ("file", "edit", "told"),
    [
        ("results.csv", lambda data: b"".join(data.splitlines(keepends=True)[:-1]), "tells of 2 leukocytes"),
        ("images.csv", lambda data: b"".join(data.splitlines(keepends=True)[:2]), "images.csv does not have"),
        ("*.csv", lambda data: data.replace(b",", b";"), "first line was changed"),
        ("images.csv", lambda data: data.replace(b"rejected", b"refused"), "unknown status 'refused'"),
        ("images.csv", lambda data: data + b"a,row,by,hand\n", "more or fewer cells"),
        ("images.csv", lambda data: data.replace(b"\n0.png", b'\n"0.png'), "more or fewer cells"),
        ("images.csv", lambda data: data.replace(b"\ntext.png", b'\n"text.png'), "more or fewer cells"),
        ("images.csv", lambda data: data.replace(b"text.png", b"t\xe9xt.png"), "more or fewer cells"),
        (
            "images.csv",
            lambda data: re.sub(rb",[0-9a-f]{64},", b",?,", data, count=1),
            r"'\?' as image_sha256",
        ),
        (
            "images.csv",
            lambda data: data.replace(b"0.png,empty,,0,", b"0.png,empty,,nan,"),
            "'nan' as leukocytes",
        ),
    ],
    ids=[
        *("row missing", "image missing", "delimiter", "status", "row added", "quote", "quote near the end"),
        *("another encoding", "no digest", "no number"),
    ],
)
@pytest.mark.parametrize("harm", [damage, lose])
def test_promise_32_csv_files_that_contradict_themselves_stop_the_station(
    station: Station,
    harm: Callable[[Station], None],
    file: str,
    edit: Callable[[bytes], bytes],
    told: str,
) -> None:
    for path in station.out.glob(file):
        path.write_bytes(edit(path.read_bytes()))
    before = station.csv()
    harm(station)
    for _ in range(2):
        with pytest.raises(JournalError, match=f"{told}.*; .* move journal and CSV files away to start anew"):
            station.run()
        assert station.csv() == before
        assert station.kept() == []
    for taken in (station.journal, *station.out.glob("*.csv")):
        taken.unlink()
    assert station.run() == 9


def test_a_quote_too_many_in_a_long_file_is_told(station: Station) -> None:
    lines = (station.out / "images.csv").read_bytes().splitlines(keepends=True)
    (station.out / "images.csv").write_bytes(b"".join([*lines[:1], b'"', *lines[1:2] * 15_000]))
    lose(station)
    with pytest.raises(JournalError, match="has more or fewer cells"):
        station.run()


def test_promise_32_rows_of_an_image_in_two_parts_stop_the_station(station: Station) -> None:
    path = station.out / "results.csv"
    header, *rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, *rows[:-1]]))
    (station.out / "results.2.csv").write_bytes(header + rows[-1])
    lose(station)
    with pytest.raises(JournalError, match=r"belongs to an image whose rows begin in 'results\.csv'"):
        station.run()


def test_a_full_disk_while_the_journal_is_made_anew_leaves_all_as_it_is(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(station)
    before = station.journal.read_bytes()

    def full(*_: object) -> int:
        raise OutputFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "adopt", full)
        with pytest.raises(OutputFullError):
            station.run()
    assert station.journal.read_bytes() == before
    assert station.run() == 0


def test_an_image_that_failed_before_the_loss_is_tried_again(station: Station) -> None:
    Image.new("RGB", (8, 6), (255, 7, 7)).save(station.inbox / "fault.png")
    for _ in range(3):
        with pytest.raises(BackendError):
            station.run()
    assert station.run() == 0
    lose(station)
    with pytest.raises(BackendError):
        station.run()
    with sqlite3.connect(station.journal) as db:
        states = db.execute(
            "SELECT state FROM images WHERE CAST(path AS TEXT) LIKE '%fault.png' ORDER BY id"
        ).fetchall()
    db.close()
    assert states == [(State.FAILED,), (State.PENDING,)]


def test_promise_32_files_of_an_older_version_are_taken_with_those_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = Station(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(results, "IMAGE_COLUMNS", results.FIRST_IMAGE_COLUMNS)
        patch.setattr(results, "_unlikeness", lambda _: ())
        station.run()
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "new.png")
    assert station.run() == 1
    before = station.csv()
    assert list(before) == ["images.2.csv", "images.csv", "results.csv"]
    lose(station)
    assert station.run() == 0
    assert station.csv() == before
    with sqlite3.connect(station.journal) as db:
        found = db.execute(
            "SELECT DISTINCT unlike_training, unlike_because FROM images ORDER BY 1"
        ).fetchall()
    db.close()
    assert found == [(None, None), (1.25, "blurred, nuclei paler")]


def test_promise_32_the_station_goes_on_in_the_last_part_though_an_earlier_one_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version without all columns was replaced before its first image."""
    station = Station(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(results, "IMAGE_COLUMNS", results.FIRST_IMAGE_COLUMNS)
        with open_desk(AsManyAsBright(), station.out, station.state):
            pass
    station.run()
    before = station.csv()
    lose(station)
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    assert station.run() == 1
    after = station.csv()
    assert after["images.csv"] == before["images.csv"]
    assert after["images.2.csv"].count(b"\n4.png,") == 1
