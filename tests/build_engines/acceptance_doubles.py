"""An acceptance run on doubles of TensorRT, of the card and of NVML, and the faults that they can have."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from rich.console import Console

from build_engines import engines_build
from build_engines.acceptance import accept, steps
from build_engines.acceptance_images import KnownImages
from build_engines.acceptance_report import Report, Result, save
from build_engines.acceptance_run import Amounts, Means, Run
from build_engines.engine_network import Order
from build_engines.job import Job
from build_engines.preflight import Library, Preflight
from edge.backends.cuda import Buffer
from edge.bundle import Bundle, embedded_bundle
from edge.card_state import NvmlCard
from edge.demo.renderer import draw_tile
from edge.engine_files import EngineFile, EngineRecord
from edge.geometry import letterbox
from edge.overlay import encode_jpeg
from tests.build_engines.fake_nvml import BUS_ID, FakeNvml
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.engines import CARD, make_engine
from tests.edge.backends.fake_card import FakeCard, FakeMemory

AMOUNTS = Amounts(
    gate_images=1, cold_starts=1, steady_images=6, graph_images=3, pauses=2, idle_s=0.0, memory_images=20
)
FOUND = Preflight(
    CARD, "", {"tensorrt": Library(fake_tensorrt), "tensorrt_rtx": Library(None, "left out")}, 10**11
)
NO_COLD = json.dumps({"answered_ns": 0, "opened_ms": 1.0, "read_ms": 1.0, "leukocytes": 1})
"""What the cold start tells in tests that are not about it."""

NAMES = [step.name for step in steps()]

Damage = Callable[[list[Buffer], list[Buffer]], None]
"""Does something to the outputs of one run of an engine, given the inputs."""


class StrayingMemory(FakeMemory):
    """The double of the card's memory, whose answers go astray."""

    def __init__(self, card: FakeCard, damage: Damage, **options: Any) -> None:
        super().__init__(card, **options)
        self.damage = damage

    def run(self, inputs: Sequence[Buffer], launch: Callable[[], None], outputs: Sequence[Buffer]) -> None:
        super().run(inputs, launch, outputs)
        self.damage(list(inputs), list(outputs))


class RememberingSession:
    """ONNX Runtime's session, which computes each batch once: the tests here ask the same over and over."""

    def __init__(self, onnx: bytes) -> None:
        self.inner = ort.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs = self.inner.get_inputs, self.inner.get_outputs
        self.known: dict[tuple[str, bytes], list[Any]] = {}

    def run(self, names: list[str], feeds: dict[str, NDArray[Any]]) -> list[Any]:
        (batch,) = feeds.values()
        key = " ".join(names), hashlib.sha256(batch.tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.inner.run(names, feeds)
        return self.known[key]


@cache
def _remembering(onnx: bytes) -> RememberingSession:
    return RememberingSession(onnx)


def remembering_session(onnx_path: str) -> RememberingSession:
    """In place of the session that the double of TensorRT makes for each path."""
    return _remembering(Path(onnx_path).read_bytes())


def build_double(job: Job, console: Console, **faults: Any) -> list[EngineFile]:
    """The real way from a job to its files, but each engine is one of the double; faults of `plan_of`."""

    def build_engine(trt: Any, order: Order, *_: Any) -> tuple[bytes, EngineRecord]:
        return make_engine(order.onnx_path, order.batch, **faults)

    with patch.object(engines_build, "build_engine", build_engine):
        return engines_build.build_untried(job, console)


def shift_boxes(outputs: list[Buffer]) -> None:
    """Move the boxes of a detector's answer by thirty pixels."""
    for buffer in outputs:
        if buffer.host.shape[-1] == 4:
            buffer.host[...] += 30


@cache
def drawn(count: int) -> KnownImages:
    """A few drawn smears."""
    names = tuple(f"drawn smear {seed}" for seed in range(count))
    return KnownImages(
        names, tuple(encode_jpeg(draw_tile(seed).rgb) for seed in range(count)), f"{count} drawn"
    )


def run_on_doubles(
    card: FakeCard,
    scratch: Path,
    *,
    damage: Damage = lambda inputs, outputs: None,
    nvml: FakeNvml | None = None,
    images: KnownImages | None = None,
    found: Preflight = FOUND,
    amounts: Amounts = AMOUNTS,
    memory_options: dict[str, Any] | None = None,
    **means: Any,
) -> Run:
    """A run whose builder, card and NVML are doubles."""
    options = memory_options or {}
    chosen: dict[str, Any] = {
        "build": build_double,
        "make_memory": lambda: StrayingMemory(card, damage, **options),
        "find_nvml": lambda: NvmlCard(nvml or FakeNvml(), BUS_ID),
        "cold_command": (sys.executable, "-S", "-c", f"print('{NO_COLD}')"),
        "sleep": lambda seconds: None,
    }
    return Run(
        bundle=Bundle.load(embedded_bundle()),
        found=found,
        target="tensorrt",
        make_images=lambda: images or drawn(2),
        amounts=amounts,
        means=Means(**(chosen | means)),
        scratch=scratch,
        console=Console(stderr=True),
    )


def stray_on_the_second_image(inputs: list[Buffer], outputs: list[Buffer]) -> None:
    """Damage to the answer to the second of the drawn smears."""
    tile = second_tile()
    if inputs[0].host[0].shape == tile.shape and (inputs[0].host[0] == tile).all():
        shift_boxes(outputs)


@cache
def second_tile() -> NDArray[np.uint8]:
    """The second of the drawn smears, as the detector gets it."""
    spec = Bundle.load(embedded_bundle()).detector
    return letterbox(drawn(2).rgb(1), spec.tile_size, spec.anchor, spec.pad)[0]


def kept(run: Run, folder: Path) -> Report:
    """The run's report, written as the command does it."""
    return accept(run, lambda report: save(report, folder))


def results(report: Report) -> dict[str, Result]:
    """By step."""
    return {step.name: step.result for step in report.steps}


def why(report: Report, name: str) -> str:
    """A step did not pass."""
    return next(step.why for step in report.steps if step.name == name)
