"""Graphs on the CPU through ONNX Runtime: the reference of the gates, and a second engine."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Backend, Outputs, Session, cpu_threads
from edge.errors import BackendError
from edge.manifest import NetworkSpec

# Read when the library is loaded: without it, this wheel leaves an id in the home folder and reports to
# Microsoft. Its function to disable events comes too late for both.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort


class OnnxRuntimeBackend(Backend):
    """The CPU execution provider."""

    name = "onnxruntime"
    has_lanes = True

    def precisions(self) -> Sequence[str]:
        """FP32; the FP16 graph runs too, but slower, since the provider casts around every layer."""
        return ["f32", "f16"]

    def open(
        self, bundle_path: Path, spec: NetworkSpec, precision: str, *, in_lanes: bool = False
    ) -> Session:
        """Load the graph of the precision (see `Backend.open`)."""
        path = bundle_path / (spec.graph.fp16 if precision == "f16" else spec.graph.fp32)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; what it warns of (a node on another provider) is no fault
        options.intra_op_num_threads = cpu_threads() or 0  # 0: all cores
        # Threads that spin between two images would burn a core all day.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        lanes = (cpu_threads() or len(os.sched_getaffinity(0))) if in_lanes else 1
        if in_lanes:
            options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the binding's exceptions have no common base but this
            raise BackendError(
                f"ONNX Runtime cannot load {path} ({' '.join(str(error).split())}); rebuild it."
            ) from error
        return _OnnxRuntimeSession(f"{path.name} on ONNX Runtime", spec.side_px, session, lanes)


class _OnnxRuntimeSession(Session):
    def __init__(self, name: str, side_px: int, session: ort.InferenceSession, lanes: int) -> None:
        super().__init__(name, side_px, lanes)
        self._session: ort.InferenceSession | None = session
        self._input = session.get_inputs()[0].name
        self._outputs = [output.name for output in session.get_outputs()]

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        assert self._session is not None, "run after close"
        try:
            answers = self._session.run(self._outputs, {self._input: batch})
        except Exception as error:  # as above
            raise BackendError(
                f"{self.name} failed ({' '.join(str(error).split())}); restart the station."
            ) from error
        return dict(zip(self._outputs, answers, strict=True))

    def close(self) -> None:
        self._session = None
