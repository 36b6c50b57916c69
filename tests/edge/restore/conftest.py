"""A station that has read its files once."""

from pathlib import Path

import pytest

from tests.edge.restore.bench import Station


@pytest.fixture
def station(tmp_path: Path) -> Station:
    station = Station(tmp_path)
    assert station.run() == 9
    return station
