"""Where the engines of a bundle lie, and how they get there: whole, or not at all."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from build_engines.engine_network import Order
from build_engines.errors import EngineError, writing
from edge.bundle import file_sha256
from edge.engine_files import ENGINES_FOLDER, EngineFile, EngineRecord, Machine, Target, engines_of
from edge.locks import FolderLockedError, fsync_folder, locked_folder

log = logging.getLogger(__name__)

_LOCK = ".build.lock"


def plan_name(target: Target, order: Order, machine: Machine | None) -> str:
    """File name of a plan: its graph, its batch, and what it is for.

    That is a card's name for TensorRT, whose plans fit no other, and compute capabilities for TensorRT-RTX.
    """
    if target == "tensorrt" and machine is not None:
        fits = gpu_slug(machine.gpu)
    else:
        fits = "-".join(f"sm{capability.replace('.', '')}" for capability in order.compute_capabilities)
    return f"{order.onnx_path.stem}-b{order.batch}-{fits}.plan"


def gpu_slug(gpu: str) -> str:
    """A card's name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


@contextmanager
def building_in(folder: Path) -> Iterator[None]:
    """Keep other builds out of a folder of engines meanwhile: two would write into the same files.

    Raises:
        EngineError: another build is under way there, or the folder cannot be written.
    """
    with writing(folder, EngineError):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked_folder(folder, _LOCK):
            yield
    except FolderLockedError as error:
        raise EngineError(
            f"Another build is under way in {folder}; wait for its end, or give another folder with --out."
        ) from error


def write_engine(path: Path, plan: bytes, record: EngineRecord) -> EngineFile:
    """Write a plan, and then the record that makes it an engine.

    Whoever reads meanwhile, or after the power failed, finds the old engine, the new one, or a plan that is
    not the one of its record and is refused; never half a plan that is taken for an engine.

    Raises:
        EngineError: the folder cannot be written.
    """
    write_whole(path, plan)
    write_whole(path.with_suffix(".json"), f"{record.model_dump_json(indent=1)}\n".encode())
    return EngineFile(path, record)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file by another one, durably and at once.

    Raises:
        EngineError: the folder cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise EngineError(
            f"{path} cannot be written ({error.strerror}, {len(data) / 1e6:.0f} MB); make room, run it as "
            "who may write there, or give another folder with --out."
        ) from error


def remove_unreadable(folder: Path, target: Target) -> None:
    """Remove records of another version and their plans, which nobody can use.

    Args:
        folder: with `engines/`.
        target: whose engines.

    Raises:
        EngineError: the folder cannot be written.
    """
    engines = folder / ENGINES_FOLDER / target
    with writing(engines, EngineError):
        for path in engines.glob("*.json"):
            try:
                EngineRecord.model_validate_json(path.read_bytes())
            except ValidationError:
                log.warning("%s is no engine record of this version and is removed with its plan", path)
                path.unlink()
                path.with_suffix(".plan").unlink(missing_ok=True)


def unchanged_engine(
    folder: Path, target: Target, order: Order, library_version: str, machine: Machine | None
) -> EngineFile | None:
    """The engine that building this order would only repeat; None if it must be built.

    An engine that failed its gate is built again: two builds of one graph can differ.

    Args:
        folder: with `engines/`.
        target, order, library_version, machine: what would be built, and with what.
    """
    name = plan_name(target, order, machine)
    try:
        engine = next((one for one in engines_of(folder, target) if one.plan.name == name), None)
        if engine is None or file_sha256(engine.plan) != engine.record.plan_sha256:
            return None
    except OSError:  # the plan is gone
        return None
    record = engine.record
    same = (
        record.onnx_sha256 == file_sha256(order.onnx_path)
        and record.library_version == library_version
        and record.precision == order.precision
        and record.builder_level == order.builder_level
        and record.workspace_bytes == order.workspace_bytes
        and record.compute_capabilities == order.compute_capabilities
        and (target == "tensorrt_rtx" or (machine is not None and record.gpu == machine.gpu))
    )
    return engine if same and (record.gate is None or record.gate.passed) else None
