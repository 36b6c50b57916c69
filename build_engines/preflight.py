"""What this machine can build, and why not; nothing is changed by looking."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from build_engines.engine import known_capabilities
from edge.backends.cuda import probe
from edge.bundle import Bundle
from edge.engine_files import TARGETS, Machine, Target, engines_of
from edge.errors import EngineAway

_OLDEST: dict[Target, tuple[int, int]] = {"tensorrt": (10, 13), "tensorrt_rtx": (1, 7)}
_PACKAGE: dict[Target, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13"}
_LEAST_CAPABILITY = (7, 5)
"""Turing, the oldest that TensorRT 10.13 builds for."""
_DISK_BYTES = 1_000_000_000
"""More than all plans of the embedded bundle for any one card; those for Turing took most, 0.6 GB."""
_PACKAGES = ("pycuda", "cuda-bindings", "openvino", "onnxruntime", "polygraphy", "torch", "onnx")


def installed_version(package: str) -> str:
    """The version of a package, "" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Library:
    """TensorRT or TensorRT-RTX on this machine.

    Attributes:
        module: None where it cannot be used.
        why_not: in a few words.
    """

    module: Any | None
    why_not: str = ""

    @property
    def version(self) -> str:
        """Its version, "" where it cannot be used."""
        return "" if self.module is None else str(self.module.__version__)


def find_library(target: Target) -> Library:
    """Import a library, if it is there and new enough."""
    advice = f"`pip install {_PACKAGE[target]}`"
    try:
        module = import_module(target)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == target:
            return Library(None, f"{target} is not installed; {advice}")
        # Libraries of its own are missing or do not fit.
        return Library(None, f"{target} does not load ({' '.join(str(error).split())}); {advice} again")
    oldest = _OLDEST[target]
    parts = [int(part) if part.isdigit() else 0 for part in module.__version__.split(".")[:2]]
    if tuple(parts) < oldest:
        return Library(
            None, f"{target} is {module.__version__} and must be {oldest[0]}.{oldest[1]} or newer; {advice}"
        )
    return Library(module)


@dataclass(frozen=True, slots=True)
class Preflight:
    """The machine, the libraries and the disk.

    Attributes:
        machine: the card; None without one.
        no_card: why there is none, in a few words.
        disk_bytes: that are free where engines are written.
    """

    machine: Machine | None
    no_card: str
    libraries: dict[Target, Library]
    disk_bytes: int

    @classmethod
    def look(cls, folder: Path) -> "Preflight":
        """Look at this machine; `folder` is where engines are written."""
        try:
            card = probe()
        except EngineAway as error:
            card = str(error).rstrip(".")
        machine, no_card = (None, card) if isinstance(card, str) else (card, "")
        there = next(path for path in (folder, *folder.absolute().parents) if _is_seen(path))
        libraries = {target: find_library(target) for target in TARGETS}
        return cls(machine, no_card, libraries, shutil.disk_usage(there).free)

    def why_not(self, target: Target, *, for_another_card: bool = False) -> str:
        """Why a target cannot be built here, "" if it can.

        Args:
            target: which.
            for_another_card: for named compute capabilities, which TensorRT-RTX does without any card.
        """
        library = self.libraries[target]
        reasons = []
        if target == "tensorrt" or not for_another_card:
            if self.machine is None:
                reasons.append(self.no_card)
            elif tuple(map(int, self.machine.compute_capability.split("."))) < _LEAST_CAPABILITY:
                reasons.append(
                    f"{self.machine.gpu} has compute capability {self.machine.compute_capability}, and "
                    "7.5 is the least"
                )
            elif find_spec("pycuda") is None:
                reasons.append("pycuda is not installed; `pip install pycuda`, which needs the CUDA toolkit")
        if library.why_not:
            reasons.append(library.why_not)
        if self.disk_bytes < _DISK_BYTES:
            reasons.append(
                f"{self.disk_bytes / 1e9:.1f} GB of disk are free, and {_DISK_BYTES / 1e9:.0f} GB are needed"
            )
        return "; ".join(reasons)

    def best_target(self, among: Sequence[Target] = TARGETS) -> Target | None:
        """What is built on this machine's card: TensorRT, else TensorRT-RTX; None where none can be."""
        return next((target for target in among if not self.why_not(target)), None)


def _is_seen(path: Path) -> bool:
    """Whether it exists, as far as this user may look."""
    try:
        return path.exists()
    except PermissionError:
        return False


def print_preflight(found: Preflight, bundle: Bundle) -> None:
    """The table of `build.py --check`, on standard output."""
    table = Table("", "found", title="this machine", show_header=False)
    machine = found.machine
    table.add_row("driver", (machine.driver or "unknown") if machine else found.no_card)
    if machine is not None:
        table.add_row("card", escape(machine.gpu))
        table.add_row("compute capability", machine.compute_capability)
        table.add_row("memory of the card", f"{machine.memory_bytes / 1e9:.1f} GB")
    for target in TARGETS:
        library = found.libraries[target]
        table.add_row(target, escape(library.version or library.why_not))
    for package in _PACKAGES:
        table.add_row(package, installed_version(package) or "not installed")
    table.add_row("disk", f"{found.disk_bytes / 1e9:.1f} GB free")
    table.add_row("bundle", f"{bundle.id} in {escape(str(bundle.path))}")
    table.add_section()
    for target in TARGETS:
        table.add_row(f"engines, {target}", _engines(bundle, target))
    table.add_section()
    for target in TARGETS:
        reason = found.why_not(target)
        table.add_row(f"build {target}", escape(f"no: {reason}" if reason else "yes, on this card"))
    reason = found.why_not("tensorrt_rtx", for_another_card=True)
    module = found.libraries["tensorrt_rtx"].module
    cards = f"yes, for compute capability {', '.join(known_capabilities(module))}" if module else ""
    table.add_row("build tensorrt_rtx for other cards", escape(f"no: {reason}" if reason else cards))
    lacking = [package for package in ("torch", "onnx") if find_spec(package) is None]
    table.add_row(
        "build onnx from checkpoints",
        f"no: {' and '.join(lacking)} not installed; pip install '.\\[training]'" if lacking else "yes",
    )
    Console().print(table)


def _engines(bundle: Bundle, target: Target) -> str:
    return escape(", ".join(engine.plan.name for engine in engines_of(bundle.path, target))) or "none"
