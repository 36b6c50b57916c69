"""Names of files as text. Their bytes need not be UTF-8: Python keeps such as lone surrogates, which no file
of text, page or picture takes.
"""

import os
from pathlib import Path


def as_text(name: str) -> str:
    """The name or path with every byte that is not UTF-8 as \\xHH, as it stands in the CSV files."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def name_of(path: Path) -> str:
    """The name of a file or folder as text, also where the path ends in `.` or `..`."""
    return as_text(os.path.basename(os.path.abspath(path)))  # noqa: PTH100, PTH119
