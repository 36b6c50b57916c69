"""The one logger of a process that TensorRT or TensorRT-RTX gets, whether it builds engines or runs them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edge.errors import BackendError

log = logging.getLogger(__name__)


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
            level = levels.get(severity, logging.DEBUG)
            line = one_line(msg)
            if level >= logging.ERROR:
                self.errors.append(line)
            log.log(level, "%s", line)

        def take_errors(self) -> list[str]:
            errors, self.errors = self.errors, []
            return errors

    return Logger()


@contextmanager
def starting(trt: Any) -> Iterator[None]:
    """Make a builder or a runtime of a module meanwhile, with the logger of `library_logger`.

    Raises:
        BackendError: the library gives none, as it does where the driver is older than its CUDA.
    """
    logger = library_logger(trt)
    logger.take_errors()
    try:
        yield
    except TypeError as error:  # pybind11's answer to a null pointer
        said = f" ({errors[-1]})" if (errors := logger.take_errors()) else ""
        raise BackendError(
            f"{trt.__name__} {trt.__version__} does not start{said}; update the NVIDIA driver, or install "
            "what fits the CUDA that it knows."
        ) from error


def one_line(text: str) -> str:
    """The beginning of a message, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:299]}…"
