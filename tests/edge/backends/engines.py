"""Bundles with engines of the double of TensorRT."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from edge.backends.base import Session
from edge.backends.tensorrt import TensorRtBackend
from edge.bundle import Bundle, file_sha256
from edge.engine_files import ENGINES_FOLDER, EngineRecord, Machine, TensorSpec
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.fake_card import FakeCard, FakeMemory

CARD = Machine(gpu="Double of a card", compute_capability="8.6", driver="580.65.06", memory_bytes=1 << 28)
BATCHES = {"detector.fp16.onnx": (1, 4), "classifier.fp16.onnx": (1, 4, 16)}


def with_engines(bundle: Bundle, folder: Path, **faults: Any) -> Bundle:
    """A copy of a bundle, with an engine for each FP16 graph and `BATCHES`; faults as `plan_of` says."""
    shutil.copytree(bundle.path, folder)
    for graph, batches in BATCHES.items():
        for batch in batches:
            add_engine(folder, graph, batch, **faults)
    return Bundle.load(folder)


def add_engine(
    folder: Path,
    graph: str,
    batch: int,
    *,
    changes: dict[str, Any] | None = None,
    stem: str = "",
    **faults: Any,
) -> Path:
    """Write a plan and its record, some of which says something else. Returns the plan's path."""
    plan, record = make_engine(folder / graph, batch, **faults)
    path = folder / ENGINES_FOLDER / "tensorrt" / f"{stem or Path(graph).stem}-b{batch}-double.plan"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plan)
    path.with_suffix(".json").write_text(record.model_copy(update=changes or {}).model_dump_json())
    return path


def make_engine(onnx: Path, batch: int, **faults: Any) -> tuple[bytes, EngineRecord]:
    """A plan of a graph, and the record of one without faults."""
    plan = fake_tensorrt.plan_of(onnx, batch, **faults)
    honest = fake_tensorrt.Runtime(fake_tensorrt.ILogger()).deserialize_cuda_engine(
        fake_tensorrt.plan_of(onnx, batch)
    )
    assert honest is not None
    specs: dict[Any, dict[str, TensorSpec]] = {mode: {} for mode in fake_tensorrt.TensorIOMode}
    for name, (mode, shape, dtype) in honest.tensors.items():
        specs[mode][name] = TensorSpec(shape=shape, dtype=fake_tensorrt.nptype(dtype).__name__)
    record = EngineRecord(
        target="tensorrt",
        graph=onnx.name,
        onnx_sha256=file_sha256(onnx),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        batch=batch,
        builder_level=3,
        workspace_bytes=1 << 30,
        inputs=specs[fake_tensorrt.TensorIOMode.INPUT],
        outputs=specs[fake_tensorrt.TensorIOMode.OUTPUT],
        precision="f16",
        layer_types={"HALF": 1},
        library_version=fake_tensorrt.__version__,
        compute_capabilities=(CARD.compute_capability,),
        gpu=CARD.gpu,
        built_at="2026-11-22T00:00:00+00:00",
        build_s=1,
    )
    return plan, record


def backend_on(card: FakeCard, **options: Any) -> TensorRtBackend:
    """The backend on doubles; options of `FakeMemory`."""
    return TensorRtBackend(fake_tensorrt, "tensorrt", CARD, lambda: FakeMemory(card, **options))


def classifier_on(card: FakeCard, bundle: Bundle, **options: Any) -> Session:
    """The bundle's classifier on doubles."""
    spec = bundle.classifier
    assert spec is not None
    return backend_on(card, **options).open(bundle.path, spec, "f16")
