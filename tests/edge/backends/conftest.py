"""What tests on the double of TensorRT share: its card, and a bundle with engines for it."""

from collections.abc import Iterator

import pytest

from edge.backends import tensorrt
from edge.bundle import Bundle
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.engines import with_engines
from tests.edge.backends.fake_card import FakeCard


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    """The card on which the double of TensorRT works."""
    made = FakeCard()
    monkeypatch.setattr(fake_tensorrt, "card", made)
    yield made
    tensorrt._say_once.cache_clear()  # what was said once is said again in the next test


@pytest.fixture(scope="session")
def equipped(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded bundle with an engine for each graph and batch; for tests that do not change it."""
    return with_engines(bundle, tmp_path_factory.mktemp("equipped") / "bundle")
