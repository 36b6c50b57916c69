"""What the tests of the desk share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.desk.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()
