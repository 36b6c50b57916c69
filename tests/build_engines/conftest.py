"""What the tests of building share: one thread, and ultralytics away from the user's settings."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from build_engines.families import import_ultralytics


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for one another longer than these small networks take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """With a settings folder of its own, so that a test run leaves the user's alone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
        return import_ultralytics()
