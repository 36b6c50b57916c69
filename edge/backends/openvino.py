"""Graphs on the CPU through OpenVINO."""

import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Backend, Outputs, Session, cpu_threads
from edge.errors import BackendError
from edge.manifest import GraphFiles

# Importing openvino imports its converter, which reports to Google Analytics and leaves an id in the home
# folder, unless this package is missing; then it takes a stub of its own.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

_DEVICE = "CPU"
_CAPABILITY_OF = {"bf16": "BF16", "f16": "FP16", "f32": "FP32"}


class OpenVinoBackend(Backend):
    """The CPU plugin, tuned for the latency of one image, or in lanes for images a second."""

    name = "openvino"
    has_lanes = True

    def __init__(self) -> None:
        self._core = _core()

    def precisions(self) -> Sequence[str]:
        """Those that the processor has instructions for, narrow ones first: they are what is fast on it."""
        has = set(self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"))
        return [precision for precision, capability in _CAPABILITY_OF.items() if capability in has]

    def open(
        self, bundle_path: Path, graph: GraphFiles, side_px: int, precision: str, *, in_lanes: bool = False
    ) -> Session:
        """Compile the FP32 graph; the precision is the engine's business (see `Backend.open`)."""
        path = bundle_path / graph.fp32
        config: dict[str, str | int] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if in_lanes else "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        if threads := cpu_threads():
            # Pinned, the threads of several processes would all be on the first cores.
            config |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        try:
            compiled = self._core.compile_model(path, _DEVICE, config)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot load {path} in {precision} ({_line(error)}); rebuild it."
            ) from error
        # One lane more than networks are computed at once: what else its image needs fills the gaps.
        lanes = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1 if in_lanes else 1
        return _OpenVinoSession(f"{path.name} on OpenVINO in {precision}", side_px, compiled, lanes)


class _OpenVinoSession(Session):
    def __init__(self, name: str, side_px: int, compiled: ov.CompiledModel, lanes: int) -> None:
        super().__init__(name, side_px, lanes)
        self._compiled: Any = compiled
        self._requests = threading.local()
        self._outputs = [output.get_any_name() for output in compiled.outputs]

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        try:
            if not hasattr(self._requests, "mine"):
                self._requests.mine = self._compiled.create_infer_request()
            request = self._requests.mine
            request.infer([ov.Tensor(np.ascontiguousarray(batch), shared_memory=True)])
        except RuntimeError as error:
            raise BackendError(f"{self.name} failed ({_line(error)}); restart the station.") from error
        return {name: request.get_output_tensor(i).data for i, name in enumerate(self._outputs)}

    def close(self) -> None:
        self._compiled, self._requests = None, threading.local()


@cache
def _core() -> ov.Core:
    """One for the process: the CPU plugin sets a signal stack, and of two cores that are dropped in the order
    in which they were made the second leaves the stack of the first, which is gone.
    """
    return ov.Core()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
