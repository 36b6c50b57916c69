"""A folder images/ beside made annotation files, as the trainers look for it, without copying the images."""

from collections.abc import Mapping
from pathlib import Path, PurePath

from training.annotations import AnnotationError


def stays_inside(name: str) -> bool:
    """Whether a NAME leads to a file below the folder that it is looked for in."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def link_images(paths: Mapping[str, Path], folder: Path) -> None:
    """Make a symbolic link by NAME to each file; what has this name in the folder is replaced.

    Raises:
        AnnotationError: a NAME leads out of the folder.
    """
    for name, path in paths.items():
        if not stays_inside(name):
            raise AnnotationError(f"The NAME {name!r} leads out of its folder; give a plain file name.")
        link, target = folder / name, path.resolve()
        if link.is_symlink() or link.exists():
            link.unlink()
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
