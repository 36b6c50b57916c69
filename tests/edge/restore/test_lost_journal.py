"""A journal that is lost or damaged is made anew from the CSV files, or all stops."""

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edge.errors import BackendError, JournalError
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.outputs import open_desk
from edge.records import State
from tests.edge.pipeline_doubles import AsManyAsBright
from tests.edge.restore.bench import Station, blank, damage, lose, nonsense


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
