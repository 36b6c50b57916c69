"""Graphs on an NVIDIA card through TensorRT or TensorRT-RTX, from plans that `build_engines/build.py` made.

The same code serves both, whose Python modules have the same names for all that is used here; that is tested
against the modules of TensorRT 10.16 and 11.4 and of TensorRT-RTX 1.7. Not run on a GPU: only on a double of
the module, with host memory in place of the card's.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Backend, BackendAbsent, Outputs, Session
from edge.backends.cuda import Buffer, CudaMemory, DeviceMemory, probe
from edge.backends.tensorrt_log import library_logger, one_line, starting
from edge.engine_files import REBUILD, EngineFile, Machine, Target, TensorSpec, fitting_engines
from edge.errors import BackendError, EngineAway
from edge.manifest import NetworkSpec

log = logging.getLogger(__name__)


def tensorrt_backend() -> "TensorRtBackend":
    """TensorRT on this machine."""
    return _backend("tensorrt")


def tensorrt_rtx_backend() -> "TensorRtBackend":
    """TensorRT-RTX on this machine."""
    return _backend("tensorrt_rtx")


def _backend(target: Target) -> "TensorRtBackend":
    machine = probe()
    if isinstance(machine, str):
        raise BackendAbsent(target, machine)
    try:
        module = import_module(target)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == target:
            raise  # it is not installed
        # Libraries of its own are missing or do not fit.
        raise BackendError(f"{target} does not load ({one_line(str(error))}); install it again.") from error
    return TensorRtBackend(module, target, machine)


class TensorRtBackend(Backend):
    """One card.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        target: which of them.
        machine: the card.
        make_memory: of a session, each its own.
    """

    def __init__(
        self, trt: Any, target: Target, machine: Machine, make_memory: Callable[[], DeviceMemory] = CudaMemory
    ) -> None:
        self._trt = trt
        self.name = self._target = target
        self._machine = machine
        self._make_memory = make_memory
        self.why = f"its engines fit {machine.gpu}, compute capability {machine.compute_capability}"

    def precisions(self) -> Sequence[str]:
        """FP16, which is in the graph. Whether there are engines for it, `open` tells."""
        return ["f16"]

    def open(
        self, bundle_path: Path, spec: NetworkSpec, precision: str, *, in_lanes: bool = False
    ) -> Session:
        """Load the plans of the FP16 graph that fit this card, and warm them up (see `Backend.open`)."""
        version = self._trt.__version__
        files = fitting_engines(bundle_path, self._target, spec.graph.fp16, version, self._machine)
        name = f"{spec.graph.fp16} on {self.name} in {precision}"
        return _TensorRtSession(name, spec.side_px, self._trt, self._make_memory(), _one_a_batch(files))


def _one_a_batch(files: Sequence[EngineFile]) -> list[EngineFile]:
    """One engine for each batch size, the smallest first; of several the one that is for the fewest cards."""
    by_batch: dict[int, EngineFile] = {}
    for file in sorted(files, key=lambda file: -len(file.record.compute_capabilities)):
        by_batch[file.record.batch] = file
    return [by_batch[batch] for batch in sorted(by_batch)]


class _TensorRtSession(Session):
    """Plans of one graph for several batch sizes. A batch is padded to the smallest that holds it."""

    def __init__(
        self, name: str, side_px: int, trt: Any, memory: DeviceMemory, files: Sequence[EngineFile]
    ) -> None:
        super().__init__(name, side_px)
        digests = "".join(file.record.plan_sha256 for file in files)
        self.build = hashlib.sha256(digests.encode()).hexdigest()
        self.built_for = [file.record.batch for file in files]
        self._memory = memory
        self._plans: list[_Plan] = []
        try:
            with starting(trt):
                runtime = trt.Runtime(library_logger(trt))
            for file in files:
                self._plans.append(_Plan(trt, runtime, file, side_px, memory))
            for plan in self._plans:
                plan.warm_up()
        except BaseException:
            self.close()
            raise

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        assert self._plans, "run after close"
        answers: list[Outputs] = []
        done = 0
        while done < len(batch):
            left = len(batch) - done
            plan = next((plan for plan in self._plans if plan.batch >= left), self._plans[-1])
            answer = plan.run(batch[done : done + plan.batch])
            done += plan.batch
            if not answers and done >= len(batch):
                return answer
            answers.append({name: values.copy() for name, values in answer.items()})
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    @property
    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds on the card: upload, compute and download of the last batch that it was given."""
        return self._memory.stage_ms

    def close(self) -> None:
        """Give contexts, engines and memory back."""
        for plan in self._plans:
            plan.close()
        self._plans = []
        self._memory.close()


class _Plan:
    """A plan on the card: one context and its buffers, made once."""

    def __init__(self, trt: Any, runtime: Any, file: EngineFile, side_px: int, memory: DeviceMemory) -> None:
        self.batch = file.record.batch
        self._path = file.plan
        self._memory = memory
        self._logger = library_logger(trt)
        self._engine = self._deserialised(runtime, file)
        _require_as_recorded(trt, self._engine, file, side_px)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._failure("gets no context", "free memory of the card", EngineAway)
        self._inputs = self._buffers(file.record.inputs)
        self._outputs = self._buffers(file.record.outputs)
        for name, buffer in (self._inputs | self._outputs).items():
            if not self._context.set_tensor_address(name, buffer.address):
                raise self._failure(f"does not take the address of {name!r}", f"run {REBUILD}")
        self._launch: Callable[[], None] = self._execute

    def _deserialised(self, runtime: Any, file: EngineFile) -> Any:
        data = file.read()
        if has_ultralytics_header(data):
            raise BackendError(
                f"{self._path} was made by `yolo export`, which puts a header of its own before the plan; "
                f"run {REBUILD}."
            )
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise self._failure("is no plan that this machine can load", f"run {REBUILD}")
        return engine

    def _buffers(self, tensors: dict[str, TensorSpec]) -> dict[str, Buffer]:
        return {name: self._memory.buffer(spec.shape, spec.dtype) for name, spec in tensors.items()}

    def warm_up(self) -> None:
        """Run until nothing is left to be done for the first time, and record a CUDA graph."""
        blank = np.zeros_like(next(iter(self._inputs.values())).host)
        for _ in range(2):
            self.run(blank)
        try:
            self._launch = self._memory.capture(self._execute)
        except BackendError as error:
            _say_once(f"Without CUDA graphs, kernels are launched one by one: {error}")
        self.run(blank)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """The answers to at most `batch` images. They are overwritten by the next run."""
        (tiles,) = self._inputs.values()
        tiles.host[: len(images)] = images
        tiles.host[len(images) :] = 0
        self._memory.run([tiles], self._launch, list(self._outputs.values()))
        return {name: buffer.host[: len(images)] for name, buffer in self._outputs.items()}

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise self._failure("failed", "restart the station", EngineAway)

    def _failure(self, what: str, advice: str, kind: type[BackendError] = BackendError) -> BackendError:
        errors = self._logger.take_errors()
        said = f" ({errors[-1]})" if errors else ""
        return kind(f"{self._path} {what}{said}; {advice}.")

    def close(self) -> None:
        """Give context and engine back; the memory is given back after them, all at once."""
        self._launch = self._execute
        self._context = self._engine = None
        self._inputs = self._outputs = {}


def _require_as_recorded(trt: Any, engine: Any, file: EngineFile, side_px: int) -> None:
    """Compare the tensors of an engine with its record, and with what the pipeline feeds and reads."""
    found: dict[bool, dict[str, TensorSpec]] = {True: {}, False: {}}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        found[is_input][name] = TensorSpec(
            shape=tuple(engine.get_tensor_shape(name)), dtype=_numpy_name(trt, engine.get_tensor_dtype(name))
        )
    record = file.record
    for has, says in ((found[True], record.inputs), (found[False], record.outputs)):
        if has != says:
            raise BackendError(
                f"{file.plan} has {_words(has)}, but its record says {_words(says)}; run {REBUILD}."
            )
    expected = TensorSpec(shape=(record.batch, side_px, side_px, 3), dtype="uint8")
    if list(record.inputs.values()) != [expected]:
        raise BackendError(
            f"{file.plan} takes {_words(record.inputs)}, but is given uint8 {list(expected.shape)}; "
            f"run {REBUILD}."
        )
    for name, spec in record.outputs.items():
        if not spec.shape or spec.shape[0] != record.batch or min(spec.shape) < 1:
            raise BackendError(
                f"{file.plan} gives {_words({name: spec})}, but its batch is {record.batch} and every "
                f"size must be known; run {REBUILD}."
            )


def _numpy_name(trt: Any, dtype: Any) -> str:
    try:
        return str(np.dtype(trt.nptype(dtype)).name)
    except TypeError:  # a type that NumPy has not, like bfloat16
        return str(dtype)


def _words(tensors: dict[str, TensorSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype} {list(spec.shape)}" for name, spec in tensors.items()) or "nothing"


def has_ultralytics_header(plan: bytes) -> bool:
    """Whether a plan is of `yolo export`: the length of a JSON text in four bytes, the text, the plan."""
    length = int.from_bytes(plan[:4], "little")
    if plan[4:5] != b"{" or length > len(plan) - 4:
        return False
    try:
        return isinstance(json.loads(plan[4 : 4 + length]), dict)
    except ValueError:
        return False


@cache
def _say_once(message: str) -> None:
    log.warning("%s", message)
