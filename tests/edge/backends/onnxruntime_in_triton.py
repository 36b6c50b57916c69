"""A double of Triton's backends for ONNX and TensorRT, which its package for Python leaves out.

Triton itself loads this file, in its Python backend, in place of `libtriton_onnxruntime.so`: the server, its
reading of config.pbtxt, its batching, its warm-up and its protocol are real; the computing is ONNX Runtime's.
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, os.environ["TRITON_SITE_PACKAGES"])  # Triton's interpreter knows no virtual environment

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Triton asks for this name."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """The file says everything."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the ONNX file, also where it is called a plan."""
        folder = Path(args["model_repository"], args["model_version"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(next(folder.glob("model.*")), options)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, one by one."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        # By DLPack: this build of Triton's reads the arrays of NumPy 2 as empty ones.
        batch = np.from_dlpack(request.inputs()[0])
        answers = self._session.run(self._outputs, {self._input: batch})
        pairs = zip(self._outputs, answers, strict=True)
        return triton.InferenceResponse([triton.Tensor.from_dlpack(name, values) for name, values in pairs])
