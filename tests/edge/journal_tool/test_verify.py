"""`edge-journal verify`: whatever the files and the journal do not agree in is found."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edge.errors import BackendError
from edge.journal_file import JOURNAL_NAME
from edge.journal_tool import verify
from edge.journal_tool.reader import JournalReader
from edge.records import FileStamp, State
from edge.results import Results
from tests.edge.journal_tool.open_station import Station


def test_a_station_at_work_agrees_with_its_files(busy: Station) -> None:
    assert busy.differences() == []
    assert busy.differences("--images") == []
    text = busy.ask("verify", "--images").stdout
    assert f"results.csv         agrees     {(busy.out / 'results.csv').stat().st_size} bytes" in text
    assert "6 read, 0 are no longer there" in text
    assert "pending entries                0, 0 of them tried before" in text


def test_a_flipped_byte_is_found_with_its_place_and_image(busy: Station) -> None:
    data = bytearray((busy.out / "images.csv").read_bytes())
    at = data.index(b"z.png") + 3
    data[at] ^= 1
    (busy.out / "images.csv").write_bytes(data)
    (sentence,) = busy.differences()
    assert f"from byte {at} on, in the rows of '{busy.folder}/in/z.png'" in sentence


def test_a_changed_header_is_found(busy: Station) -> None:
    data = (busy.out / "results.csv").read_bytes()
    (busy.out / "results.csv").write_bytes(b"n" + data[1:])
    assert "from byte 0 on, in the header" in busy.differences()[0]


@pytest.mark.parametrize("row", [2, -1])
def test_a_removed_row_is_found(busy: Station, row: int) -> None:
    lines = (busy.out / "images.csv").read_bytes().splitlines(keepends=True)
    removed = lines.pop(row)
    (busy.out / "images.csv").write_bytes(b"".join(lines))
    (sentence,) = busy.differences()
    size = (busy.out / "images.csv").stat().st_size
    if row == -1:
        assert (
            f"has {size} bytes and the journal {size + len(removed)}; the station writes the rest" in sentence
        )
        busy.read("next.png", 30)
        assert busy.differences() == []
    else:
        assert "differs from the journal from byte" in sentence


@pytest.mark.parametrize("row", [2, -1])
def test_a_doubled_row_is_found(busy: Station, row: int) -> None:
    lines = (busy.out / "results.csv").read_bytes().splitlines(keepends=True)
    lines.insert(len(lines) if row == -1 else row, lines[row])
    (busy.out / "results.csv").write_bytes(b"".join(lines))
    (sentence,) = busy.differences()
    assert ("take away what was added" if row == -1 else "differs from the journal from byte") in sentence


def test_a_missing_file_and_a_foreign_one_are_found(busy: Station) -> None:
    shutil.copy(busy.out / "results.csv", busy.out / "results.7.csv")
    (busy.out / "images.csv").unlink()
    (busy.out / "my own.csv").write_text("mine")
    missing, foreign = busy.differences()
    assert "images.csv' is missing" in missing
    assert "results.7.csv' is not the station's" in foreign


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("INSERT INTO writes SELECT NULL, image_id, output, file, offset + 1000000, data, batch FROM writes "
         "WHERE output = 'images' AND image_id IS NOT NULL LIMIT 1", "has 2 rows for images.csv"),
        ("DELETE FROM writes WHERE image_id = 7 AND output = 'results'",
         "0 for results.csv, and should have 1 and 2"),
        ("UPDATE images SET findings = '[]' WHERE id = 7", "counts [2] leukocytes and the journal has 0"),
        ("UPDATE images SET state = 'pending' WHERE id = 7", "should have 0 and 0"),
    ],
)  # fmt: skip
def test_a_journal_that_contradicts_itself_is_found(busy: Station, change: str, said: str) -> None:
    with closing(sqlite3.connect(busy.out / ".edge" / JOURNAL_NAME)) as db:
        assert db.execute(change).rowcount == 1
        db.commit()
    assert any(said in sentence for sentence in busy.differences())


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("a.png"), os.mkfifo])
def test_what_has_taken_the_place_of_an_image_file_is_not_read(
    busy: Station, make: Callable[[Path], object]
) -> None:
    path = busy.folder / "in/z.png"
    path.unlink()
    make(path)
    assert busy.differences("--images") == []
    assert "5 read, 1 are no longer there" in busy.ask("verify", "--images").stdout


def test_a_changed_image_file_is_found(busy: Station) -> None:
    path = busy.put("a.png", 201)
    (busy.folder / "in/z.png").unlink()
    assert busy.differences() == []
    (sentence,) = busy.differences("--images")
    assert (
        f"{str(path)!r} has sha256 {hashlib.sha256(path.read_bytes()).hexdigest()} and the journal"
        in sentence
    )
    assert "reads it again at its next scan" in sentence
    assert "5 read, 1 are no longer there" in busy.ask("verify", "--images").stdout
    with closing(sqlite3.connect(busy.out / ".edge" / JOURNAL_NAME)) as db:
        stamp = FileStamp.of(path.lstat())
        db.execute(
            "UPDATE images SET size_bytes = ?, mtime_ns = ?, inode = ? WHERE id = 1",
            (stamp.size_bytes, stamp.mtime_ns, stamp.inode),
        )
        db.commit()
    assert "the disk may be failing" in busy.differences("--images")[0]


def test_pending_images_are_counted_and_no_difference(station: Station) -> None:
    station.pipeline.error = BackendError("a fault of the engine")
    with pytest.raises(BackendError):
        station.read("p.png", 9)
    assert station.differences() == []
    assert "1, 1 of them tried before" in station.ask("verify").stdout


def test_a_row_on_its_way_into_the_file_is_no_difference(
    busy: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The station has committed rows; they are written while `verify` waits for them."""
    planned = []
    monkeypatch.setattr(Results, "apply", lambda results, writes: planned.append((results, writes)))
    busy.read("late.png", 44)
    monkeypatch.undo()

    def station_goes_on(seconds: float) -> None:
        results, writes = planned.pop()
        results.apply(writes)

    monkeypatch.setattr(verify.time, "sleep", station_goes_on)
    assert busy.differences() == []
    assert planned == []


def test_rows_that_are_added_during_a_verification_are_no_difference(
    busy: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double reads a new image after each step of the verification that looks at the journal."""
    colour = iter(range(1, 100))

    def with_new_image(name: str) -> None:
        real = getattr(JournalReader, name)

        def double(reader: JournalReader, *args: object, **options: object) -> object:
            value = list(real(reader, *args, **options))
            busy.read(f"{name}.png", next(colour))
            return value

        monkeypatch.setattr(JournalReader, name, double)

    for name in ("parts", "writes_in", "images", "writes", "faults"):
        with_new_image(name)
    assert busy.differences() == []
    assert next(colour) > 6


def test_rows_that_are_committed_during_a_verification_and_not_yet_written_are_no_difference(
    busy: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = JournalReader.writes_in

    def double(reader: JournalReader, file: str) -> object:
        if file == "results.csv":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Results, "apply", lambda results, writes: None)
                busy.read("late.png", 44)
        return real(reader, file)

    monkeypatch.setattr(JournalReader, "writes_in", double)
    assert busy.differences() == []
    assert busy.statuses()[-1] == ("late.png", "done")


def test_an_image_that_is_answered_during_a_verification_is_no_difference(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.pipeline.error = BackendError("a fault of the engine")
    with pytest.raises(BackendError):
        station.read("p.png", 9)
    station.pipeline.error = None
    real = JournalReader.writes

    def double(reader: JournalReader) -> object:
        assert station.read("p.png", 9).status is State.DONE
        return real(reader)

    monkeypatch.setattr(JournalReader, "writes", double)
    assert station.differences() == []
    assert station.statuses() == [("p.png", "done")]


def test_damage_within_the_journal_is_found(busy: Station) -> None:
    busy.closing.close()
    path = busy.out / ".edge" / JOURNAL_NAME
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'images_by_state'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    whole, page_end = path.read_bytes(), page * size
    index = whole[page_end - size : page_end].replace(b"rejected", b"rejecteD")
    path.write_bytes(whole[: page_end - size] + index + whole[page_end:])
    sentences = busy.differences()
    assert sentences
    assert all(f"{str(path)!r} is damaged (" in sentence for sentence in sentences)
    path.write_bytes(whole[: page_end - size] + bytes(size) + whole[page_end:])
    assert "cannot be used (" in busy.ask("verify").stderr
    path.write_bytes(whole.replace(b"rejected", b"accepted"))
    result = busy.ask("list")
    assert result.exit_code == 74
    assert "cannot be used ('accepted' is not a valid State)" in result.stderr
