"""The training of a classifier, from samples in memory to a checkpoint."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from build_engines.checkpoint import Checkpoint, CropGeometry, Family, build_network
from build_engines.graphs import Channels
from edge.cells import CELL_CLASSES
from training.annotations import digests_of
from training.augment import Variation
from training.base_weights import BaseWeights, digest_of, facts_of, require_elsewhere, take_over
from training.crops import Cell, CropDataset, balanced_weights, normalised
from training.loop import Schedule, TrainingError, fit
from training.metric import macro_f1
from training.objective import PLAIN, Objective
from training.targets import SoftLabels, targets_of
from training.whole_images import WholeImage, WholeImageDataset

log = logging.getLogger(__name__)

_LEAST_VALIDATION_CELLS = 10
"""A class with fewer does not count in the score by which the best epoch is chosen."""

_CALIBRATION_SAMPLES = 256
"""Samples on which batch-norms are put back that the base weights have folded in."""

_MOST_NEW_TENSORS = 4
"""Of base weights of the same model; it differs in its last layer."""

_POSITIONS = "pos_embed"
"""timm's name of the position embedding, which has a row for each patch of the input."""


def macro_f1_of_frequent(truth: Sequence[str], predicted: Sequence[str], least: int) -> float:
    """Macro F1 over the classes that have at least `least` true cells."""
    frequent = [label for label, count in sorted(Counter(truth).items()) if count >= least]
    return macro_f1(truth, predicted, frequent)


def train_classifier(
    samples: Sequence[Cell] | Sequence[WholeImage],
    validation: Sequence[Cell] | Sequence[WholeImage],
    *,
    model: str,
    base: BaseWeights | None,
    geometry: CropGeometry,
    variation: Variation,
    schedule: Schedule,
    batch_size: int,
    folder: Path,
    provenance: dict[str, Any],
    options: Mapping[str, Any],
    objective: Objective = PLAIN,
    soft: SoftLabels | None = None,
    soft_weight: float = 0.0,
    workers: int = 2,
    resume: bool = False,
) -> Path:
    """Train and keep the best network as `best.pt` in `folder`; returns its path.

    Args:
        samples: cells, or whole images where `geometry` has the view "tile".
        validation: of the same kind, whole images of one cell each: the class that the network finds most
            probable is held against the cell's. Those of classes that no sample has are left out with a line
            in the log.
        base: weights to begin with; without them the network is new.
        options: of the command, with which alone a run goes on, as of `training.options.defining_options`.
        soft, soft_weight: of a teacher, see `training.targets.targets_of`.

    Raises:
        TrainingError: a class has too few validation cells, base weights do not fit or lie where `best.pt`
            goes; else as `training.loop.fit`.
    """
    if base is not None:
        require_elsewhere(base.path, folder / "best.pt")
    torch.manual_seed(schedule.seed)
    present = {label for sample in samples for label in sample.cells}
    classes = tuple(c.code for c in CELL_CLASSES if c.code in present)
    known = [sample for sample in validation if sample.label in classes]
    if len(known) < len(validation):
        log.warning("%d validation cells are of a class without training cells", len(validation) - len(known))
    most = max(Counter(sample.label for sample in known).values(), default=0)
    if most < _LEAST_VALIDATION_CELLS:
        raise TrainingError(
            f"No class has {_LEAST_VALIDATION_CELLS} validation cells (the largest has {most}); "
            "give more of them."
        )
    family, architecture = architecture_of(model, geometry.crop_size)
    network = build_network(family, architecture, len(classes)).to(memory_format=torch.channels_last)
    targets = targets_of(samples, classes, soft, soft_weight)
    training_set = _dataset(samples, targets, geometry, variation, schedule.seed)
    validation_set = _dataset(known, targets_of(known, classes), geometry)
    weights = balanced_weights(samples)
    if base is not None:

        def calibrate() -> None:
            chosen = torch.multinomial(torch.tensor(weights), min(_CALIBRATION_SAMPLES, len(samples)))
            pixels = torch.stack([training_set[int(index)][0] for index in chosen])
            network(normalised(pixels, geometry))

        load_base_weights(network, base, classes, calibrate)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)

    def batches(epoch: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(schedule.seed * 1000 + epoch)
        sampler = WeightedRandomSampler(weights, len(samples), generator=generator)
        return DataLoader(
            training_set,
            batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=True,
            generator=generator,
        )

    def loss(network: nn.Module, batch: Any) -> Tensor:
        pixels, wanted = batch
        planes, wanted = objective.mixed(normalised(pixels, geometry).to(device), wanted.to(device))
        return objective(network(planes), wanted)

    def score(network: nn.Module) -> dict[str, float]:
        network.eval()
        predicted = []
        with torch.inference_mode():
            for pixels, _ in DataLoader(validation_set, 64, num_workers=workers):
                predicted.append(network(normalised(pixels, geometry).to(device)).argmax(1).cpu())
        true = np.array([sample.label for sample in known])
        found = np.array(classes)[torch.cat(predicted)]
        macro = macro_f1_of_frequent(true.tolist(), found.tolist(), least=_LEAST_VALIDATION_CELLS)
        right = true == found
        sources = np.array([sample.source for sample in known])
        of_source = {f"accuracy_{s}": float(right[sources == s].mean()) for s in np.unique(sources)}
        return {"score": macro, "macro_f1": macro, "accuracy": float(right.mean()), **of_source}

    def keep(network: nn.Module, figures: dict[str, float]) -> None:
        Checkpoint(
            family=family,
            architecture=architecture,
            classes=classes,
            geometry=geometry,
            weights=network.state_dict(),
            provenance={
                **provenance,
                **facts_of(base),
                "model": model,
                "objective": asdict(objective),
                "schedule": asdict(schedule),
                "validation": figures,
            },
            activation=objective.activation,
        ).save(folder / "best.pt")

    annotations = digests_of((sample.image for sample in samples), (sample.image for sample in known))
    fit(
        network, batches=batches, loss=loss, score=score, keep=keep,
        schedule=schedule, folder=folder, began={**annotations, "base weights": digest_of(base), **options},
        resume=resume,
    )  # fmt: skip
    return folder / "best.pt"


def _dataset(
    samples: Sequence[Any],
    targets: Tensor,
    geometry: CropGeometry,
    variation: Variation | None = None,
    seed: int = 0,
) -> Dataset[tuple[Tensor, Tensor]]:
    kind = WholeImageDataset if geometry.view == "tile" else CropDataset
    return kind(samples, targets, geometry, variation, seed)


def architecture_of(model: str, crop_size: int) -> tuple[Family, dict[str, Any]]:
    """What `build_network` makes a model from; a ViT, whose input size is fixed, for that of the crop."""
    if is_of_ultralytics(model):
        return "ultralytics", {"name": model}
    config = timm.get_pretrained_cfg(model)
    return "timm", {"name": model, **({"img_size": crop_size} if config and config.fixed_input_size else {})}


def is_of_ultralytics(model: str) -> bool:
    """Whether a model's name is that of an architecture of ultralytics (`yolo11l-cls.yaml`), not of timm."""
    return model.endswith(".yaml")


def constants_of(model: str) -> tuple[Channels | None, Channels | None]:
    """Mean and deviation of RGB, 0 to 1, that a model's base weights were trained with; None if unknown."""
    if is_of_ultralytics(model):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    config = timm.get_pretrained_cfg(model)
    return (tuple(config.mean), tuple(config.std)) if config else (None, None)


def load_base_weights(
    network: Any, base: BaseWeights, classes: Sequence[str], calibrate: Callable[[], object]
) -> None:
    """Take over every base weight that has this network's shape; only the last layer may differ.

    That one keeps what it knows of the classes that both have. The position embedding of a ViT for another
    input size is resampled to this network's.

    Args:
        network: any model of timm, or a classifier of ultralytics.
        classes: of this network, in the order of its outputs.
        calibrate: as in `training.base_weights.take_over`.

    Raises:
        TrainingError: the weights are another network's.
    """
    tensors, own = dict(base.tensors), network.state_dict()
    positions = tensors.get(_POSITIONS)
    other_size = positions is not None and _POSITIONS in own and positions.shape != own[_POSITIONS].shape
    if other_size and hasattr(network, "no_embed_class"):
        n_prefix = 0 if network.no_embed_class else network.num_prefix_tokens
        tensors[_POSITIONS] = resample_abs_pos_embed(
            positions, list(network.patch_embed.grid_size), num_prefix_tokens=n_prefix
        )
    for name in _names_of_last_layer(network) if base.classes else ():
        rows = (len(base.classes), *own[name].shape[1:]), (len(classes), *own[name].shape[1:])
        if name in tensors and (tensors[name].shape, own[name].shape) == rows:
            tensors[name] = _by_class(tensors[name], base.classes, own[name], classes)
    new = take_over(network, tensors, calibrate)
    if len(new) > _MOST_NEW_TENSORS:
        raise TrainingError(
            f"{base.path} fits only {len(own) - len(new)} of the network's {len(own)} tensors; "
            "give the weights of the same model, its best.pt if these are a bundle's."
        )
    log.info(
        "took %d of %d tensors from %s; new: %s",
        len(own) - len(new),
        len(own),
        base.path.name,
        ", ".join(new) or "none",
    )


def _names_of_last_layer(network: Any) -> list[str]:
    last = network.get_classifier()
    return [
        f"{name}.{own}"
        for name, module in network.named_modules()
        if module is last
        for own in last.state_dict()
    ]


def _by_class(rows: Tensor, classes: Sequence[str], own: Tensor, own_classes: Sequence[str]) -> Tensor:
    """The own last layer with the rows of the classes that the other one knows."""
    known = [code for code in own_classes if code in classes]
    own = own.clone()
    own[[own_classes.index(code) for code in known]] = rows[[classes.index(code) for code in known]]
    return own
