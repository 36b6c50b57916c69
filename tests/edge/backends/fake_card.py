"""Two test doubles of a card for the double of TensorRT: in Python, and over that of the CUDA driver."""

import ctypes
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edge.backends.cuda import Buffer
from edge.errors import BackendError

_ILLEGAL_ADDRESS = 700

Work = Callable[[], Callable[[], None] | None]


def _do(work: Work) -> None:
    call = work()
    assert call is not None, "a context was dropped while its work was under way"
    call()


class FakeCard:
    """A card in Python. What is put into its stream is done when somebody waits, as on a real one."""

    stream = 7

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.work: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None
        self.replays = 0
        self.waits = 0

    def take(self, size: int) -> int:
        if self.recording is not None:
            return 0
        block = np.full(size + 256, 0xCD, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.blocks[address] = block[address - block.ctypes.data :][:size]
        return address

    def give_back(self, address: int) -> None:
        self.blocks.pop(address)[:] = 0xDD

    def _place(self, address: int, size: int) -> Any:
        block = self.blocks.get(address)
        if block is None or size > block.size:
            raise BackendError("CUDA failed at inference (illegal address).")
        return block[:size]

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._place(address, size))

    def write(self, address: int, data: bytes) -> None:
        self._place(address, len(data))[:] = np.frombuffer(data, np.uint8)

    def kernel(self, work: Work) -> Callable[[], None]:
        return lambda: _do(work)

    def launch(self, stream: int, kernel: Callable[[], None]) -> bool:
        assert stream == self.stream
        (self.work if self.recording is None else self.recording).append(kernel)
        return True

    def wait(self) -> None:
        work, self.work = self.work, []
        self.waits += 1
        for kernel in work:
            kernel()


class FakeMemory:
    """The memory of a `FakeCard`, as `edge.backends.cuda.DeviceMemory`.

    Args:
        graphs: whether work can be recorded.
        shrink: how many bytes every buffer on the card is too small.
    """

    def __init__(self, card: FakeCard, *, graphs: bool = True, shrink: int = 0) -> None:
        self._card = card
        self._graphs = graphs
        self._shrink = shrink
        self._addresses: list[int] = []
        self.stream = card.stream
        self.stage_ms = {"upload": 0.1, "compute": 1.0, "download": 0.1}

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        host = np.zeros(tuple(shape), dtype)
        self._addresses.append(self._card.take(host.nbytes - self._shrink))
        return Buffer(host, self._addresses[-1])

    def run(self, inputs: Sequence[Buffer], launch: Callable[[], None], outputs: Sequence[Buffer]) -> None:
        for buffer in inputs:
            self._card.work.append(lambda b=buffer: self._card.write(b.address, b.host.tobytes()))
        launch()
        for buffer in outputs:
            self._card.work.append(lambda b=buffer: self._download(b))
        self._card.wait()

    def _download(self, buffer: Buffer) -> None:
        data = self._card.read(buffer.address, buffer.host.nbytes)
        buffer.host[...] = np.frombuffer(data, buffer.host.dtype).reshape(buffer.host.shape)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        if not self._graphs:
            raise BackendError("cuda-bindings is not installed (double).")
        self._card.recording = []
        try:
            launch()
            recorded = self._card.recording
        finally:
            self._card.recording = None

        def replay() -> None:
            self._card.replays += 1
            self._card.work += recorded

        return replay

    def close(self) -> None:
        for address in self._addresses:
            self._card.give_back(address)
        self._addresses = []


class DriverCard:
    """The card of the double of the CUDA driver in tests/fakecuda, this process's libcuda.so.1."""

    def __init__(self) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.driver.double_count.restype = ctypes.c_long
        self._call_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def count(self, what: str) -> int:
        """How many "device" or "pinned" blocks, "streams", "events" or "graphs" there are now, or how many
        "launches" of graphs there were."""
        found: int = self.driver.double_count(what.encode())
        assert found >= 0, what
        return found

    def take(self, size: int) -> int:
        address = ctypes.c_uint64()
        return 0 if self.driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) else address.value

    def give_back(self, address: int) -> None:
        self.driver.cuMemFree_v2(ctypes.c_uint64(address))

    def _holds(self, address: int, size: int) -> bool:
        return bool(self.driver.double_holds(ctypes.c_uint64(address), ctypes.c_size_t(size)))

    def read(self, address: int, size: int) -> bytes:
        assert self._holds(address, size), "read outside the card's memory"
        return ctypes.string_at(address, size)

    def write(self, address: int, data: bytes) -> None:
        assert self._holds(address, len(data)), "write outside the card's memory"
        ctypes.memmove(address, data, len(data))

    def kernel(self, work: Work) -> Any:
        def call(_: Any) -> None:
            try:
                _do(work)
            except BaseException:
                traceback.print_exc()
                self.driver.double_fault(_ILLEGAL_ADDRESS)

        return self._call_type(call)

    def launch(self, stream: int, kernel: Any) -> bool:
        return not self.driver.cuLaunchHostFunc(ctypes.c_void_p(stream), kernel, None)
