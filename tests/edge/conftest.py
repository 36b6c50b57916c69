"""What the station's tests share: the embedded bundle on an engine, drawn smears, no thread that stays."""

import threading
from collections.abc import Iterator

import pytest

from edge import projection
from edge.bundle import Bundle, embedded_bundle
from edge.demo.renderer import DrawnSmear, draw_tile
from edge.pipeline import Pipeline, open_pipeline


@pytest.fixture(autouse=True)
def nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits a CSV file here has ended."""
    monkeypatch.setattr(projection, "_QUIET_S", 0)


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return Bundle.load(embedded_bundle())


@pytest.fixture(scope="session")
def pipeline(bundle: Bundle) -> Iterator[Pipeline]:
    with open_pipeline(bundle) as opened:
        yield opened


@pytest.fixture(scope="session")
def smear() -> DrawnSmear:
    return draw_tile(7, "PNN")


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
