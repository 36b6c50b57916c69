"""Images by their NAMEs: found in folders, and linked into an images/ as the trainers look for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from training.errors import AnnotationError


def stays_inside(name: str) -> bool:
    """Whether a NAME leads to a file below the folder that it is looked for in."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def find_image(name: str, folders: Sequence[Path]) -> Path | None:
    """The file of that NAME in the first of the folders that has one."""
    return next((folder / name for folder in folders if _is_file(folder / name)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def require_places(paths: Mapping[str, Path], folder: Path) -> None:
    """Make sure that `link_images` can make all of its links, before anything is written.

    Raises:
        AnnotationError: a NAME leads out of the folder, or another file has it there.
    """
    for name, path in paths.items():
        if not stays_inside(name):
            raise AnnotationError(f"The NAME {name!r} leads out of its folder; give a plain file name.")
        link, target = folder / name, path.resolve()
        if link.exists() and link.resolve() != target:
            raise AnnotationError(f"{link} is not {target}, whose place it has; give an empty folder.")


def link_images(paths: Mapping[str, Path], folder: Path) -> None:
    """Make a symbolic link by NAME to each file. Links that lead nowhere are replaced, and nothing else.

    Raises:
        AnnotationError: as `require_places`, and no link was made.
    """
    require_places(paths, folder)
    for name, path in paths.items():
        link = folder / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
