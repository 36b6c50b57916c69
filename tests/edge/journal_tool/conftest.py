"""What the tests of `edge-journal` share: a station, and one that has seen an image of every kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.journal_tool import reader, verify
from tests.edge.journal_tool.open_station import Station


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
