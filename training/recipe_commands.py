"""The words of the commands that a recipe becomes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.provenance import FILE_NAME


def run_module(module: str, *words: Any) -> tuple[str, ...]:
    """`python -m module words...`"""
    return as_words("python", "-m", module, *words)


def as_words(*words: Any) -> tuple[str, ...]:
    """Paths and numbers as one types them."""
    return tuple(map(str, words))


def repeated(option: str, values: Iterable[Any]) -> list[Any]:
    """An option once for each of its values."""
    return [word for value in values for word in (option, value)]


def with_provenance(csvs: Iterable[Path]) -> list[Path]:
    """Annotation files, and what tells the sources of their images, where it is beside them."""
    beside = dict.fromkeys(path.parent / FILE_NAME for path in csvs)
    return [*csvs, *(path for path in beside if path.exists())]
