"""The options that both trainers share: data, schedule, output."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge.errors import EdgeError
from training.annotations import AnnotatedImage, AnnotationError, read_beside
from training.drawn import drawn_images
from training.loop import Schedule, TrainingError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_OPTIONS = (
    click.option("--csv", "csvs", type=_FILE, multiple=True, required=True,
                 help="Annotations to train on (repeatable); images lie in images/ beside the file, and a"
                 " provenance.csv beside it names the source of each."),
    click.option("--validation-csv", "validation_csvs", type=_FILE, multiple=True, required=True,
                 help="Annotations to judge on (repeatable)."),
    click.option("--drawn", default=0, show_default=True, help="Drawn smears to train on, too."),
    click.option("--exclude-source", multiple=True, help="Leave a source out (repeatable)."),
    click.option("--data-note", multiple=True,
                 help="Origin and licence of the data, a sentence for the model card (repeatable)."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run."),
    click.option("--epochs", default=20, show_default=True),
    click.option("--learning-rate", default=1e-3, show_default=True),
    click.option("--ema-decay", default=0.995, show_default=True),
    click.option("--patience", default=10, show_default=True, help="Epochs to wait for a better score."),
    click.option("--seed", default=0, show_default=True),
    click.option("--resume", is_flag=True, help="Go on from the last whole epoch of this run."),
)  # fmt: skip


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a click command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of the data end as their sentence, not as a traceback."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        try:
            command(**options)
        except (EdgeError, AnnotationError, TrainingError) as error:
            raise click.ClickException(str(error)) from error

    return wrapped


def read_data(
    options: dict[str, Any], *, mixed_precision: bool = False
) -> tuple[list[AnnotatedImage], list[AnnotatedImage], Schedule]:
    """Training images, validation images and schedule of the shared options."""
    training = [
        image for image in read_beside(options["csvs"]) if image.source not in options["exclude_source"]
    ]
    if options["drawn"]:
        training += drawn_images(options["out"] / "drawn", options["drawn"])
    schedule = Schedule(
        epochs=options["epochs"],
        learning_rate=options["learning_rate"],
        ema_decay=options["ema_decay"],
        patience=options["patience"],
        seed=options["seed"],
        mixed_precision=mixed_precision,
    )
    return training, read_beside(options["validation_csvs"]), schedule


def start_logging() -> None:
    """Plain lines on standard error, fit for a journal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
