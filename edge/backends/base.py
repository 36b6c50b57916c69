"""The seam between the station and an inference engine.

An engine's file subclasses `Session` and `Backend` and writes only what is the engine's own; shapes, types
and finiteness are checked here, once for all. Engines are imported when they are opened.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edge.bundle import GraphFiles
from edge.errors import BackendError

Outputs = dict[str, NDArray[Any]]


class Session(ABC):
    """One graph, loaded and compiled. Not for use by several threads at once."""

    def __init__(self, name: str, side_px: int) -> None:
        self.name = name
        self.side_px = side_px

    def run(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run the graph.

        Args:
            batch: uint8 [B, S, S, 3] RGB, B at least 1.

        Returns:
            The graph's outputs by name. They belong to the caller until the next run.

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

    @abstractmethod
    def _run(self, batch: NDArray[np.uint8]) -> Outputs: ...

    @abstractmethod
    def close(self) -> None:
        """Give the engine's memory back."""


class Backend(ABC):
    """One inference engine on this machine."""

    name: ClassVar[str]

    @abstractmethod
    def precisions(self) -> Sequence[str]:
        """The precisions that this machine computes in, fastest first: "bf16", "f16", "f32"."""

    @abstractmethod
    def open(self, bundle_path: Path, graph: GraphFiles, side_px: int, precision: str) -> Session:
        """Load a graph.

        Args:
            bundle_path: folder of the graph's files.
            graph: its files.
            side_px: side of its square input.
            precision: one of `precisions()`.

        Raises:
            BackendError: the engine does not take the graph.
        """


_BACKENDS = {
    "openvino": ("edge.backends.openvino", "OpenVinoBackend"),
    "onnxruntime": ("edge.backends.onnxruntime", "OnnxRuntimeBackend"),
}
BACKEND_NAMES = tuple(_BACKENDS)


def find_backend(name: str) -> Backend:
    """A backend by name; "auto" is the one that is fastest here.

    Raises:
        BackendError: there is no such backend, or its package is not installed.
    """
    wanted = "openvino" if name == "auto" else name
    if wanted not in _BACKENDS:
        raise BackendError(f"There is no backend {name!r}; use auto, {' or '.join(BACKEND_NAMES)}.")
    module, cls = _BACKENDS[wanted]
    try:
        found: Backend = getattr(import_module(module), cls)()
    except ImportError as error:
        raise BackendError(
            f"The backend {wanted!r} is not installed ({error}); `pip install {wanted}` or choose another."
        ) from error
    return found
