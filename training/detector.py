"""`python -m training.detector`: train a detector of leukocytes on CytologIA annotations."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from build_engines.checkpoint import Checkpoint, TileGeometry, build_network
from edge.cli import one_sentence
from edge.geometry import iou_matrix
from edge.matching import match_one_to_one
from training import yolox
from training.annotations import AnnotatedImage, digests_of, read_pixels
from training.augment import VARIATIONS, Variation
from training.base_weights import (
    BaseWeights,
    begin_from,
    begin_from_ultralytics,
    digest_of,
    facts_of,
    require_elsewhere,
)
from training.loop import Schedule, fit, memory_that_suffices
from training.options import (
    data_options,
    defining_options,
    options_given,
    read_data,
    start_logging,
    variation_options,
)
from training.tiles import TileDataset, source_weights

log = logging.getLogger(__name__)

_CALIBRATION_TILES = 64
_BACKGROUND_IMAGES = 500
_RECALL_SCORE = 0.5


def train_yolox(
    training: Sequence[AnnotatedImage],
    validation: Sequence[AnnotatedImage],
    *,
    architecture: dict[str, Any],
    base: BaseWeights | None,
    geometry: TileGeometry,
    variation: Variation,
    schedule: Schedule,
    batch_size: int,
    tiles_per_epoch: int,
    folder: Path,
    provenance: dict[str, Any],
    options: Mapping[str, Any],
    box_loss: str = "iou",
    workers: int = 2,
    resume: bool = False,
) -> Path:
    """Train a one-class YOLOX and keep the best network as `best.pt` in `folder`; returns its path.

    Args:
        box_loss: "iou" or "giou", as YOLOX knows both.
        options: of the command, with which alone a run goes on, as of `training.options.defining_options`.

    Raises:
        TrainingError: base weights do not fit or lie where `best.pt` goes; else as `training.loop.fit`.
    """
    if base is not None:
        require_elsewhere(base.path, folder / "best.pt")
    torch.manual_seed(schedule.seed)
    network: Any = build_network("yolox", architecture, 0)
    network.head.initialize_biases(1e-2)
    network.head.iou_loss.loss_type = box_loss
    dataset = TileDataset(training, geometry, variation, schedule.seed)
    weights = source_weights(training)
    some = np.random.default_rng(0).permutation(len(training))[:_BACKGROUND_IMAGES]
    background = yolox.background_of((read_pixels(training[index]) for index in some), geometry)
    # For the answers alone: in training, colours are varied from where they are.
    balanced = replace(geometry, background=background)
    if base is not None:
        chosen = torch.multinomial(torch.tensor(weights), min(_CALIBRATION_TILES, len(dataset)))
        calibration = torch.stack([dataset[int(index)][0] for index in chosen])
        yolox.load_base_weights(network, base, calibration)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).to(memory_format=torch.channels_last)

    def batches(epoch: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(schedule.seed * 1000 + epoch)
        sampler = WeightedRandomSampler(weights, tiles_per_epoch, generator=generator)
        return DataLoader(
            dataset, batch_size, sampler=sampler, num_workers=workers, drop_last=True, generator=generator
        )

    def loss(network: nn.Module, batch: Any) -> Tensor:
        tiles, boxes = batch
        return yolox.loss(network, tiles.to(device), boxes.to(device))

    def score(network: nn.Module) -> dict[str, float]:
        found = yolox.predict(network, map(read_pixels, validation), balanced)
        return detection_figures(validation, found)

    def keep(network: nn.Module, figures: dict[str, float]) -> None:
        Checkpoint(
            family="yolox",
            architecture=architecture,
            classes=(),
            geometry=balanced,
            weights=network.state_dict(),
            provenance={
                **provenance,
                **facts_of(base),
                "model": "YOLOX",
                "background": [round(level) for level in background],
                "box_loss": box_loss,
                "schedule": asdict(schedule),
                "validation": figures,
            },
        ).save(folder / "best.pt")

    fit(
        network, batches=batches, loss=loss, score=score, keep=keep,
        schedule=schedule, folder=folder, resume=resume,
        began={**digests_of(training, validation), "base weights": digest_of(base), **options},
    )  # fmt: skip
    return folder / "best.pt"


def detection_figures(images: Sequence[AnnotatedImage], found: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    """Figures for choosing an epoch: average precision at IoU 0.5, mean IoU, recall of each source.

    A prediction counts in the recall from a score of 0.5 on.

    Args:
        images: the truth.
        found: boxes float32 [n, 4] in image pixels and scores float32 [n] of each image.
    """
    scores: list[float] = []
    right: list[bool] = []
    overlaps: list[float] = []
    of_source: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for image, (boxes, image_scores) in zip(images, found, strict=True):
        total[image.source] += len(image.boxes_xyxy)
        matches = match_one_to_one(image.boxes_xyxy, boxes, image_scores)
        matched = np.flatnonzero(matches >= 0)
        scores += list(image_scores)
        right += list(matches >= 0)
        overlaps += list(iou_matrix(image.boxes_xyxy, boxes)[matches[matched], matched])
        of_source[image.source] += int((image_scores[matched] >= _RECALL_SCORE).sum())
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.array(right, float)[order]
    boxes_total = sum(total.values())
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    average_precision = float((precision * hits).sum() / max(boxes_total, 1))
    mean_iou = float(np.mean(overlaps)) if overlaps else 0.0
    recall = {
        f"recall_{source}": of_source[source] / count for source, count in sorted(total.items()) if count
    }
    return {"score": average_precision + mean_iou, "ap50": average_precision, "mean_iou": mean_iou, **recall}


_LARGEST_STRIDE = 32
_LEAST_TILE = 96
"""A bundle gives 100 boxes at most; a smaller tile has fewer places for them."""
_ONLY_YOLOX = ("pretrained", "tiles_per_epoch", "ema_decay", "box_loss")
"""Parameters of the command that ultralytics' training has no use for."""
_ONLY_ULTRALYTICS = ("one_stage", "device")


def _whole_strides(_context: click.Context, _option: click.Parameter, tile_size: int) -> int:
    if tile_size % _LARGEST_STRIDE:
        raise click.BadParameter(f"{tile_size} is no multiple of {_LARGEST_STRIDE}; choose one, such as 416.")
    if tile_size < _LEAST_TILE:
        raise click.BadParameter(
            f"a tile of {tile_size} px has fewer places for boxes than a bundle gives; choose "
            f"{_LEAST_TILE} or more."
        )
    return tile_size


def refuse_foreign_options(values: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuse what the user gave and this model would ignore.

    Args:
        values: of the command's options, by their names.
        given: names of those that are not left to their defaults.

    Raises:
        UsageError: there is such an option.
    """
    model = values["model"]
    is_yolox = model in yolox.ARCHITECTURES
    foreign = [name for name in (_ONLY_ULTRALYTICS if is_yolox else _ONLY_YOLOX) if name in given]
    typed = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
    if "one_stage" in foreign:
        raise click.UsageError(f"{model} only finds cells; choose a model of ultralytics with --one-stage.")
    if foreign and is_yolox:
        raise click.UsageError(
            f"{typed} is for models of ultralytics; {model} takes the first card by itself."
        )
    if foreign:
        raise click.UsageError(
            f"{model} is trained by ultralytics, which does not take {typed}; leave that out "
            "(base weights of ultralytics are given as the model, --model yolo11n.pt)."
        )


@click.command()
@one_sentence
@memory_that_suffices()
@data_options
@click.option(
    "--model",
    default="yolox-nano",
    show_default=True,
    help="yolox-nano, yolox-tiny, yolox-s, or any model name of ultralytics (yolo11n.pt, yolo26n.yaml, …).",
)
@click.option(
    "--pretrained",
    type=click.Path(exists=True, path_type=Path),
    help="Base weights for YOLOX: a state dict, a checkpoint, or BUNDLE/detector.onnx.",
)
@click.option(
    "--tile-size",
    type=click.IntRange(_LARGEST_STRIDE),
    callback=_whole_strides,
    default=416,
    show_default=True,
    help=f"Side of a tile in pixels, a multiple of {_LARGEST_STRIDE}.",
)
@variation_options("strong")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option(
    "--tiles-per-epoch", type=click.IntRange(1), default=2000, show_default=True, help="For YOLOX only."
)
@click.option(
    "--box-loss",
    type=click.Choice(["iou", "giou"]),
    default="iou",
    show_default=True,
    help="What YOLOX learns of boxes: 1 - IoU², or 1 - GIoU.",
)
@click.option("--one-stage", is_flag=True, help="The detector also names the class (ultralytics models).")
@click.option("--bf16", is_flag=True, help="Mixed precision in bfloat16.")
@click.option(
    "--device",
    metavar="cpu|0|0,1",
    help="Cards to train on, for models of ultralytics; without it the first card, or the CPU.",
)
def main(model: str, pretrained: Path | None, tile_size: int, variation: str, hue: float,
         batch_size: int, tiles_per_epoch: int, box_loss: str, one_stage: bool, bf16: bool,
         device: str | None, **data: Any) -> None:  # fmt: skip
    """Train a detector of leukocytes on the boxes of CytologIA CSV files."""
    start_logging()
    refuse_foreign_options({"model": model}, options_given())
    is_yolox = model in yolox.ARCHITECTURES
    excluded = data["exclude_source"]
    base = begin_from(pretrained, excluded) if is_yolox else begin_from_ultralytics(model, excluded)
    training, validation, schedule = read_data(data, mixed_precision=bf16)
    log.info("%d images to train on, %d to validate on", len(training), len(validation))
    provenance = {
        "data": list(data["data_note"]),
        "sources": dict(Counter(image.source for image in training)),
        "variation": variation,
        "hue": hue,
    }
    varied = replace(VARIATIONS[variation], hue=hue)
    if not is_yolox:
        from training.ultralytics_yolo import train_ultralytics

        best = train_ultralytics(
            training, validation, model=model, tile_size=tile_size, one_stage=one_stage,
            variation=varied, schedule=schedule, batch_size=batch_size, folder=data["out"], base=base,
            provenance=provenance, options=defining_options(), device=device, workers=data["workers"],
            resume=data["resume"],
        )  # fmt: skip
    else:
        best = train_yolox(
            training,
            validation,
            architecture=yolox.ARCHITECTURES[model],
            base=base,
            geometry=TileGeometry(tile_size, "top_left"),
            variation=varied,
            schedule=schedule,
            batch_size=batch_size,
            tiles_per_epoch=tiles_per_epoch,
            box_loss=box_loss,
            folder=data["out"],
            provenance=provenance,
            options=defining_options(),
            workers=data["workers"],
            resume=data["resume"],
        )
    click.echo(best)


if __name__ == "__main__":
    main()
