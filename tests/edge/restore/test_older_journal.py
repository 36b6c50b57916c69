"""A journal that is older than the CSV files, or that rows only seem to make older."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from edge.errors import JournalError
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.outputs import open_desk
from tests.edge.pipeline_doubles import AsManyAsBright
from tests.edge.restore.bench import Station


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
