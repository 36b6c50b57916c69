"""`edge-journal` on the journal of a station that is at work: its desk stays open in every test."""

import csv
import hashlib
import io
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from edge import results
from edge.cells import Finding, Unlikeness
from edge.errors import BackendError
from edge.journal_file import JOURNAL_NAME
from edge.journal_tool import access, folders, reader, verify
from edge.journal_tool.command import journal
from edge.journal_tool.reader import JournalReader
from edge.outputs import open_desk
from edge.records import FileStamp, State
from edge.results import Results, unescape
from edge.stopwatch import Stopwatch
from edge.tasks import ImageResult

ODD_NAMES = (b"a\nb.png", "‮gnp.exe".encode(), b"\xff\xfe.png", b"back\\x41, and comma.png", b"\x1b[2J.png")


@dataclass
class TwoCells:
    """A double for the pipeline: a neutrophil and an eosinophil in every image that is not black."""

    bundle_id: str = "demo-1a2b3c4d5e6f"
    engine_id: str = "double:fp32"
    crowd = None
    likeness = None
    error: Exception | None = None

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        if self.error is not None:
            raise self.error
        cells = [
            Finding((0, 0, 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2}),
            Finding((4, 0, 8, 4), "EO", 0.7, 0.6, {"EO": 0.6, "PNN": 0.3, "BA": 0.1}),
        ]
        return cells if rgb.any() else []


@dataclass
class Station:
    """A desk that stays open, as that of a daemon does, and the command that looks at its journal."""

    folder: Path
    pipeline: TwoCells = field(default_factory=TwoCells)
    closing: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        (self.folder / "in").mkdir()
        self.open()

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def open(self) -> None:
        self.desk, self.journal = self.closing.enter_context(open_desk(self.pipeline, self.out))

    def put(self, name: str | bytes, colour: int) -> Path:
        data = io.BytesIO()
        Image.new("RGB", (8, 6), (colour, colour, colour)).save(data, "PNG")
        path = self.folder / "in" / os.fsdecode(name)
        path.write_bytes(data.getvalue())
        return path

    def read(self, name: str | bytes, colour: int) -> ImageResult:
        return self.desk.process(self.put(name, colour))

    def text(self, name: str) -> ImageResult:
        path = self.folder / "in" / name
        path.write_text(f"dear hospital, this is {name}")
        return self.desk.process(path)

    def ask(self, *args: object) -> Result:
        result = CliRunner().invoke(journal, ["--out", str(self.out), *map(str, args)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def asked(self, *args: object) -> list[dict[str, object]]:
        result = self.ask(*args, "--json")
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    def statuses(self, *args: object) -> list[tuple[object, object]]:
        return [(Path(str(one["path"])).name, one["status"]) for one in self.asked("list", *args)]

    def rows(self, file: str, folder: Path | None = None) -> list[list[str]]:
        with ((folder or self.out) / file).open(newline="", encoding="utf-8") as opened:
            return list(csv.reader(opened))[1:]

    def differences(self, *args: object) -> list[str]:
        """The sentences of `verify`, whose end must agree with them."""
        result = self.ask("verify", *args)
        sentences = result.stdout.splitlines()
        sentences = sentences[: sentences.index(f"{self.out / '.edge' / JOURNAL_NAME} and {self.out}")]
        assert result.exit_code == (1 if sentences else 0), result.output
        assert ("All agree." in result.stdout) is not bool(sentences)
        return sentences


@pytest.fixture(autouse=True)
def small_pages_and_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_PAGE", 2)
    monkeypatch.setattr(verify, "_PATIENCE_S", 0.0)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    station = Station(tmp_path)
    with station.closing:
        yield station


@pytest.fixture
def busy(station: Station) -> Station:
    """A station that has seen an image of every kind."""
    station.read("a.png", 200)
    station.read("black.png", 0)
    station.read("copy.png", 200)
    station.text("b.txt")
    station.desk.process(station.folder / "in/gone.png")
    station.pipeline.error = ValueError("a fault of ours")
    station.read("f.png", 120)
    station.pipeline.error = None
    station.read("z.png", 100)
    return station


def test_a_list_has_a_line_for_each_image_the_newest_last(busy: Station) -> None:
    lines = busy.ask("list").stdout.splitlines()
    assert lines[0].split()[:3] == ["answered", "status", "reason"]
    assert [line.split()[1] for line in lines[1:]] == [
        *("done", "empty", "duplicate", "rejected", "vanished", "failed", "done")
    ]
    assert lines[1].endswith(str(busy.folder / "in/a.png"))
    assert lines[1].split()[2:5] == ["-", "1", "2"]
    assert "not an image" in lines[4]
    assert "ValueError: a f…" in lines[6]


def test_a_list_is_narrowed_by_status_time_and_number(busy: Station) -> None:
    assert busy.statuses("--status", "done") == [("a.png", "done"), ("z.png", "done")]
    assert busy.statuses("--limit", 2) == [("f.png", "failed"), ("z.png", "done")]
    assert busy.statuses("--limit", 1, "--status", "done") == [("z.png", "done")]
    assert busy.statuses("--limit", 99) == busy.statuses()
    assert busy.statuses("--status", "pending", "--limit", 3) == []
    last = str(busy.asked("list")[-1]["finished_at"])
    assert busy.statuses("--since", last)[-1] == ("z.png", "done")
    assert busy.statuses("--since", "2020-01-01") == busy.statuses()
    assert busy.statuses("--since", last.replace("Z", "-00:01")) == []


@pytest.mark.parametrize("time", ["yesterday", "14:00"])
def test_a_time_that_is_none_is_refused(station: Station, time: str) -> None:
    result = station.ask("list", "--since", time)
    assert result.exit_code == 2
    assert f"{time!r} is no time" in result.output


def test_a_reader_waits_for_no_writer_and_no_writer_for_a_reader(busy: Station) -> None:
    with closing(sqlite3.connect(busy.out / ".edge" / JOURNAL_NAME, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE images SET reason = 'not committed'")
        assert len(busy.asked("list")) == 7
        assert busy.differences() == []
        assert "not committed" not in busy.ask("list").output
        writer.execute("ROLLBACK")
    with closing(JournalReader(busy.out / ".edge")) as reader:
        entries = reader.images()
        next(entries)
        assert busy.read("during.png", 55).is_new
        assert [Path(os.fsdecode(entry.path)).name for entry in entries][-1] == "during.png"


def test_an_image_is_found_by_path_name_and_sha256(busy: Station) -> None:
    path = busy.folder / "in/a.png"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for word in (path, "a.png", sha256[:5].upper()):
        found = busy.asked("show", word)
        assert found[0]["path"] == str(path)
        (entry,) = found[0]["entries"]  # type: ignore[misc]
        assert (entry["status"], entry["image_sha256"]) == ("done", sha256)
        cells = [(cell["class"], cell["runner_up"], cell["runner_up_score"]) for cell in entry["findings"]]
        assert cells == [("PNN", "EO", 0.2), ("EO", "PNN", 0.3)]
        texts = [
            (busy.out / row["file"]).read_bytes()[row["offset"] :][: row["bytes"]].decode()
            for row in entry["rows"]
        ]
        assert [text.count("\n") for text in texts] == [2, 1]
        assert all(line.startswith("a.png,") for text in texts for line in text.splitlines())
    assert [Path(str(one["path"])).name for one in busy.asked("show", sha256)] == ["a.png", "copy.png"]
    text = busy.ask("show", "a.png").stdout
    assert "PNN 0.8000, then EO 0.2000; detection 0.9000; box 0, 0, 4, 4" in text
    assert "results.csv: " in text


def test_all_entries_of_a_path_are_shown_in_order(station: Station) -> None:
    station.read("a.png", 10)
    station.read("a.png", 11)
    (image,) = station.asked("show", "a.png")
    first, second = image["entries"]  # type: ignore[misc]
    assert first["finished_at"] <= second["finished_at"]
    assert first["image_sha256"] != second["image_sha256"]


def test_what_the_journal_does_not_know_is_said(busy: Station) -> None:
    result = busy.ask("show", "abc")
    assert result.exit_code == 1
    assert "knows no path, name or sha256 'abc'" in result.output


def test_odd_names_stay_on_one_line_and_can_be_had_back(station: Station) -> None:
    for number, name in enumerate(ODD_NAMES):
        station.read(name, number + 1)
    lines = station.ask("list").stdout.splitlines()
    assert len(lines) == 1 + len(ODD_NAMES)
    assert all(line.isprintable() for line in lines)
    assert r"\u202egnp.exe" in lines[2]
    for name, image in zip(ODD_NAMES, station.asked("list"), strict=True):
        assert unescape(str(image["path"])) == os.fsencode(station.folder / "in") + b"/" + name
        text = station.ask("show", os.fsdecode(name)).stdout
        assert text.splitlines()[1].endswith("done, 1 try")
    assert station.differences("--images") == []


def test_an_image_that_failed_is_read_once_more(busy: Station) -> None:
    path = busy.folder / "in/f.png"
    assert not busy.desk.process(path).is_new
    result = busy.ask("retry", path)
    assert (result.exit_code, result.stdout) == (0, "1 asked for again, 0 not.\n")
    assert busy.statuses()[-1] == ("f.png", "pending")
    assert busy.journal.pending_paths() == [path]
    assert not busy.journal.knows(path, FileStamp.of(path.lstat()))
    assert busy.desk.process(path).status is State.DONE
    assert not busy.desk.process(path).is_new
    assert [row[1] for row in busy.rows("images.csv") if row[0] == "f.png"] == ["failed", "done"]
    assert [row[5] for row in busy.rows("results.csv") if row[0] == "f.png"] == ["PNN", "EO"]
    assert busy.journal.pending_paths() == []
    assert busy.differences("--images") == []


def test_a_rejected_file_is_read_again_though_it_is_the_same(busy: Station) -> None:
    path = busy.folder / "in/b.txt"
    assert not busy.desk.process(path).is_new
    assert busy.ask("retry", path).exit_code == 0
    answer = busy.desk.process(path)
    assert (answer.status, answer.reason, answer.is_new) == (State.REJECTED, "not an image", True)


def test_a_pending_image_has_all_its_tries_again(station: Station) -> None:
    path = station.put("p.png", 9)
    station.pipeline.error = BackendError("a fault of the engine")
    for _ in range(2):
        with pytest.raises(BackendError):
            station.desk.process(path)
    assert station.asked("list")[0]["tries"] == 2
    assert station.ask("retry", path).exit_code == 0
    assert station.asked("list")[0]["tries"] == 0
    for _ in range(2):
        with pytest.raises(BackendError):
            station.desk.process(path)
    station.pipeline.error = None
    assert station.desk.process(path).status is State.DONE
    assert len(station.asked("list")) == 1


def test_all_of_a_status_are_asked_for_but_what_was_answered_since(busy: Station) -> None:
    for number in range(5):
        busy.text(f"{number}.txt")
    busy.put("0.txt", 77)
    busy.desk.process(busy.folder / "in/0.txt")  # its last entry is no longer `rejected`
    result = busy.ask("retry", "--status", "rejected")
    assert result.stdout == "5 asked for again, 0 not.\n"
    assert busy.statuses("--status", "pending") == [
        (name, "pending") for name in ("b.txt", "1.txt", "2.txt", "3.txt", "4.txt")
    ]


def test_what_has_rows_is_not_read_twice(busy: Station) -> None:
    names = ("a.png", "black.png", "copy.png", "gone.png", "never.png")
    busy.put("never.png", 3)
    before = busy.asked("list")
    result = busy.ask("retry", *(busy.folder / "in" / name for name in names))
    assert result.exit_code == 1
    assert "0 asked for again, 5 not." in result.stdout
    order = ("a.png", "black.png", "copy.png", "never.png", "gone.png")
    said = dict(zip(order, result.stderr.splitlines(), strict=True))
    for name, why in (("a.png", "done"), ("black.png", "empty"), ("copy.png", "duplicate")):
        assert f"{name} is {why}: " in said[name]
    assert "never.png is not in the journal" in said["never.png"]
    assert "gone.png is not there" in said["gone.png"]
    assert busy.asked("list") == before
    assert busy.ask("retry").exit_code == busy.ask("retry", "x", "--status", "failed").exit_code == 2


def test_asking_waits_for_a_writer_and_says_when_it_does_not_end(
    busy: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_BUSY_TIMEOUT_S", 0.01)
    with closing(sqlite3.connect(busy.out / ".edge" / JOURNAL_NAME, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        result = busy.ask("retry", busy.folder / "in/f.png")
    assert result.exit_code == 74
    assert "database is locked" in result.output
    assert "try again" in result.output


def test_rebuilt_files_are_the_original_ones(busy: Station, tmp_path: Path) -> None:
    result = busy.ask("rebuild", tmp_path / "new")
    assert result.exit_code == 0, result.output
    for name in ("results.csv", "images.csv"):
        assert (tmp_path / "new" / name).read_bytes() == (busy.out / name).read_bytes()
        assert f"{name}: {(busy.out / name).stat().st_size} bytes" in result.stdout
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["images.csv", "results.csv"]


def test_nothing_is_rebuilt_over_files(busy: Station, tmp_path: Path) -> None:
    result = busy.ask("rebuild", busy.out)
    assert result.exit_code == 74
    assert "holds 'results.csv' already; give an empty folder" in result.output
    (tmp_path / "half").mkdir()
    (tmp_path / "half/images.csv").write_text("mine")
    assert busy.ask("rebuild", tmp_path / "half").exit_code == 74
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["images.csv"]
    (tmp_path / "file").write_text("mine")
    assert "cannot be written" in busy.ask("rebuild", tmp_path / "file/new").output


def test_a_journal_without_rows_rebuilds_nothing(tmp_path: Path) -> None:
    journal_file = tmp_path / "state" / JOURNAL_NAME
    journal_file.parent.mkdir()
    with closing(sqlite3.connect(journal_file)) as db:
        db.executescript(access.MIGRATIONS[0] + "; PRAGMA user_version = 1")
    result = CliRunner().invoke(
        journal, ["--state", str(journal_file.parent), "rebuild", str(tmp_path / "new")]
    )
    assert result.exit_code == 74
    assert "has nothing for results.csv" in result.output
    assert not (tmp_path / "new").exists()


def test_rows_of_an_older_version_are_rebuilt_with_all_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(results, "IMAGE_COLUMNS", results.FIRST_IMAGE_COLUMNS)
        patch.setattr(results, "_unlikeness", lambda _: ())
        station = Station(tmp_path)
        station.read("a\n,.png", 200)
        station.closing.close()
    station.pipeline.likeness = Dull()  # type: ignore[assignment]
    station.open()
    station.read("b.png", 100)
    with station.closing:
        assert station.ask("rebuild", tmp_path / "new").exit_code == 0
        assert [row[-2:] for row in station.rows("images.csv", tmp_path / "new")] == [
            ["", ""],
            ["1.250", "dull"],
        ]
        assert station.differences() == []
        assert [one["unlike_because"] for one in station.asked("list")] == [None, "dull"]
        assert "1.25 of the limit from the training images: dull" in station.ask("show", "b.png").stdout


class Dull:
    """A double of the comparison with the training images."""

    def compare(self, rgb: NDArray[np.uint8], findings: list[Finding]) -> Unlikeness:
        return Unlikeness(1.25, "dull")


def test_each_image_is_rebuilt_once_after_a_part_was_left_alone(busy: Station, tmp_path: Path) -> None:
    """The edited files no longer name the last image, so its rows stand in the new parts, too."""
    busy.closing.close()
    for name in ("results.csv", "images.csv"):
        (busy.out / name).write_text("edited by hand\n")
    busy.open()
    busy.read("after.png", 60)
    names = ["a.png", "black.png", "copy.png", "b.txt", "gone.png", "f.png", "z.png", "after.png"]
    assert [row[0] for row in busy.rows("images.2.csv")] == ["z.png", "after.png"]
    assert busy.ask("rebuild", tmp_path / "new").exit_code == 0
    assert [row[0] for row in busy.rows("images.csv", tmp_path / "new")] == names
    cells = [row[0] for row in busy.rows("results.csv", tmp_path / "new")]
    assert cells == [name for name in ("a.png", "z.png", "after.png") for _ in range(2)]
    sentences = busy.differences()
    assert len(sentences) == 2
    assert all("edge-journal rebuild FOLDER" in sentence for sentence in sentences)
    (entry,) = busy.asked("show", "z.png")[0]["entries"]  # type: ignore[misc]
    assert {row["file"] for row in entry["rows"]} == {
        *("results.csv", "images.csv", "results.2.csv", "images.2.csv")
    }


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


def test_looking_leaves_the_journal_as_it_is(busy: Station) -> None:
    with closing(JournalReader(busy.out / ".edge")) as reader, pytest.raises(sqlite3.OperationalError):
        reader._db.execute("DELETE FROM images")


def test_who_may_only_read_sees_the_journal_of_a_station_that_stands(
    busy: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy.closing.close()
    before = sorted(path.name for path in (busy.out / ".edge").iterdir())
    assert not any(name.endswith("-wal") for name in before)
    real_access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real_access(path, mode))
    assert len(busy.asked("list")) == 7
    assert busy.differences() == []
    assert sorted(path.name for path in (busy.out / ".edge").iterdir()) == before


@pytest.mark.parametrize("command", ["list", "verify", "retry x"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"no database" * 1000), "file is not a database"),
        (lambda path: path.unlink(), "there is no journal"),
        (lambda path: path.write_bytes(b""), "holds no journal"),
        (
            lambda path: execute(path, "PRAGMA user_version = 99"),
            "has schema 99 and this version knows up to",
        ),
    ],
)
def test_a_journal_that_cannot_be_read_is_told_in_one_sentence(
    busy: Station, damage: object, said: str, command: str
) -> None:
    busy.closing.close()
    damage(busy.out / ".edge" / JOURNAL_NAME)  # type: ignore[operator]
    (busy.folder / "x").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(busy.folder)
        result = busy.ask(*command.split())
    assert result.exit_code == 74
    assert said in result.output
    assert [line for line in result.stderr.splitlines() if "Error: " in line] == result.stderr.splitlines()


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)


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


def ask(*args: object) -> Result:
    return CliRunner().invoke(journal, [str(arg) for arg in args])


def settings_file(folder: Path, text: str = "") -> Path:
    path = folder / "ward-1.toml"
    path.write_text(f"inbox = {str(folder / 'in')!r}\nout = {str(folder / 'out')!r}\n{text}")
    return path


def test_it_must_be_said_whose_journal_is_meant(station: Station) -> None:
    result = ask("list")
    assert result.exit_code == 78
    assert "no journal is named" in result.output
    result = ask("--state", station.out / ".edge", "verify")
    assert result.exit_code == 78
    assert "add --out or --settings" in result.output
    assert ask("--state", station.out / ".edge", "list").exit_code == 0
    assert ask("--state", station.out / ".edge", "--out", station.out, "verify").exit_code == 0


def test_settings_say_where_the_journal_of_a_service_is(
    station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    service = tmp_path / "var/lib/cytologia-edge"
    monkeypatch.setattr(folders, "SERVICE_STATE", service)
    settings = settings_file(tmp_path).rename(tmp_path / "station.toml")
    station.read("a.png", 1)
    assert "a.png" in ask("--settings", settings, "list").stdout
    assert ask("--settings", settings, "verify").exit_code == 0
    station.closing.close()
    shutil.copytree(station.out / ".edge", service)
    result = ask("--settings", settings, "list")
    assert result.exit_code == 78
    assert "hold a journal; give the right one with --state" in result.output
    (station.out / ".edge").rename(tmp_path / "elsewhere")
    assert "a.png" in ask("--settings", settings, "list").stdout
    instance = settings.rename(tmp_path / "ward-1.toml")
    assert (
        ask("--settings", instance, "list").exit_code == 74
    )  # that of the other station is not taken for it
    shutil.copytree(service, tmp_path / "aside")
    (tmp_path / "aside").rename(service / "ward-1")
    assert "a.png" in ask("--settings", instance, "list").stdout
