"""The one logger of a process that TensorRT or TensorRT-RTX gets, whether it builds engines or runs them."""

import logging
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

_NO_DRIVER = "CUDA driver version is insufficient"
"""TensorRT-RTX says it on a machine without a card, whatever it is asked."""


@cache  # the library keeps a pointer to the first logger that it is given, so that one must never go
def library_logger(trt: Any) -> Any:
    """The logger of a module: gives messages to the log, and keeps errors for the sentence about them.

    Its `errors` are those since `take_errors` was last called, each in one line.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
    """
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 asks for its own __init__, not for super()'s
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = logging.DEBUG if _NO_DRIVER in msg else levels.get(severity, logging.DEBUG)
            line = one_line(msg)
            if level >= logging.ERROR:
                self.errors.append(line)
            log.log(level, "%s", line)

        def take_errors(self) -> list[str]:
            errors, self.errors = self.errors, []
            return errors

    return Logger()


def one_line(text: str) -> str:
    """The beginning of a message, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:299]}…"
