"""The errors of building; they are apart so that who builds engines loads no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import EdgeError


class BuildError(EdgeError):
    """The networks do not become a bundle."""


class EngineError(EdgeError):
    """A graph does not become an engine."""


@contextmanager
def writing(folder: Path, kind: type[EdgeError]) -> Iterator[None]:
    """What the file system refuses, as an error of this kind."""
    try:
        yield
    except OSError as error:
        raise kind(
            f"{folder} cannot be written ({error.strerror}); make room, run it as who may write there, or "
            "give another folder."
        ) from error
