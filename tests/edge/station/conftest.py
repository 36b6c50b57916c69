"""What the tests of the daemon share: its settings, and a double of systemd."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.settings import Settings, load_settings
from tests.edge.station.at_work import Listener


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    (tmp_path / "in").mkdir()
    return load_settings(inbox=tmp_path / "in", out=tmp_path / "out", quiet_period_s=0.05)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path)
    yield listener
    listener.socket.close()
