"""The seam between the station and an inference engine.

An engine's file subclasses `Session` and `Backend` and writes only what is the engine's own; shapes, types
and finiteness are checked here, once for all. Engines are imported when they are opened.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import BackendError
from edge.manifest import NetworkSpec

Outputs = dict[str, NDArray[Any]]

CPU_THREADS_VARIABLE = "CYTOLOGIA_CPU_THREADS"
"""Environment variable: how many threads an engine on the CPU may use; all cores without it."""


class BackendAbsent(BackendError):
    """A backend cannot be had on this machine.

    Attributes:
        reason: why, in a few words.
    """

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(
            f"The backend {backend!r} cannot be used here: {reason}; mend that, or choose another backend."
        )
        self.reason = reason


class Session(ABC):
    """One graph, loaded and compiled.

    Attributes:
        lanes: how many threads may use it at once.
        build: sha256 of what was built ahead for this machine; "" where opening compiles the graph.
        built_for: sizes of batches for each of which something of its own was built ahead; empty where one
            graph takes any.
    """

    build: str = ""
    built_for: Sequence[int] = ()

    def __init__(self, name: str, side_px: int, lanes: int = 1) -> None:
        self.name = name
        self.side_px = side_px
        self.lanes = lanes

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run the graph.

        Args:
            batch: uint8 [B, S, S, 3] RGB, B at least 1.

        Returns:
            The graph's outputs by name. They belong to the caller until the next run in the same thread.

        Raises:
            BackendError: the engine failed, or gave a number that is not finite.
            ValueError: the batch has another shape or type.
        """
        expected = (self.side_px, self.side_px, 3)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected or not len(batch):
            raise ValueError(f"{self.name} takes uint8 [B, {', '.join(map(str, expected))}], not "
                             f"{batch.dtype} {list(batch.shape)}")  # fmt: skip
        outputs = self._run(batch)
        for output, values in outputs.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise BackendError(
                    f"{self.name} gave a value of {output!r} that is not finite; restart, and rebuild "
                    "the engine if it comes again."
                )
        return outputs

    @property
    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds by stage of the last run, as the engine itself measured them; empty if it does not."""
        return {}

    @abstractmethod
    def _run(self, batch: NDArray[np.uint8]) -> Outputs: ...

    @abstractmethod
    def close(self) -> None:
        """Give the engine's memory back."""


class Backend(ABC):
    """One inference engine on this machine.

    Attributes:
        name: one of `BACKEND_NAMES`.
        why: what speaks for it on this machine, in a few words; "" if nothing in particular.
        has_lanes: whether several images at once, each in a thread of its own, are faster than one after the
            other with all of the machine.
    """

    name: str
    why: str = ""
    has_lanes: bool = False

    @abstractmethod
    def precisions(self) -> Sequence[str]:
        """The precisions that this machine computes in, fastest first: "bf16", "f16", "f32"."""

    @abstractmethod
    def open(
        self, bundle_path: Path, spec: NetworkSpec, precision: str, *, in_lanes: bool = False
    ) -> Session:
        """Load a graph.

        Args:
            bundle_path: folder of the graph's files.
            spec: the network of the graph.
            precision: one of `precisions()`.
            in_lanes: for as many threads as bring the most images a second, in place of one that waits the
                shortest time; only where the backend has lanes.

        Raises:
            BackendError: the engine does not take the graph.
        """


# Module, what makes the backend, and the packages that it needs.
_BACKENDS = {
    "tensorrt": ("edge.backends.tensorrt", "tensorrt_backend", "tensorrt pycuda"),
    "tensorrt_rtx": ("edge.backends.tensorrt", "tensorrt_rtx_backend", "tensorrt-rtx-cu13 pycuda"),
    "openvino": ("edge.backends.openvino", "OpenVinoBackend", "openvino"),
    "onnxruntime": ("edge.backends.onnxruntime", "OnnxRuntimeBackend", "onnxruntime"),
    "kserve": ("edge.backends.kserve", "KServeBackend", "'tritonclient[http]'"),
}
BACKEND_NAMES = tuple(_BACKENDS)
AUTO_BACKEND_NAMES = tuple(name for name in _BACKENDS if name != "kserve")
"""Fastest first: "auto" tries them in this order. It never sends images to a server."""
CPU_BACKEND_NAMES = ("openvino", "onnxruntime")
"""Those that need no card and nothing built ahead."""


def cpu_threads() -> int | None:
    """What `CPU_THREADS_VARIABLE` says; None: the engine decides.

    Raises:
        BackendError: it is no number of threads.
    """
    text = os.environ.get(CPU_THREADS_VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise BackendError(f"{CPU_THREADS_VARIABLE} is {text!r}; set it to a number from 1, or unset it.")
    return int(text)


def require_backend_name(name: str) -> None:
    """Raises BackendError: there is no such backend."""
    if name not in _BACKENDS:
        *names, last = BACKEND_NAMES
        raise BackendError(f"There is no backend {name!r}; use auto, {', '.join(names)} or {last}.")


def find_backend(name: str, server_url: str | None = None) -> Backend:
    """A backend by name.

    Args:
        name: one of `BACKEND_NAMES`.
        server_url: of the server, for "kserve"; None: the usual port on this machine.

    Raises:
        BackendAbsent: its package is not installed, or this machine has not what it needs.
        BackendError: there is no such backend.
    """
    require_backend_name(name)
    module, make, packages = _BACKENDS[name]
    try:
        given = [server_url] if name == "kserve" and server_url else []
        found: Backend = getattr(import_module(module), make)(*given)
    except ImportError as error:
        raise BackendAbsent(name, f"not installed ({error}), `pip install {packages}` does it") from error
    return found
