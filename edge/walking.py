"""Which files of a folder may be images, told without opening any; no link is followed, no device given."""

import errno
import fnmatch
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from edge.errors import StationError
from edge.records import FileStamp

log = logging.getLogger(__name__)

IGNORED_NAMES = (".*", "*.part", "*.filepart", "*.tmp", "thumbs.db", "@eadir")
"""Names of files and folders, in small letters, that are never images: hidden, partial, a program's own."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
"""Lower-case suffixes of the formats that `edge.images.decode` knows, which itself asks the content."""


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name, in letters of any size, is never looked at."""
    name = name.lower()
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED_NAMES)


def images_below(folder: Path) -> list[Path]:
    """Files of a folder and its sub-folders with the suffix of an image, by name; nothing that is ignored.

    Raises:
        StationError: a folder may not be read.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse_folder):
        try:
            require_entry(Path(parent))
        except PermissionError as error:
            refuse_folder(error)
        folders[:] = [name for name in folders if not is_ignored(name)]
        taken = (Path(parent, name) for name in names if not is_ignored(name))
        found += (path for path in taken if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(found)


def refuse_folder(error: OSError) -> NoReturn:
    """Raises StationError: who asks for all files of a folder is told of the one that may not be read."""
    raise StationError(
        f"{error.filename} cannot be read ({error.strerror}); correct its rights, or leave it out."
    ) from error


def stamp_of(path: Path) -> FileStamp | None:
    """The version of a regular file; None for what is gone or anything else."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return FileStamp.of(status) if stat.S_ISREG(status.st_mode) else None


def require_entry(folder: Path) -> None:
    """Make sure that files of a folder can be opened, which their names alone do not tell.

    Raises:
        PermissionError: the folder may be listed and not entered.
    """
    if not os.access(folder, os.X_OK, effective_ids=True) and folder.is_dir():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def walk(root: Path, unreadable: set[Path]) -> Iterator[Path]:
    """Regular files below the root, nothing followed. OSError only for the root itself.

    Args:
        unreadable: the sub-folders that could not be read last time, which need no second line in the log.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            require_entry(folder)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_ignored(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        yield Path(entry.path)
            unreadable.discard(folder)
        except OSError as error:
            if folder == root:
                raise
            if not isinstance(error, FileNotFoundError) and folder not in unreadable:
                unreadable.add(folder)
                log.warning("The folder %r cannot be read: %s.", str(folder), error.strerror)
