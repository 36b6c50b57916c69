"""TensorRT engines of a bundle: what each was built from and for, and which of them fit this machine.

An engine is a plan, which nobody can look into without a card, and a record beside it:
`engines/<target>/<graph>-b<batch>-<what for>.plan` and the same name with `.json`. Shapes are static: one
plan for each batch size.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge.bundle import file_sha256
from edge.errors import BackendError
from edge.manifest import GateResult

log = logging.getLogger(__name__)

Target = Literal["tensorrt", "tensorrt_rtx"]
TARGETS: tuple[Target, ...] = ("tensorrt", "tensorrt_rtx")
ENGINES_FOLDER = "engines"
REBUILD = "`python build_engines/build.py`"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(_Part):
    """An input or output of an engine: its static shape and NumPy's name of its type."""

    shape: tuple[int, ...]
    dtype: str


class EngineRecord(_Part):
    """What stands in the json beside a plan.

    Attributes:
        graph: file name of the ONNX graph in the bundle.
        builder_level, workspace_bytes: what the builder was given to choose with.
        layer_types: how many layer outputs have which type ("HALF", "FLOAT" ...): proof of the precision.
        library_version: of TensorRT or TensorRT-RTX, whose plans fit no other version.
        compute_capabilities: of the cards that it is for, like "8.6".
        gpu, driver: of the card that it was built on; empty if it was built without one.
        gate: how far it strays from the FP32 reference; None where no card could run it.
    """

    schema_version: Literal[1] = 1
    target: Target
    graph: str
    onnx_sha256: str
    plan_sha256: str
    batch: int
    builder_level: int
    workspace_bytes: int
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    precision: Literal["f16", "f32"]
    layer_types: dict[str, int]
    library_version: str
    compute_capabilities: tuple[str, ...]
    gpu: str = ""
    driver: str = ""
    built_at: str
    build_s: float
    gate: GateResult | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """The card and the libraries of this machine.

    Attributes:
        compute_capability: like "8.6".
        driver: its version, like "580.65.06".
        memory_bytes: of the card.
    """

    gpu: str
    compute_capability: str
    driver: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class EngineFile:
    """A plan and its record."""

    plan: Path
    record: EngineRecord

    def read(self) -> bytes:
        """The plan's bytes.

        Raises:
            BackendError: they are missing or damaged.
        """
        try:
            data = self.plan.read_bytes()
        except OSError as error:
            raise BackendError(f"{self.plan} cannot be read ({error.strerror}); run {REBUILD}.") from error
        if hashlib.sha256(data).hexdigest() != self.record.plan_sha256:
            raise BackendError(f"{self.plan} is not the plan that its record describes; run {REBUILD}.")
        return data


def engines_of(bundle_path: Path, target: Target) -> list[EngineFile]:
    """All engines of a target in a bundle, in the order of their names; an unreadable record is none.

    Raises:
        BackendError: their folder may not be read.
    """
    found = []
    folder = bundle_path / ENGINES_FOLDER / target
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except (FileNotFoundError, NotADirectoryError):
        paths = []
    except OSError as error:
        raise BackendError(
            f"{folder} cannot be read ({error.strerror}); give the station's user the right to read it."
        ) from error
    for path in paths:
        try:
            record = EngineRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
            log.warning("%s is no engine record of this version (%s); run %s.", path, first, REBUILD)
            continue
        found.append(EngineFile(path.with_suffix(".plan"), record))
    return found


def fitting_engines(
    bundle_path: Path, target: Target, graph: str, library_version: str, machine: Machine
) -> list[EngineFile]:
    """The engines of a graph that fit this machine, the smallest batch first.

    Raises:
        BackendError: there are none; names both values of what does not fit, and the command that rebuilds.
    """
    engines = [engine for engine in engines_of(bundle_path, target) if engine.record.graph == graph]
    if not engines:
        raise BackendError(f"{bundle_path} has no {target} engine of {graph}; run {REBUILD}.")
    onnx_sha256 = file_sha256(bundle_path / graph)
    faults = [_fault(engine.record, onnx_sha256, library_version, machine) for engine in engines]
    fitting = [engine for engine, fault in zip(engines, faults, strict=True) if not fault]
    if not fitting:
        raise BackendError(f"{engines[0].plan} {faults[0]}; run {REBUILD}.")
    return sorted(fitting, key=lambda engine: engine.record.batch)


def _fault(record: EngineRecord, onnx_sha256: str, library_version: str, machine: Machine) -> str:
    """Why an engine does not fit, "" if it does."""
    if record.onnx_sha256 != onnx_sha256:
        was, has, now = f"the ONNX {record.onnx_sha256[:12]}", "the bundle has", onnx_sha256[:12]
    elif record.library_version != library_version:
        was, has, now = f"{record.target} {record.library_version}", "this machine has", library_version
    elif machine.compute_capability not in record.compute_capabilities:
        was = f"compute capability {' or '.join(record.compute_capabilities)}"
        has, now = f"this machine's {machine.gpu} has", machine.compute_capability
    elif record.target == "tensorrt" and record.gpu != machine.gpu:
        was, has, now = record.gpu or "no card", "this machine has", machine.gpu
    elif record.gate is not None and not record.gate.passed:
        off = record.gate
        return (
            f"failed its gate (boxes {off.box_px:.3g} px, scores {off.score:.3g}, probabilities "
            f"{off.probability:.3g} off)"
        )
    else:
        return ""
    return f"is for {was} and {has} {now}"
