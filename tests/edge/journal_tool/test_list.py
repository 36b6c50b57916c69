"""`edge-journal list`, beside a station at work."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge.journal_file import JOURNAL_NAME
from edge.journal_tool.reader import JournalReader
from tests.edge.journal_tool.open_station import Station


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


def test_a_status_lists_only_files_whose_last_answer_it_is(station: Station) -> None:
    (station.folder / "in/a.png").write_bytes(b"half a file")
    station.desk.process(station.folder / "in/a.png")
    (station.folder / "in/b.png").write_bytes(b"no image")
    station.desk.process(station.folder / "in/b.png")
    station.read("a.png", 9)
    assert station.statuses("--status", "rejected") == [("b.png", "rejected")]
    assert station.statuses("--status", "rejected", "--limit", 1) == [("b.png", "rejected")]
    assert len(station.statuses()) == 3


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
