"""A folder that was written beside another one takes its place."""

import os
import shutil
from pathlib import Path

from edge.locks import fsync_folder


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Let a whole folder take the place of another one, if there is one, which is removed.

    What is new is on the disk before what was there goes: a power cut leaves one of the two.

    Args:
        unfinished: the new one, beside `folder`.
        folder: where it shall be.
    """
    for path in unfinished.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    fsync_folder(unfinished)
    replaced = unfinished.with_name(f"{unfinished.name}.old")
    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    fsync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
