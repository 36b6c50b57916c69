"""Benches for the tests of CSV files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import projection, results
from edge.results import FIRST_IMAGE_COLUMNS
from tests.edge.projection.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench that an older version left, whose images.csv has two columns less."""
    with monkeypatch.context() as patch:
        patch.setattr(results, "IMAGE_COLUMNS", FIRST_IMAGE_COLUMNS)
        patch.setattr(results, "_unlikeness", lambda _: ())
        bench = Bench(tmp_path)
        bench.answer("a")
        bench.answer("b")
    yield bench
    bench.close()


@pytest.fixture
def no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file were so long that a change lies before the block that is compared always."""
    monkeypatch.setattr(projection, "_COMPARED_BYTES", 1)
    monkeypatch.setattr(projection, "_UNSYNCED_BYTES", 0)
