"""`python -m training.classifier`: train a classifier of cells or whole images on CytologIA annotations."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import timm

from build_engines.checkpoint import CropGeometry
from build_engines.families import classifies
from edge.cli import NumberRange, one_sentence
from edge.manifest import LARGEST_MARGIN_PX
from edge.names import name_of
from training.annotations import AnnotatedImage
from training.augment import VARIATIONS
from training.base_weights import begin_from
from training.classifying import constants_of, is_of_ultralytics, train_classifier
from training.crops import cells_of
from training.loop import memory_that_suffices
from training.objective import LOSSES, Objective
from training.options import (
    data_options,
    defining_options,
    options_given,
    read_data,
    start_logging,
    variation_options,
)
from training.targets import SoftLabels
from training.whole_images import alone, whole_images_of

log = logging.getLogger(__name__)


def _that_classifies(_context: click.Context, _option: click.Parameter, model: str) -> str:
    if is_of_ultralytics(model):
        if not classifies(model):
            raise click.BadParameter(
                f"{model!r} is no classifier of ultralytics; give a name such as yolo11l-cls.yaml, and base "
                "weights as --pretrained yolo11l-cls.pt."
            )
    elif not timm.is_model(model):
        raise click.BadParameter(
            f"{model!r} is no model of timm; choose one that timm.list_models() gives, or a classifier of "
            "ultralytics such as yolo11l-cls.yaml."
        )
    return model


@click.command()
@one_sentence
@memory_that_suffices()
@data_options
@click.option(
    "--model",
    callback=_that_classifies,
    default="tf_efficientnet_lite0",
    show_default=True,
    help="Any model name of timm, or a classifier of ultralytics (yolo11l-cls.yaml).",
)
@click.option(
    "--pretrained",
    type=click.Path(exists=True, path_type=Path),
    help="Base weights: a state dict of timm, a checkpoint, BUNDLE/classifier.onnx, or ultralytics' .pt.",
)
@click.option(
    "--view",
    type=click.Choice(["crop", "tile"]),
    default="crop",
    show_default=True,
    help="What the network sees: each cell, or the whole image.",
)
@click.option(
    "--shape",
    type=click.Choice(["square", "stretched"]),
    default="square",
    show_default=True,
    help="Keep the aspect (a crop is widened, a tile letterboxed), or stretch to a square.",
)
@click.option(
    "--crop-size",
    type=click.IntRange(1),
    default=160,
    show_default=True,
    help="Side of the network's input in pixels, also of a whole image.",
)
@click.option(
    "--margin",
    type=NumberRange(0, 0.4),
    default=0.15,
    show_default=True,
    help="Margin of a crop on each side, as a part of the box's longer side.",
)
@click.option(
    "--margin-px",
    type=NumberRange(0, LARGEST_MARGIN_PX),
    default=0.0,
    show_default=True,
    help="Margin of a crop on each side in pixels of the image, added to --margin.",
)
@click.option(
    "--normalise-by",
    type=click.Choice(["crop", "model"]),
    default="crop",
    show_default=True,
    help="Mean and deviation of each crop, or the constants of the model's base weights.",
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default="cross_entropy",
    show_default=True,
    help="multi_label: all classes that are to be seen, each by itself.",
)
@click.option(
    "--focal-gamma",
    type=NumberRange(0),
    default=2.0,
    show_default=True,
    help="How much less the focal loss counts what is already sure.",
)
@click.option(
    "--mixup",
    type=NumberRange(0),
    default=0.0,
    show_default=True,
    help="Alpha of mixup; 0: none.",
)
@click.option(
    "--cutmix",
    type=NumberRange(0),
    default=0.0,
    show_default=True,
    help="Alpha of CutMix; 0: none.",
)
@click.option(
    "--soft-labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A teacher's probabilities, written by training.soft_labels.",
)
@click.option(
    "--soft-weight",
    type=NumberRange(0, 1),
    default=0.5,
    show_default=True,
    help="How much they count beside the labels.",
)
@variation_options("extreme")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--bf16", is_flag=True, help="Mixed precision in bfloat16.")
def main(model: str, pretrained: Path | None, variation: str, hue: float, batch_size: int, bf16: bool,
         soft_labels: Path | None, soft_weight: float, **options: Any) -> None:  # fmt: skip
    """Train a classifier of cells or whole images on the boxes and classes of CytologIA CSV files.

    A whole image is learnt from if all of its cells have one class, with --loss multi_label also with
    several. The best epoch is chosen by cells, of whole images by those that show one cell alone.
    """
    start_logging()
    refuse_idle_options({**options, "soft_labels": soft_labels}, options_given())
    soft = None if soft_labels is None else SoftLabels.read(soft_labels)
    base = begin_from(pretrained, options["exclude_source"], pickles=is_of_ultralytics(model))
    training, validation, schedule = read_data(options, mixed_precision=bf16)
    geometry = _geometry(model, options)
    several = options["loss"] == "multi_label"
    samples, known = _samples(training, geometry, several), _samples(validation, geometry, several)
    if geometry.view == "tile":
        known = alone(known)
    what = "whole images" if geometry.view == "tile" else "cells"
    log.info("%d %s to train on, %d to validate on", len(samples), what, len(known))
    best = train_classifier(
        samples,
        known,
        model=model,
        base=base,
        geometry=geometry,
        variation=replace(VARIATIONS[variation], hue=hue),
        schedule=schedule,
        batch_size=batch_size,
        folder=options["out"],
        provenance={
            "data": list(options["data_note"]),
            "sources": dict(Counter(sample.source for sample in samples)),
            "cells": dict(Counter(label for sample in samples for label in sample.cells)),
            "variation": variation,
            "hue": hue,
            **({"soft_labels": name_of(soft_labels), "soft_weight": soft_weight} if soft_labels else {}),
        },
        options=defining_options(),
        objective=Objective(
            **{name: options[name] for name in ("loss", "focal_gamma", "mixup", "cutmix")},
        ),
        soft=soft,
        soft_weight=soft_weight,
        workers=options["workers"],
        resume=options["resume"],
    )
    click.echo(best)


def refuse_idle_options(values: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuse what the user gave and this training would ignore.

    Args:
        values: of the command's options, by their names.
        given: names of those that are not left to their defaults.

    Raises:
        UsageError: there is such an option.
    """
    for names, is_used, where in (
        (("margin", "margin_px"), values["view"] == "crop", "--view crop"),
        (("focal_gamma",), values["loss"] == "focal", "--loss focal"),
        (("soft_weight",), values["soft_labels"] is not None, "--soft-labels"),
    ):
        if not is_used and (idle := [name for name in names if name in given]):
            raise click.UsageError(f"--{idle[0].replace('_', '-')} is for {where} only; leave it out.")


def _geometry(model: str, options: dict[str, Any]) -> CropGeometry:
    mean, std = constants_of(model) if options["normalise_by"] == "model" else (None, None)
    is_crop = options["view"] == "crop"
    return CropGeometry(
        options["crop_size"],
        margin_px=options["margin_px"] if is_crop else 0.0,
        margin_fraction=options["margin"] if is_crop else 0.0,
        shape=options["shape"],
        view=options["view"],
        mean=mean,
        std=std,
    )


def _samples(images: Sequence[AnnotatedImage], geometry: CropGeometry, several: bool) -> Any:
    return whole_images_of(images, several=several) if geometry.view == "tile" else cells_of(images)


if __name__ == "__main__":
    main()
