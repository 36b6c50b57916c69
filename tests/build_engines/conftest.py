"""What the tests of building share: one thread, ultralytics' own settings folder, a double of a card."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch

from build_engines import acceptance_steps, job
from build_engines.families import import_ultralytics
from build_engines.gate import cpu_reference
from build_engines.reference import Reference
from edge.backends import tensorrt
from edge.bundle import Bundle, embedded_bundle
from edge.pipeline import Pipeline, open_pipeline
from tests.build_engines.acceptance_doubles import remembering_session
from tests.build_engines.small_bundle import built, checkpoints  # noqa: F401
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.fake_card import FakeCard


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


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    """The card on which the double of TensorRT works; it computes each batch once, and none of sixteen."""
    made = FakeCard()
    monkeypatch.setattr(fake_tensorrt, "card", made)
    monkeypatch.setattr(fake_tensorrt, "_session", remembering_session)
    monkeypatch.setattr(job, "CLASSIFIER_BATCHES", (1, 4))
    yield made
    tensorrt._say_once.cache_clear()


@pytest.fixture(scope="module")
def processor() -> Iterator[Pipeline]:
    """FP32 on the processor."""
    with open_pipeline(Bundle.load(embedded_bundle()), "onnxruntime", "f32") as opened:
        yield opened


@pytest.fixture(scope="module")
def references() -> dict[tuple[str, ...], Reference]:
    """What was computed before, by the names of its images."""
    return {}


@pytest.fixture
def known_reference(
    monkeypatch: pytest.MonkeyPatch, processor: Pipeline, references: dict[tuple[str, ...], Reference]
) -> None:
    """Acceptance runs that open FP32 and ask it once, for tests that are about something else."""

    def known(bundle: Bundle, rgbs: Mapping[str, Any], *more: Any) -> Reference:
        names = tuple(rgbs)
        if names not in references:
            references[names] = cpu_reference(bundle, rgbs, *more)
        return references[names]

    monkeypatch.setattr(acceptance_steps, "cpu_reference", known)
    monkeypatch.setattr(acceptance_steps, "open_pipeline", lambda *_: nullcontext(processor))
