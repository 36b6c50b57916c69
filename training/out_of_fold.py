"""Every image read by a bundle that was trained without it: the folds of a split, each with its bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edge.bundle import Bundle
from edge.pipeline import Pipeline, open_pipeline
from training.audit.tables import read_table
from training.errors import AnnotationError

_VALIDATION = "-val.csv"


@dataclass(frozen=True, slots=True)
class Fold:
    """One pair of a split.

    Attributes:
        csvs: its NAME-val.csv, of the images that the bundle was not trained on.
        bundle: trained on its NAME-train.csv.
    """

    name: str
    csvs: tuple[Path, ...]
    bundle: Bundle


def folds_of(splits: Path, bundles: Path) -> list[Fold]:
    """The folds of a folder that training.splits wrote, with the bundles NAME/bundle or NAME of another one.

    Raises:
        AnnotationError: there are none, or an image is in two of them; a file cannot be read.
        BundleError: a bundle is missing or damaged.
    """
    files = sorted(splits.glob(f"*{_VALIDATION}"))
    if not files:
        raise AnnotationError(
            f"{splits} has no file *{_VALIDATION}; give a folder that training.splits wrote."
        )
    _require_one_split(splits, files)
    names = [path.name.removesuffix(_VALIDATION) for path in files]
    return [
        Fold(name, (path,), Bundle.load(_bundle_folder(bundles, name)))
        for name, path in zip(names, files, strict=True)
    ]


def names_of(fold: Fold) -> list[str]:
    """The NAMEs of its images."""
    return list(dict.fromkeys(name for path in fold.csvs for name in _names_in(path)))


def _names_in(path: Path) -> dict[str, None]:
    """Each once, in order."""
    return dict.fromkeys(row.name for row in read_table(path, path.name).rows)


def _require_one_split(splits: Path, files: Sequence[Path]) -> None:
    files_of: dict[str, list[str]] = {}
    for path in files:
        for name in _names_in(path):
            files_of.setdefault(name, []).append(path.name)
    if several := [name for name, own in files_of.items() if len(own) > 1]:
        raise AnnotationError(
            f"{len(several)} images of {splits} are in more than one *{_VALIDATION} (first {several[0]}, in "
            f"{' and '.join(files_of[several[0]])}), so that these are of several splits; run "
            "training.splits again, or give the folder of one split."
        )


def _bundle_folder(bundles: Path, name: str) -> Path:
    inside = bundles / name / "bundle"
    return inside if inside.is_dir() else bundles / name


def pipelines_of(
    folds: Sequence[Fold], n_images: Sequence[int], backend: str, precision: str, console: Console
) -> Iterator[tuple[Fold, Pipeline]]:
    """The pipeline of each fold that has images to read, opened when its turn comes and said to be."""
    for fold, count in zip(folds, n_images, strict=True):
        if count:
            console.print(f"{fold.name}: {count} images, {fold.bundle.id}", markup=False, highlight=False)
            with open_pipeline(fold.bundle, backend=backend, precision=precision) as pipeline:
                yield fold, pipeline
