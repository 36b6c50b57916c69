"""Whose journal `edge-journal` opens, and what it says when it cannot be read."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.errors import JournalError
from edge.journal_file import JOURNAL_NAME
from edge.journal_tool import folders
from edge.journal_tool.command import journal
from edge.journal_tool.reader import JournalReader
from tests.edge.journal_tool.open_station import Station


def test_looking_leaves_the_journal_as_it_is(busy: Station) -> None:
    with closing(JournalReader(busy.out / ".edge")) as reader, pytest.raises(sqlite3.OperationalError):
        reader._db.execute("DELETE FROM images")


def test_who_may_only_read_sees_the_journal_of_a_station_that_stands(
    busy: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy.closing.close()
    before = sorted(path.name for path in (busy.out / ".edge").iterdir())
    assert not any(name.endswith("-wal") for name in before)
    may_only_read(monkeypatch)
    assert len(busy.asked("list")) == 7
    assert busy.differences() == []
    assert sorted(path.name for path in (busy.out / ".edge").iterdir()) == before


@pytest.mark.parametrize(
    "write",
    [
        lambda path: execute(path, "CREATE TABLE another (number)"),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"half of it"),
    ],
    ids=["other pages", "nonsense"],
)
def test_who_may_only_read_is_told_that_the_station_has_started_meanwhile(
    busy: Station, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object]
) -> None:
    busy.closing.close()
    may_only_read(monkeypatch)
    with closing(JournalReader(busy.out / ".edge")) as reader:
        assert reader.counts()
        write(reader.path)
        for look in (reader.faults, reader.counts, lambda: list(reader.images())):
            with pytest.raises(JournalError, match="the station has started; try again"):
                look()


def may_only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))


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
