"""One ONNX graph becomes one TensorRT engine, or one sentence says why not.

TensorRT's Python module is an argument: `tensorrt`, or `tensorrt_rtx`, which builds without a card. What is
particular to `tensorrt` (the timing cache) has not been run on a GPU.
"""

import hashlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from build_engines.engine_network import Order, read_network
from build_engines.engine_store import write_whole
from build_engines.errors import EngineError
from edge.backends.tensorrt_log import library_logger, starting
from edge.engine_files import EngineRecord, Machine, Target

log = logging.getLogger(__name__)

_ADVICE = {
    "Turing": "it can do less on Turing (7.5) than on newer cards: leave 7.5 out, or build on the card with "
    "`--target tensorrt`",
    "cancel": "start the build again",
    "memory": "end what else uses the card, or build smaller batches with --batch",
}
"""By a word of the library's message."""


class Progress(Protocol):
    """What is told of a build: phases within phases, each of so many steps. Calls come from many threads."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside `parent` if there is one."""

    def step(self, phase: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is done."""

    def finish(self, phase: str) -> None:
        """A phase ends, maybe before its last step."""


def target_of(trt: Any) -> Target:
    """Which of the two products a module is."""
    return "tensorrt_rtx" if trt.__name__.startswith("tensorrt_rtx") else "tensorrt"


def build_engine(
    trt: Any, order: Order, machine: Machine | None, progress: Progress
) -> tuple[bytes, EngineRecord]:
    """Build an engine.

    Args:
        trt: `tensorrt` 10.13 or newer, or `tensorrt_rtx` 1.7 or newer.
        order: what is to be built.
        machine: the card that it is built on; None without one.
        progress: is told how far it is.

    Returns:
        The plan and its record, without a gate.

    Raises:
        EngineError: the graph, the library or the machine is in the way.
        BackendError: the library does not start.
    """
    with _interrupt_kept() as is_interrupted:
        return _build(trt, order, machine, progress, is_interrupted)


@contextmanager
def _interrupt_kept() -> Iterator[Callable[[], bool]]:
    """Ctrl-C during a call from the library would be lost there, so it is noted, and raised at the end."""
    came: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if is_main else None
    try:
        yield lambda: bool(came)
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt


def _build(
    trt: Any, order: Order, machine: Machine | None, progress: Progress, is_interrupted: Callable[[], bool]
) -> tuple[bytes, EngineRecord]:
    began = time.monotonic()
    target = target_of(trt)
    if target == "tensorrt" and machine is None:
        raise EngineError(
            f"TensorRT builds {order.onnx_path.name} only on the card that it is for, and this machine has "
            "none; build there, or give `--target tensorrt-rtx`."
        )
    logger = library_logger(trt)
    with starting(trt):
        builder = trt.Builder(logger)
    read = read_network(trt, builder, logger, order)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
    config.builder_optimization_level = order.builder_level
    monitor = _make_monitor(trt, progress, is_interrupted)
    config.progress_monitor = monitor
    cache = order.timing_cache if target == "tensorrt" else None
    if target == "tensorrt_rtx":
        _set_capabilities(trt, config, order.compute_capabilities)
    if cache is not None:
        _load_timing_cache(config, cache)
    logger.take_errors()
    memory = builder.build_serialized_network(read.network, config)
    if monitor.raised is not None:
        raise monitor.raised
    if memory is None:
        said = "; ".join(logger.take_errors()[-3:]) or "and does not say why"
        advice = next(
            (text for word, text in _ADVICE.items() if word in said), "update it, or take another target"
        )
        raise EngineError(f"{trt.__name__} {trt.__version__} built no engine of {order} ({said}); {advice}.")
    plan = bytes(memory)
    if cache is not None:
        write_whole(cache, bytes(config.get_timing_cache().serialize()))
    record = EngineRecord(
        target=target,
        graph=order.onnx_path.name,
        onnx_sha256=read.onnx_sha256,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        batch=order.batch,
        builder_level=order.builder_level,
        workspace_bytes=order.workspace_bytes,
        inputs=read.inputs,
        outputs=read.outputs,
        precision=order.precision,
        layer_types=read.layer_types,
        library_version=trt.__version__,
        compute_capabilities=order.compute_capabilities,
        gpu=machine.gpu if machine else "",
        driver=machine.driver if machine else "",
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        build_s=round(time.monotonic() - began, 3),
    )
    return plan, record


def _set_capabilities(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        wanted = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
        if wanted is None or not config.set_compute_capability(wanted, index):
            raise EngineError(
                f"{trt.__name__} {trt.__version__} builds for compute capabilities "
                f"{', '.join(known_capabilities(trt))} and not for {capability}; give one of these, or "
                "`--target tensorrt` on the card."
            )


def known_capabilities(trt: Any) -> list[str]:
    """The compute capabilities that TensorRT-RTX builds for, like "8.6"."""
    numbers = [int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return [f"{number // 10}.{number % 10}" for number in sorted(numbers)]


def _load_timing_cache(config: Any, path: Path) -> None:
    """What earlier builds measured: faster, and closer to the engine that they built."""
    saved = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(saved)
    if cache is None or not config.set_timing_cache(cache, False):
        log.warning("%s is of another card or version; all layers are measured anew", path)
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _make_monitor(trt: Any, progress: Progress, is_interrupted: Callable[[], bool]) -> Any:
    """A progress monitor of TensorRT; Ctrl-C ends the build, and what `progress` raises, kept in `raised`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(progress.start, phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(progress.step, phase_name, step)
            return self.raised is None and not is_interrupted()

        def phase_finish(self, phase_name: str) -> None:
            self._tell(progress.finish, phase_name)

        def _tell(self, what: Any, *args: Any) -> None:
            try:
                what(*args)
            except BaseException as error:  # it would be lost in the library
                self.raised = self.raised or error

    return Monitor()
