"""`python -m training.classifier`: train a classifier of single cells on CytologIA annotations."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler

from build_engines.checkpoint import Checkpoint, CropGeometry, build_network
from edge.cells import CELL_CLASSES
from training.augment import VARIATIONS, Variation
from training.base_weights import read_base_weights
from training.crops import Cell, CropDataset, balanced_weights, cells_of, normalised
from training.loop import Schedule, TrainingError, fit
from training.metric import macro_f1
from training.options import data_options, one_sentence, read_data, start_logging

log = logging.getLogger(__name__)

_LEAST_VALIDATION_CELLS = 10
"""A class with fewer does not count in the score by which the best epoch is chosen."""


def macro_f1_of_frequent(truth: Sequence[str], predicted: Sequence[str], least: int) -> float:
    """Macro F1 over the classes that have at least `least` true cells."""
    frequent = [label for label, count in sorted(Counter(truth).items()) if count >= least]
    return macro_f1(truth, predicted, frequent)


def train_classifier(
    cells: Sequence[Cell],
    validation: Sequence[Cell],
    *,
    model: str,
    pretrained: Path | None,
    geometry: CropGeometry,
    variation: Variation,
    schedule: Schedule,
    batch_size: int,
    folder: Path,
    provenance: dict[str, Any],
    resume: bool = False,
    workers: int = 2,
) -> Path:
    """Train and keep the best network as `best.pt` in `folder`; returns its path.

    Validation cells of classes that no training cell has are left out with a line in the log.
    """
    torch.manual_seed(schedule.seed)
    classes = tuple(c.code for c in CELL_CLASSES if any(cell.label == c.code for cell in cells))
    known = [cell for cell in validation if cell.label in classes]
    if len(known) < len(validation):
        log.warning("%d validation cells are of a class without training cells", len(validation) - len(known))
    most = max(Counter(cell.label for cell in known).values(), default=0)
    if most < _LEAST_VALIDATION_CELLS:
        raise TrainingError(
            f"No class has {_LEAST_VALIDATION_CELLS} validation cells (the largest has {most}); "
            "give more of them."
        )
    architecture = {"name": model}
    network = build_network("timm", architecture, len(classes)).to(memory_format=torch.channels_last)
    if pretrained is not None:
        load_base_weights(network, pretrained)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    training_set = CropDataset(cells, classes, geometry, variation, schedule.seed)
    validation_set = CropDataset(known, classes, geometry)
    weights = balanced_weights(cells)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

    def batches(epoch: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(schedule.seed * 1000 + epoch)
        sampler = WeightedRandomSampler(weights, len(cells), generator=generator)
        return DataLoader(
            training_set,
            batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=True,
            generator=generator,
        )

    def loss(network: nn.Module, batch: Any) -> Tensor:
        crops, labels = batch
        return criterion(network(normalised(crops, geometry).to(device)), labels.to(device))

    def score(network: nn.Module) -> dict[str, float]:
        network.eval()
        truth, predicted = [], []
        with torch.inference_mode():
            for crops, labels in DataLoader(validation_set, 64, num_workers=0):
                predicted.append(network(normalised(crops, geometry).to(device)).argmax(1).cpu())
                truth.append(labels)
        codes = np.array(classes)
        true, found = codes[torch.cat(truth)], codes[torch.cat(predicted)]
        macro = macro_f1_of_frequent(true.tolist(), found.tolist(), least=_LEAST_VALIDATION_CELLS)
        right = true == found
        sources = np.array([cell.source for cell in known])
        of_source = {f"accuracy_{s}": float(right[sources == s].mean()) for s in np.unique(sources)}
        return {"score": macro, "macro_f1": macro, "accuracy": float(right.mean()), **of_source}

    def keep(network: nn.Module, figures: dict[str, float]) -> None:
        Checkpoint(
            family="timm",
            architecture=architecture,
            classes=classes,
            geometry=geometry,
            weights=network.state_dict(),
            provenance={**provenance, "model": model, "schedule": asdict(schedule), "validation": figures},
        ).save(folder / "best.pt")

    fit(
        network, batches=batches, loss=loss, score=score, keep=keep,
        schedule=schedule, folder=folder, resume=resume,
    )  # fmt: skip
    return folder / "best.pt"


def load_base_weights(network: nn.Module, path: Path) -> None:
    """Take over every base weight that has this network's shape; only the last layer may differ.

    Raises:
        TrainingError: the file holds no weights, or those of another network.
    """
    base = read_base_weights(path)
    own = network.state_dict()
    fitting = {
        name: tensor for name, tensor in base.items() if name in own and own[name].shape == tensor.shape
    }
    missing = own.keys() - fitting.keys()
    if len(missing) > 4:
        raise TrainingError(
            f"{path} fits only {len(fitting)} of the network's {len(own)} tensors; "
            "give the weights of the same model."
        )
    network.load_state_dict(fitting, strict=False)
    log.info(
        "took %d of %d tensors from %s; new: %s",
        len(fitting),
        len(own),
        path.name,
        ", ".join(sorted(missing)),
    )


def _of_timm(_context: click.Context, _option: click.Parameter, model: str) -> str:
    if not timm.is_model(model):
        raise click.BadParameter(f"{model!r} is no model of timm; choose one that timm.list_models() gives.")
    return model


@click.command()
@one_sentence
@data_options
@click.option(
    "--model",
    callback=_of_timm,
    default="tf_efficientnet_lite0",
    show_default=True,
    help="Any model name of timm.",
)
@click.option(
    "--pretrained", type=click.Path(exists=True, path_type=Path), help="Base weights (timm state dict)."
)
@click.option(
    "--crop-size",
    type=click.IntRange(1),
    default=160,
    show_default=True,
    help="Side of a crop in pixels.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 0.4),
    default=0.15,
    show_default=True,
    help="Margin on each side, as a part of the box.",
)
@click.option(
    "--normalise-by",
    type=click.Choice(["crop", "model"]),
    default="crop",
    show_default=True,
    help="Mean and deviation of each crop, or the constants of the model's base weights.",
)
@click.option("--variation", type=click.Choice(list(VARIATIONS)), default="extreme", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--bf16", is_flag=True, help="Mixed precision in bfloat16.")
def main(model: str, pretrained: Path | None, crop_size: int, margin: float, normalise_by: str,
         variation: str, batch_size: int, bf16: bool, **data: Any) -> None:  # fmt: skip
    """Train a classifier of single cells on the boxes and classes of CytologIA CSV files."""
    start_logging()
    training, validation, schedule = read_data(data, mixed_precision=bf16)
    config = timm.get_pretrained_cfg(model)
    geometry = CropGeometry(crop_size, margin_fraction=margin)
    if normalise_by == "model" and config is not None:
        geometry = replace(geometry, mean=tuple(config.mean), std=tuple(config.std))
    cells, validation_cells = cells_of(training), cells_of(validation)
    log.info("%d cells to train on, %d to validate on", len(cells), len(validation_cells))
    best = train_classifier(
        cells,
        validation_cells,
        model=model,
        pretrained=pretrained,
        geometry=geometry,
        variation=VARIATIONS[variation],
        schedule=schedule,
        batch_size=batch_size,
        folder=data["out"],
        provenance={
            "data": list(data["data_note"]),
            "sources": dict(Counter(cell.source for cell in cells)),
            "cells": dict(Counter(cell.label for cell in cells)),
            "base_weights": pretrained.name if pretrained else "none",
            "variation": variation,
        },
        resume=data["resume"],
    )
    click.echo(best)


if __name__ == "__main__":
    main()
