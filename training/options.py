"""The options that both trainers share: data, schedule, output."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from edge.cli import NumberRange
from edge.names import as_text, name_of
from edge.progress import counted
from training.annotations import AnnotatedImage, read_pixels, read_without_sources
from training.apart import kinship, require_apart
from training.augment import VARIATIONS
from training.drawn import drawn_images
from training.errors import AnnotationError
from training.loop import Schedule, TrainingError
from training.out_folder import require_writable, writing

log = logging.getLogger(__name__)

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

HELD_OUT = click.option(
    "--held-out-csv", "held_out_csvs", type=_FILE, multiple=True,
    help="Further annotations (repeatable): --exclude-source leaves out, too, what belongs together with"
    " those of their images that are of the source.",
)  # fmt: skip
"""What folds do not have: images that a source left out may have elsewhere."""


def _as_texts(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(as_text, given))


_OPTIONS = (
    click.option("--csv", "csvs", type=_FILE, multiple=True, required=True,
                 help="Annotations to train on (repeatable); images lie in images/ beside the file, and a"
                 " provenance.csv beside it names the source of each."),
    click.option("--validation-csv", "validation_csvs", type=_FILE, multiple=True, required=True,
                 help="Annotations to judge on (repeatable)."),
    click.option("--drawn", type=click.IntRange(0), default=0, show_default=True,
                 help="Drawn smears to train on, too."),
    click.option("--exclude-source", multiple=True,
                 help="Leave a source out of training and validation, and near-duplicates of its images with"
                 " all images of their patients (repeatable)."),
    HELD_OUT,
    click.option("--data-note", multiple=True, callback=_as_texts,
                 help="Origin and licence of the data, a sentence for the model card (repeatable)."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run."),
    click.option("--epochs", type=click.IntRange(1), default=20, show_default=True),
    click.option("--learning-rate", type=NumberRange(0, min_open=True), default=1e-3, show_default=True),
    click.option("--ema-decay", type=NumberRange(0, 1, max_open=True), default=0.995, show_default=True,
                 help="Of the moving average of the weights; models of ultralytics have their own."),
    click.option("--patience", type=click.IntRange(1), default=10, show_default=True,
                 help="Epochs to wait for a better score."),
    click.option("--workers", type=click.IntRange(0), default=2, show_default=True,
                 help="Processes that read and vary images; another number gives other random ones."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--resume", is_flag=True, help="Go on from the last whole epoch of this run."),
)  # fmt: skip


_IMAGE_OPTIONS = (
    click.option("--csv", "csvs", type=_FILE, required=True, multiple=True, help="Annotations; repeatable."),
    click.option("--images", "folders", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 multiple=True,
                 help="Folders of the images, repeatable; images/ beside each CSV without it."),
    click.option("--provenance", type=_FILE,
                 help="CSV with NAME and source, for figures per source; provenance.csv beside each CSV"
                 " without --images."),
    click.option("--source", "sources", multiple=True, help="Only the images of this source; repeatable."),
)  # fmt: skip


_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

_ENGINE_OPTIONS = (
    click.option("--backend", default="auto", show_default=True, help="Inference engine."),
    click.option("--precision", default="auto", show_default=True, help="Precision of the inference engine."),
)  # fmt: skip

_FOLD_OPTIONS = (
    click.option("--splits", type=_FOLDER, required=True,
                 help="Folder that training.splits wrote: NAME-val.csv of each."),
    click.option("--bundles", type=_FOLDER, required=True,
                 help="Folder with NAME/bundle or NAME of each, the bundle trained on NAME-train.csv."),
    *_ENGINE_OPTIONS,
)  # fmt: skip


def variation_options(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add how far the stations of the training images are varied: variation, hue."""

    def added(command: Callable[..., None]) -> Callable[..., None]:
        command = click.option("--hue", type=NumberRange(0, 1), default=1.0, show_default=True,
                               help="Share of the variation that changes hues; 0: amounts of stain and"
                               " light vary, hues hardly.")(command)  # fmt: skip
        return click.option("--variation", type=click.Choice(list(VARIATIONS)), default=default,
                            show_default=True,
                            help="How far stain, camera and optics vary.")(command)  # fmt: skip

    return added


def fold_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of folds with their bundles: splits, bundles, backend, precision."""
    for option in reversed(_FOLD_OPTIONS):
        command = option(command)
    return command


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the engine that reads images: backend, precision."""
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


def image_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of annotated images to judge by: csvs, folders, provenance, sources."""
    for option in reversed(_IMAGE_OPTIONS):
        command = option(command)
    return command


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a click command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options_given() -> set[str]:
    """Names of the options of the command that runs which are not left to their defaults."""
    context = click.get_current_context()
    return {
        name for name in context.params if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def read_data(
    options: dict[str, Any], *, mixed_precision: bool = False
) -> tuple[list[AnnotatedImage], list[AnnotatedImage], Schedule]:
    """Training images, validation images and schedule of the shared options.

    Raises:
        AnnotationError: as `read_without_sources`, or a box lies outside of its image.
        TrainingError: no image is left to train on or to judge by, or one is for both.
        ImageRejected: one cannot be read.
        OutputUnwritableError: the folder of the run cannot be written.
    """
    given = (options[name] for name in ("exclude_source", "held_out_csvs", "csvs", "validation_csvs"))
    training, validation = read_without_sources(*given)
    require_apart(training, validation)
    if told := kinship(training, validation):
        log.warning("%s", told)
    out = options["out"]
    require_writable(out)
    if options["drawn"]:
        with writing(out):
            training += drawn_images(out / "drawn", options["drawn"])
    for images, purpose in ((training, "train on"), (validation, "judge by")):
        if not images:
            raise TrainingError(
                f"No image is left to {purpose}; leave fewer sources out or give more images."
            )
    for image in counted([*training, *validation], "trying all images", Console(stderr=True)):
        _require_boxes_inside(image, read_pixels(image).shape[:2])
    schedule = Schedule(
        epochs=options["epochs"],
        learning_rate=options["learning_rate"],
        ema_decay=options["ema_decay"],
        patience=options["patience"],
        seed=options["seed"],
        mixed_precision=mixed_precision,
    )
    return training, validation, schedule


_MAY_CHANGE = {"epochs", "patience", "workers", "device", "resume", "out", "data_note"}
_KNOWN_BY_CONTENT = {"csvs", "validation_csvs", "held_out_csvs", "exclude_source", "drawn", "pretrained"}
"""By `training.annotations.digests_of` and `training.base_weights.digest_of`."""


def defining_options() -> dict[str, Any]:
    """By which a run knows its options again: their values, of files name and sha256, by option."""
    return {
        f"--{name.replace('_', '-')}": _digest_of(value) if isinstance(value, Path) else value
        for name, value in click.get_current_context().params.items()
        if name not in _MAY_CHANGE | _KNOWN_BY_CONTENT
    }


def _digest_of(path: Path) -> str:
    return f"{name_of(path)}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def _require_boxes_inside(image: AnnotatedImage, size_hw: Sequence[int]) -> None:
    height, width = size_hw
    outside = (image.boxes_xyxy[:, :2] >= (width, height)).any(1)
    if outside.any():
        box = ", ".join(f"{corner:g}" for corner in image.boxes_xyxy[outside.argmax()])
        raise AnnotationError(
            f"{image.path} is {width} x {height} px and its box {box} lies outside of it; clean the file "
            "with python -m training.audit first."
        )


def start_logging() -> None:
    """Plain lines on standard error, fit for a journal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
