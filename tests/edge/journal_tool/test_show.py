"""`edge-journal show`, beside a station at work."""

import hashlib
import os
from pathlib import Path

from edge.results import unescape
from tests.edge.journal_tool.open_station import Station

ODD_NAMES = (b"a\nb.png", "‮gnp.exe".encode(), b"\xff\xfe.png", b"back\\x41, and comma.png", b"\x1b[2J.png")


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
