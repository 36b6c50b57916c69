"""An inbox that polls, by a clock of the tests."""

from pathlib import Path

import pytest

from edge import inbox as inbox_module
from edge.inbox import Inbox
from tests.edge.inbox.bench import Clock, Known


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Known:
    return clock.known


@pytest.fixture
def polling(root: Path, known: Known, clock: Clock) -> Inbox:
    inbox = Inbox(root, known.knows, watch="polling", clock=clock)
    inbox.start()
    return inbox


@pytest.fixture
def scans_s(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[float]:
    """When scans began."""
    begun: list[float] = []
    walk = inbox_module.walk
    monkeypatch.setattr(inbox_module, "walk", lambda *args: begun.append(clock.now_s) or walk(*args))
    return begun
