"""The folder that a command writes: only its own files are ever overwritten."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.locks import OutputUnwritableError
from training.errors import AnnotationError


def require_own(folder: Path, mark: str) -> None:
    """Refuse a folder with the files of somebody else.

    Args:
        mark: the file by which a former run of the same command is known.

    Raises:
        AnnotationError: the folder is not empty and has no such file.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).exists():
        raise AnnotationError(
            f"{folder} has files and no {mark} among them, so they are not of a former run; give an empty "
            "folder."
        )


def require_no_other_csvs(folder: Path, mine: Collection[str]) -> None:
    """Refuse annotation files of a former run on others, of whose images provenance.csv would tell no more.

    Args:
        folder: of made annotation files.
        mine: names of the files that this run writes there.

    Raises:
        AnnotationError: the folder has another CSV file.
    """
    others = sorted(path for path in folder.glob("*.csv") if path.name not in mine)
    if others:
        raise AnnotationError(
            f"{others[0]} is of a former run on other files, and the provenance.csv beside it would no "
            "longer tell of its images; remove it, or give another folder as --out."
        )


def require_writable(*folders: Path) -> None:
    """Make the folders and try them, before the work whose results go there.

    Raises:
        OutputUnwritableError: as `writing`.
    """
    for folder in folders:
        with writing(folder), tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make the folder to write in.

    Raises:
        OutputUnwritableError: the folder or a file in it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputUnwritableError(
            f"{error.filename or folder} cannot be written ({error.strerror}); mend its rights or make "
            "space, or give another folder."
        ) from error
