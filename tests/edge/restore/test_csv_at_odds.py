"""CSV files that are gone, in parts, withheld or at odds with each other."""

import csv
import errno
import io
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edge import results
from edge.errors import JournalError
from edge.locks import OutputUnwritableError
from edge.outputs import open_desk
from tests.edge.pipeline_doubles import AsManyAsBright
from tests.edge.restore.bench import Station, damage, lose


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
