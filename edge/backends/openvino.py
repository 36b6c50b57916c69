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
from edge.manifest import DetectorSpec, NetworkSpec

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
        self, bundle_path: Path, spec: NetworkSpec, precision: str, *, in_lanes: bool = False
    ) -> Session:
        """Compile the FP32 graph; the precision is the engine's business (see `Backend.open`).

        For shapes that are known OpenVINO plans memory and chooses kernels ahead: a detector takes 0.7 to 0.9
        of the time that it takes with an open batch. So it is compiled for several, and others are cut into
        them.
        """
        path = bundle_path / spec.graph.fp32
        config: dict[str, str | int] = {
            "PERFORMANCE_HINT": "THROUGHPUT" if in_lanes else "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
        }
        if threads := cpu_threads():
            # Pinned, the threads of several processes would all be on the first cores.
            config |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        # Four tiles of a field at once would be 5 % faster, and take 120 MB.
        most = 1 if isinstance(spec, DetectorSpec) else spec.at_once
        compiled = {}
        try:
            model = self._core.read_model(path)
            for batch in _batches(most, in_lanes):
                model.reshape([batch, spec.side_px, spec.side_px, 3])
                compiled[batch] = self._core.compile_model(model, _DEVICE, config)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot load {path} in {precision} ({_line(error)}); rebuild it."
            ) from error
        # Two lanes more than networks are computed at once: what else their images need fills the gaps.
        lanes = compiled[1].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 2 if in_lanes else 1
        return _OpenVinoSession(f"{path.name} on OpenVINO in {precision}", spec.side_px, compiled, lanes)


class _OpenVinoSession(Session):
    """A graph compiled for several batches; others are cut into them, the largest first."""

    def __init__(self, name: str, side_px: int, compiled: dict[int, ov.CompiledModel], lanes: int) -> None:
        super().__init__(name, side_px, lanes)
        self._compiled: dict[int, Any] = dict(compiled)
        self._mine = threading.local()
        self._outputs = [output.get_any_name() for output in compiled[1].outputs]

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        batch = np.ascontiguousarray(batch)
        try:
            if len(batch) in self._compiled:
                return self._answer(batch)
            answers: list[Outputs] = []
            done = 0
            while done < len(batch):
                size = max(size for size in self._compiled if size <= len(batch) - done)
                answer = self._answer(batch[done : done + size])
                answers.append({name: values.copy() for name, values in answer.items()})
                done += size
        except RuntimeError as error:
            raise BackendError(f"{self.name} failed ({_line(error)}); restart the station.") from error
        return {name: np.concatenate([answer[name] for answer in answers]) for name in self._outputs}

    def _answer(self, batch: NDArray[np.uint8]) -> Outputs:
        """Of one of the batches that it was compiled for; the request's own memory."""
        if not hasattr(self._mine, "requests"):
            self._mine.requests = {}
        requests = self._mine.requests
        if len(batch) not in requests:
            requests[len(batch)] = self._compiled[len(batch)].create_infer_request()
        request = requests[len(batch)]
        request.infer([ov.Tensor(batch, shared_memory=True)])
        return {name: request.get_output_tensor(i).data for i, name in enumerate(self._outputs)}

    def close(self) -> None:
        self._compiled, self._mine = {}, threading.local()


@cache
def _core() -> ov.Core:
    """One for the process: the CPU plugin sets a signal stack, and of two cores that are dropped in the order
    in which they were made the second leaves the stack of the first, which is gone.
    """
    return ov.Core()


def _batches(most: int, in_lanes: bool) -> list[int]:
    """One, two, four and so on up to `most`; in lanes the first and the last, since each takes memory."""
    return sorted({1, most} if in_lanes else {most, *(1 << power for power in range(most.bit_length()))})


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
