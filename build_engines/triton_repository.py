"""A bundle as a model repository of NVIDIA's Triton Inference Server, for stations that share a server.

    DIR/detector/config.pbtxt, DIR/detector/1/model.onnx, and the same for `classifier`

As ONNX a model takes any batch up to a largest one, and the server joins the requests of several stations.
TensorRT plans are static: each batch has a model of its own, padded by the station (`model_name`).
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from build_engines.errors import EngineError, writing
from build_engines.replacing import put_in_place
from edge.backends.kserve_models import (
    BATCHES,
    BUNDLE_ID,
    DETECTOR,
    MODEL_SHA256,
    PRECISION,
    ServedGraph,
    Tensor,
    model_name,
    served_graphs,
)
from edge.bundle import Bundle, file_sha256
from edge.engine_files import EngineFile

_MARK = ".cytologia-edge"
"""A file that says that a folder is a repository which this module wrote, and may replace."""

_PREFERRED_BATCHES = {True: (4,), False: (4, 16)}
"""By whether it is the detector; the last is the largest batch of the ONNX model."""
_QUEUE_DELAY_US = 500
"""How long a request waits for others to join it."""


@dataclass(frozen=True, slots=True)
class _Model:
    """One model of the repository.

    Attributes:
        batch: its static batch; None: any up to the last of `preferred`.
        parameters: what a station reads of it.
    """

    name: str
    source: Path
    sha256: str
    batch: int | None
    preferred: tuple[int, ...]
    parameters: dict[str, str]


def write_triton_repository(
    bundle: Bundle,
    folder: Path,
    *,
    precision: Literal["f16", "f32"] = "f16",
    plans: Sequence[EngineFile] = (),
) -> None:
    """Write the repository; `folder` is replaced only by a whole one.

    Args:
        bundle: what to serve; the stations need the same.
        folder: of the repository.
        precision: which ONNX graph is served.
        plans: TensorRT engines of the bundle's graphs, of one card, in place of ONNX; a graph without any is
            served as ONNX. Triton loads only plans of its own TensorRT's version.

    Raises:
        BundleError: the bundle cannot be read.
        EngineError: a plan does not fit, or `folder` is something else or cannot be written.
    """
    graphs = served_graphs(bundle)
    models = {graph.name: _models(bundle, graph, precision, plans) for graph in graphs}
    with writing(folder, EngineError):
        _require_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for graph in graphs:
                for model in models[graph.name]:
                    _write_model(unfinished, graph, model)
            (unfinished / _MARK).write_text(f"{bundle.id}\n", "utf-8")
            unfinished.chmod(0o755)
            put_in_place(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _require_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder / _MARK).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise EngineError(
            f"{folder} is not empty and no Triton repository that was written here; give another folder."
        )


def _models(
    bundle: Bundle, graph: ServedGraph, precision: Literal["f16", "f32"], plans: Sequence[EngineFile]
) -> list[_Model]:
    parameters = {BUNDLE_ID: bundle.id}
    preferred = _PREFERRED_BATCHES[graph.name == DETECTOR]
    own = sorted(
        (plan for plan in plans if plan.record.graph in (graph.files.fp32, graph.files.fp16)),
        key=lambda plan: plan.record.batch,
    )
    if not own:
        source = bundle.path / (graph.files.fp16 if precision == "f16" else graph.files.fp32)
        sha256 = bundle.manifest.sha256[source.name]
        parameters |= {PRECISION: precision}
        return [_Model(graph.name, source, sha256, None, preferred, parameters)]
    batches = [plan.record.batch for plan in own]
    _require_fitting(bundle, graph, own, batches)
    parameters |= {PRECISION: own[0].record.precision, BATCHES: " ".join(map(str, batches))}
    return [
        _Model(
            model_name(graph.name, batch, batch == batches[0]),
            plan.plan,
            plan.record.plan_sha256,
            batch,
            (),
            parameters | {"cytologia_tensorrt": plan.record.library_version},
        )
        for plan, batch in zip(own, batches, strict=True)
    ]


def _require_fitting(
    bundle: Bundle, graph: ServedGraph, plans: Sequence[EngineFile], batches: Sequence[int]
) -> None:
    if len(set(batches)) < len(batches) or len({plan.record.precision for plan in plans}) > 1:
        raise EngineError(
            f"The plans of {graph.name} have the batches {', '.join(map(str, batches))} and the precisions "
            f"{', '.join(plan.record.precision for plan in plans)}; give one for each batch, of one card and "
            "one precision."
        )
    expected = {tensor.name: tensor.shape for tensor in (graph.input, *graph.outputs)}
    for plan in plans:
        record = plan.record
        onnx_sha256 = bundle.manifest.sha256[record.graph]
        found = {name: spec.shape[1:] for name, spec in (record.inputs | record.outputs).items()}
        fault = ""
        if record.target != "tensorrt":
            fault = f"is for {record.target}, and Triton takes tensorrt"
        elif record.onnx_sha256 != onnx_sha256:
            fault = f"is of the ONNX {record.onnx_sha256[:12]}, and the bundle has {onnx_sha256[:12]}"
        elif found != expected:
            fault = f"has {found}, and the bundle's graph {expected}"
        elif record.gate is not None and not record.gate.passed:
            fault = "failed its accuracy gate"
        if fault:
            raise EngineError(f"{plan.plan} {fault}; build it again, or leave it out to serve ONNX.")


def _write_model(repository: Path, graph: ServedGraph, model: _Model) -> None:
    version = repository / model.name / "1"
    version.mkdir(parents=True)
    target = version / ("model.onnx" if model.batch is None else "model.plan")
    shutil.copyfile(model.source, target)
    if (found := file_sha256(target)) != model.sha256:
        raise EngineError(
            f"{model.source} has sha256 {found[:12]}… and should have {model.sha256[:12]}…; build it again."
        )
    (version.parent / "config.pbtxt").write_text(_config(graph, model), "utf-8")


def _config(graph: ServedGraph, model: _Model) -> str:
    """The model's configuration: a `ModelConfig` of Triton's in protobuf's text format."""
    is_static = model.batch is not None
    lines = [
        f"name: {_quoted(model.name)}",
        f'platform: "{"tensorrt_plan" if is_static else "onnxruntime_onnx"}"',
        f"max_batch_size: {0 if is_static else model.preferred[-1]}",
        *_tensors("input", [graph.input], model.batch),
        *_tensors("output", graph.outputs, model.batch),
    ]
    if not is_static:
        sizes = ", ".join(map(str, model.preferred))
        lines.append(
            f"dynamic_batching {{ preferred_batch_size: [{sizes}] "
            f"max_queue_delay_microseconds: {_QUEUE_DELAY_US} }}"
        )
    # Only a card runs a plan. ONNX runs on the card if there is one.
    lines.append(f"instance_group [{{ count: 1 kind: {'KIND_GPU' if is_static else 'KIND_AUTO'} }}]")
    lines += _warm_up(graph.input, model)
    for key, value in (model.parameters | {MODEL_SHA256: model.sha256}).items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    return "\n".join(lines) + "\n"


def _tensors(kind: str, tensors: Iterable[Tensor], batch: int | None) -> list[str]:
    """Shapes are without the batch where that is open, and with it where it is static."""
    return [
        f"{kind} [{{ name: {_quoted(tensor.name)} data_type: TYPE_{tensor.datatype} "
        f"dims: {_dims(tensor, batch)} }}]"
        for tensor in tensors
    ]


def _warm_up(tensor: Tensor, model: _Model) -> list[str]:
    """Every shape is computed once before the server says that the model is ready."""
    data = f"data_type: TYPE_{tensor.datatype} dims: {_dims(tensor, model.batch)} zero_data: true"
    return [
        f'model_warmup [{{ name: "batch {model.batch or size}" batch_size: {size} '
        f"inputs {{ key: {_quoted(tensor.name)} value {{ {data} }} }} }}]"
        for size in (1, *model.preferred)
    ]


def _dims(tensor: Tensor, batch: int | None) -> list[int]:
    return list(tensor.shape if batch is None else (batch, *tensor.shape))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
