"""Folders of the station: one process at a time, and durable names."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import StationError

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

RESULTS_LOCK = ".results.lock"
"""In every output folder of a station; see `locked_folder`."""


class FolderLockedError(StationError):
    """Another process works in this folder."""


class OutputFullError(StationError):
    """There is no space for the journal or the CSV files; the work can go on when there is."""


class OutputUnwritableError(StationError):
    """A folder or a file of the outputs cannot be written, and waiting for space does not help."""


def output_error(error: OSError, path: Path) -> StationError:
    """What an error of the file system means for an output."""
    if error.errno in OUT_OF_SPACE:
        return OutputFullError(
            f"there is no space for {str(path)!r}; free some: edge-watch then goes on by itself, other "
            "commands when they are started again."
        )
    cure = "mend the disk or the rights, then start again"
    if error.errno == errno.EROFS:
        cure = "mount it for writing, or add it to ReadWritePaths= (`systemctl edit cytologia-edge`)"
    elif error.errno in (errno.EACCES, errno.EPERM):
        cure = "give the station's user the right to read and write there, or set another folder"
    return OutputUnwritableError(f"{str(path)!r} cannot be read or written ({error.strerror}); {cure}.")


@contextmanager
def as_output_errors(folder: Path) -> Iterator[None]:
    """Errors of the file system as those of an output; of the folder where they name no file."""
    try:
        yield
    except OSError as error:
        raise output_error(error, Path(error.filename or folder)) from error


@contextmanager
def locked_folder(folder: Path, lock_name: str) -> Iterator[None]:
    """Make a folder if it is missing, and keep other processes of the station out of it meanwhile.

    Raises:
        FolderLockedError: another process holds it.
        OutputUnwritableError, OutputFullError: the folder cannot be written, or gives no locks.
    """
    path = folder / lock_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise output_error(error, path if os.path.lexists(path) else folder) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderLockedError(
                f"another process of the station works in {str(folder)!r}; stop it, or set another folder."
            ) from error
        except OSError as error:
            raise output_error(error, path) from error
        yield
    finally:
        os.close(lock)


def fsync_folder(folder: Path) -> None:
    """Bring the names of the files in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
