"""What a day leaves in memory: nothing."""

import ctypes
import gc
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge.cells import Finding
from edge.inbox import Inbox
from edge.outputs import open_desk
from edge.records import State
from tests.edge.pipeline_doubles import OneCell


class NoCell(OneCell):
    """A double of the pipeline that finds nothing."""

    def cells(self, rgb: NDArray[np.uint8]) -> list[Finding]:
        return []


@pytest.mark.parametrize("watch", ["events", "polling"])
def test_promise_31_images_leave_nothing_in_memory(tmp_path: Path, watch: str) -> None:
    """Python's own memory; that of the whole process is measured over 10,000 images by `make chaos`."""
    (tmp_path / "in").mkdir()
    now_s = 0.0
    used = []
    tracemalloc.start()
    try:
        with open_desk(NoCell(), tmp_path / "out") as (desk, journal):
            inbox = Inbox(tmp_path / "in", journal.knows, watch=watch, clock=lambda: now_s)  # type: ignore[arg-type]
            inbox.start()
            for batch in range(4):
                for number in range(150 * batch, 150 * batch + 150):
                    Image.new("RGB", (8, 6), (number % 256, number // 256, 7)).save(
                        tmp_path / "in" / f"{number}.png"
                    )
                left = 150
                while left:
                    ready = inbox.take()
                    if ready is None:
                        now_s += 0.3
                        continue
                    assert desk.process(ready.path).status is State.EMPTY
                    left -= 1
                for path in (tmp_path / "in").iterdir():
                    path.unlink()
                assert len(inbox) == 0
                gc.collect()
                used.append(tracemalloc.get_traced_memory()[0])
            inbox.close()
    finally:
        tracemalloc.stop()
    assert (used[3] - used[1]) / 300 < 150, used


def test_the_c_library_takes_the_limit() -> None:
    """A C library that refuses it says 0; one that has no such call is left as it is."""
    code = (
        "import ctypes\n"
        "real = ctypes.CDLL\n"
        "class Listening:\n"
        "    def __init__(self, name):\n"
        "        self._mallopt = real(name).mallopt\n"
        "    def mallopt(self, name, value):\n"
        "        print(name, value, self._mallopt(name, value))\n"
        "ctypes.CDLL = Listening\n"
        "from edge.memory import keep_memory_flat\n"
        "keep_memory_flat()\n"
    )
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["-3", str(2 << 20), "1"]
