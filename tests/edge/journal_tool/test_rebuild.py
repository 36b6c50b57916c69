"""`edge-journal rebuild` makes the CSV files anew from the journal."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edge import results
from edge.cells import Finding, Unlikeness
from edge.journal_file import JOURNAL_NAME
from edge.journal_tool import access
from edge.journal_tool.command import journal
from tests.edge.journal_tool.open_station import Station


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
    station.pipeline.likeness = Dull()
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
    for path in (busy.out / "results.csv", busy.out / "images.csv"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in ["edited by hand\n", *lines[1:]] if "z.png" not in line))
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
