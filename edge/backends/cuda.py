"""The NVIDIA card: whether there is one, and its memory through pycuda.

Not run on a GPU: only on a double of the driver library, with host memory in place of the card's.
"""

import ctypes
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge.backends.cuda_graph import CapturedGraph
from edge.engine_files import Machine
from edge.errors import BackendError, EngineAway

log = logging.getLogger(__name__)

_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_STAGES = ("upload", "compute", "download")


def probe() -> Machine | str:
    """Ask the driver for the first card. TensorRT kills the process where there is none, so this comes first.

    The environment variable CUDA_VISIBLE_DEVICES chooses which card is the first.

    Returns:
        The card, or in a few words why there is none.

    Raises:
        EngineAway: the driver fails.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver"
    count, device, major, minor = (ctypes.c_int() for _ in range(4))
    name, memory_bytes = ctypes.create_string_buffer(256), ctypes.c_size_t()
    for function, *args in (
        (driver.cuInit, 0),
        (driver.cuDeviceGetCount, ctypes.byref(count)),
        (driver.cuDeviceGet, ctypes.byref(device), 0),
        (driver.cuDeviceGetName, name, len(name), device),
        (driver.cuDeviceTotalMem_v2, ctypes.byref(memory_bytes), device),
        (driver.cuDeviceGetAttribute, ctypes.byref(major), _MAJOR, device),
        (driver.cuDeviceGetAttribute, ctypes.byref(minor), _MINOR, device),
    ):
        code = function(*args)
        if code == _NO_DEVICE or (function is driver.cuDeviceGetCount and not code and not count.value):
            return "the NVIDIA driver sees no card"
        if code:
            text = ctypes.c_char_p()
            driver.cuGetErrorName(code, ctypes.byref(text))
            said = (text.value or b"no name").decode()
            raise EngineAway(
                f"{function.__name__} of the NVIDIA driver failed with {code}, {said}; run `nvidia-smi`, and "
                "restart the machine if that fails, too."
            )
    return Machine(
        name.value.decode(errors="replace"),
        f"{major.value}.{minor.value}",
        _driver_version(),
        memory_bytes.value,
    )


def _driver_version() -> str:
    """Like "580.65.06"; empty where the kernel does not tell."""
    try:
        text = _DRIVER_VERSION.read_text(errors="replace")
    except OSError:
        return ""
    found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", text)
    return found[1] if found else ""


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A tensor's two places.

    Attributes:
        host: its values on the host.
        address: of its values on the card.
    """

    host: NDArray[Any]
    address: int


class DeviceMemory(Protocol):
    """What a session needs of the card. Everything that it does is done in one stream."""

    @property
    def stream(self) -> int:
        """Handle of the stream."""

    @property
    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds that the card took in the last `run` for upload, compute and download."""

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Make a buffer, which lives until `close`."""

    def run(self, inputs: Sequence[Buffer], launch: Callable[[], None], outputs: Sequence[Buffer]) -> None:
        """Copy inputs to the card, launch, copy outputs from it, and wait until all is done."""

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Record what `launch` does in the stream; what is returned does it again, with one call."""

    def close(self) -> None:
        """Give the card's memory back."""


class CudaMemory:
    """Memory, a stream and events of the first card, for one thread.

    Raises:
        EngineAway: CUDA does not start.
        BackendError: pycuda is not installed.
    """

    def __init__(self) -> None:
        os.environ["CUDA_DEVICE"] = "0"  # pycuda's variable: the card that `probe` describes
        try:
            # The primary context is the one that TensorRT uses. pycuda.autoinit would make another.
            import_module("pycuda.autoprimaryctx")
            self._cuda = import_module("pycuda.driver")
        except ImportError as error:
            raise BackendError(
                f"pycuda is not installed ({error}); `pip install pycuda`, which needs the CUDA toolkit."
            ) from error
        except Exception as error:  # pycuda's errors cannot be named before it is imported
            raise EngineAway(f"CUDA does not start ({_line(error)}); restart the station.") from error
        self._held: list[Any] = []
        with self._errors("making a stream"):
            self._stream = self._cuda.Stream()
            self._marks = [self._cuda.Event() for _ in range(len(_STAGES) + 1)]
        self._has_run = False

    @property
    def stream(self) -> int:
        """Handle of the stream, as libraries other than pycuda take it."""
        return int(self._stream.handle)

    @property
    def stage_ms(self) -> dict[str, float]:
        """Milliseconds on the card of the last `run`, from events in the stream."""
        if not self._has_run:
            return {}
        laps = zip(self._marks, self._marks[1:], strict=False)
        with self._errors("reading times"):
            return {stage: end.time_since(start) for stage, (start, end) in zip(_STAGES, laps, strict=True)}

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Make a buffer of zeros, which lives until `close`.

        Raises:
            EngineAway: there is no memory for it.
        """
        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        with self._errors(f"taking {size} bytes"):
            # Only page-locked memory is copied without the host waiting for it. It goes with its last view.
            host = self._cuda.pagelocked_empty(tuple(shape), dtype)
            device = self._cuda.mem_alloc(size)
            self._held.append(device)
        host[...] = 0
        return Buffer(host, int(device))

    def run(self, inputs: Sequence[Buffer], launch: Callable[[], None], outputs: Sequence[Buffer]) -> None:
        """Copy inputs to the card, launch, copy outputs from it, and wait until all is done.

        Raises:
            EngineAway: CUDA failed, here or in anything since it was last asked; the process must end.
        """
        begin, uploaded, computed, end = self._marks
        with self._errors("inference"):
            begin.record(self._stream)
            for buffer in inputs:
                self._cuda.memcpy_htod_async(buffer.address, buffer.host, self._stream)
            uploaded.record(self._stream)
            launch()
            computed.record(self._stream)
            for buffer in outputs:
                self._cuda.memcpy_dtoh_async(buffer.host, buffer.address, self._stream)
            end.record(self._stream)
            self._stream.synchronize()
        self._has_run = True

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Record what `launch` does in the stream; what is returned does it again, with one call.

        `launch` must have run before, so that it makes nothing for the first time while it is recorded.

        Raises:
            BackendError: it cannot be recorded; `launch` itself still can be used.
        """
        graph = CapturedGraph(self.stream, launch)
        self._held.append(graph)
        return graph.launch

    def close(self) -> None:
        """Give everything back but the primary context, which stays until the process ends."""
        held, self._held = self._held, []
        for thing in reversed(held):
            try:
                thing.free()
            except Exception as error:  # after a CUDA error nothing can be freed, and the process ends
                log.warning("The card's memory was not given back: %s.", _line(error))
        self._marks, self._stream, self._has_run = [], None, False

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise EngineAway(
                f"The card has no memory left ({doing}: {_line(error)}); end other programs that use it."
            ) from error
        except self._cuda.Error as error:
            raise EngineAway(f"CUDA failed ({doing}: {_line(error)}); restart the station.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
