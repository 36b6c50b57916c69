"""CUDA graphs: hundreds of kernel launches recorded once and repeated with one call, through cuda-bindings.

pycuda has no call for this. The driver's own functions are used, which take pycuda's stream as it is. Not run
on a GPU.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from edge.errors import BackendError, EngineAway


class CapturedGraph:
    """What one call did in a stream, ready to be done again.

    Args:
        stream: handle of the stream; nothing else may use it meanwhile.
        launch: does its work in that stream, with addresses that stay.

    Raises:
        BackendError: cuda-bindings is not installed, or the work cannot be recorded.
    """

    def __init__(self, stream: int, launch: Callable[[], None]) -> None:
        try:
            self._driver: Any = import_module("cuda.bindings.driver")
        except ImportError as error:
            raise BackendError(f"cuda-bindings is not installed ({error}).") from error
        self._stream = self._driver.CUstream(stream)
        graph = self._record(launch)
        try:
            self._executable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def _record(self, launch: Callable[[], None]) -> Any:
        # Only calls of this thread that cannot be recorded are refused: other threads may do what they like.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            launch()
        except BaseException:
            code, graph = self._driver.cuStreamEndCapture(self._stream)  # the stream must be free again
            if code == self._driver.CUresult.CUDA_SUCCESS:
                self._driver.cuGraphDestroy(graph)
            raise
        return self._call("cuStreamEndCapture", self._stream)

    def launch(self) -> None:
        """Do the work again, in the same stream.

        Raises:
            EngineAway: CUDA failed; the process must end, and another one may succeed.
        """
        self._call("cuGraphLaunch", self._executable, self._stream, kind=EngineAway)

    def free(self) -> None:
        """Give it back; it must not be at work."""
        self._call("cuGraphExecDestroy", self._executable)

    def _call(self, name: str, *args: Any, kind: type[BackendError] = BackendError) -> Any:
        """A function of the driver: its only result, or None.

        The bindings give a tuple of the error code and the results.
        """
        try:
            code, *results = getattr(self._driver, name)(*args)
        except RuntimeError as error:  # a driver that is older than the bindings lacks some functions
            raise BackendError(f"{name} failed ({error}); update the NVIDIA driver.") from error
        if code != self._driver.CUresult.CUDA_SUCCESS:
            raise kind(f"{name} failed with {code.name}; restart the station.")
        return results[0] if results else None
