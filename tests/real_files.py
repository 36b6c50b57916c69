"""Real smear images and base weights, which lie outside the repository: a test without them is skipped.

They are looked for where CYTOLOGIA_DATA and CYTOLOGIA_WEIGHTS say, else in shared/ beside the repository.
"""

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def data_path(inside: str) -> Path:
    """A file or folder inside the data folder."""
    return _existing("CYTOLOGIA_DATA", "data", inside)


def weights_path(inside: str) -> Path:
    """A file inside the folder of base weights."""
    return _existing("CYTOLOGIA_WEIGHTS", "weights", inside)


def _existing(variable: str, default: str, inside: str) -> Path:
    path = Path(os.environ.get(variable, _SHARED / default)) / inside
    if not path.exists():
        pytest.skip(f"needs {path}; set {variable} to the folder that holds {inside}")
    return path
