"""A test double of TensorRT's Python module: ONNX Runtime computes, with the strictness of the real one.

It has what `edge/backends/tensorrt.py` calls and no more. `card` is the double of the card whose memory it
works on: a test sets it. A plan of this double is a JSON text; `plan_of` makes one.
"""

import json
import weakref
from collections.abc import Callable
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

__version__ = "10.16.1.11"

_ALIGNMENT = 256
_SCRATCH_BYTES = 4096


class Card(Protocol):
    """What the double needs of a card; all of it is refused after a fault."""

    def take(self, size: int) -> int:
        """Memory of the card; 0 where there is none to be had, also while a graph is recorded."""

    def give_back(self, address: int) -> None: ...

    def read(self, address: int, size: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...

    def kernel(self, work: Callable[[], Callable[[], None] | None]) -> Any:
        """What `launch` takes, of a reference to a function that does the work."""

    def launch(self, stream: int, kernel: Any) -> bool:
        """Let the kernel do its work when the stream comes to it; False: CUDA refused."""


card: Card = None  # type: ignore[assignment]


class DataType(Enum):
    FLOAT, HALF, BF16, INT32, UINT8 = range(5)


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT32: np.int32,
    DataType.UINT8: np.uint8,
}
_OF_ONNX = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int32)": DataType.INT32,
    "tensor(uint8)": DataType.UINT8,
}


def nptype(trt_type: DataType) -> type:
    if trt_type not in _NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return _NUMPY[trt_type]


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def plan_of(onnx_path: Path, batch: int, **faults: Any) -> bytes:
    """A plan of this double.

    Args:
        faults: what is wrong with it: `types`, `shapes` or `names` of tensors that the graph has not,
            `context`=False (none can be made), `refuses` (a name whose address is not taken), `fails_at` (the
            number of the execution that is refused), `reverses` (a name whose values come backwards).
    """
    return b"plan" + json.dumps({"onnx": str(onnx_path), "batch": batch, "faults": faults}).encode()


@cache
def _session(onnx_path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(onnx_path, options, providers=["CPUExecutionProvider"])


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        if not serialized_engine.startswith(b"plan"):
            self._logger.log(
                ILogger.Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1:\n magic tag"
            )
            return None
        return ICudaEngine(json.loads(serialized_engine[4:]), self._logger)


class ICudaEngine:
    def __init__(self, plan: dict[str, Any], logger: ILogger) -> None:
        self.session, self.faults, self.logger = _session(plan["onnx"]), plan["faults"], logger
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        changed = {kind: self.faults.get(kind, {}) for kind in ("names", "shapes", "types")}
        self.tensors: dict[str, tuple[TensorIOMode, tuple[int, ...], DataType]] = {}
        self.onnx_names: dict[str, str] = {}
        for tensor, mode in [(t, TensorIOMode.INPUT) for t in inputs] + [
            (t, TensorIOMode.OUTPUT) for t in outputs
        ]:
            name = changed["names"].get(tensor.name, tensor.name)
            shape = changed["shapes"].get(tensor.name, (plan["batch"], *tensor.shape[1:]))
            kind = changed["types"].get(tensor.name, _OF_ONNX[tensor.type].name)
            self.tensors[name] = (mode, tuple(shape), DataType[kind])
            self.onnx_names[name] = tensor.name
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][2]

    def create_execution_context(self) -> "IExecutionContext | None":
        if self.faults.get("context") is False:
            self.logger.log(ILogger.Severity.ERROR, "CUDA out of memory")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._card = card
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self._executions = 0
        # Weak, so that a context that is dropped gives its memory back at once, as the real one does.
        self._kernel = self._card.kernel(weakref.WeakMethod(self._compute))

    def __del__(self) -> None:
        if self._scratch:
            self._card.give_back(self._scratch)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if (
            name not in self._engine.tensors
            or memory % _ALIGNMENT
            or self._engine.faults.get("refuses") == name
        ):
            return self._refuse(f"{name} with address {memory:#x}")
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert isinstance(stream_handle, int)
        missing = self._engine.tensors.keys() - self._addresses.keys()
        if missing:
            return self._refuse(f"addresses of {sorted(missing)} are not set")
        self._executions += 1
        if self._executions == self._engine.faults.get("fails_at"):
            return self._refuse("Cuda Runtime (an illegal memory access was encountered)")
        if not self._scratch:  # the real one, too, makes what it needs when it is first executed
            self._scratch = self._card.take(_SCRATCH_BYTES)
            if not self._scratch:
                return self._refuse("Cuda Runtime (operation not permitted when stream is capturing)")
        return self._card.launch(stream_handle, self._kernel)

    def _compute(self) -> None:
        feeds = {}
        for name, (mode, shape, dtype) in self._engine.tensors.items():
            if mode is TensorIOMode.INPUT:
                size = int(np.prod(shape)) * np.dtype(nptype(dtype)).itemsize
                data = np.frombuffer(self._card.read(self._addresses[name], size), nptype(dtype))
                feeds[self._engine.onnx_names[name]] = data.reshape(shape)
        outputs = [n for n, (mode, *_) in self._engine.tensors.items() if mode is TensorIOMode.OUTPUT]
        answers = self._engine.session.run([self._engine.onnx_names[name] for name in outputs], feeds)
        for name, right in zip(outputs, answers, strict=True):
            values = right[..., ::-1] if self._engine.faults.get("reverses") == name else right
            self._card.write(self._addresses[name], np.ascontiguousarray(values).tobytes())

    def _refuse(self, why: str) -> bool:
        self._engine.logger.log(ILogger.Severity.ERROR, f"IExecutionContext: Error Code 3: {why}")
        return False
