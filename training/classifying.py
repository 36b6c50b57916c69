"""The training of a classifier, from samples in memory to a checkpoint."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from build_engines.checkpoint import Checkpoint, CropGeometry, build_network
from edge.cells import CELL_CLASSES
from training.augment import Variation
from training.base_weights import read_base_weights
from training.crops import Cell, CropDataset, balanced_weights, normalised
from training.loop import Schedule, TrainingError, fit
from training.metric import macro_f1
from training.objective import PLAIN, Objective
from training.targets import SoftLabels, targets_of
from training.whole_images import WholeImage, WholeImageDataset

log = logging.getLogger(__name__)

_LEAST_VALIDATION_CELLS = 10
"""A class with fewer does not count in the score by which the best epoch is chosen."""

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
    pretrained: Path | None,
    geometry: CropGeometry,
    variation: Variation,
    schedule: Schedule,
    batch_size: int,
    folder: Path,
    provenance: dict[str, Any],
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
        soft, soft_weight: of a teacher, see `training.targets.targets_of`.
    """
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
    architecture = architecture_of(model, geometry.crop_size)
    network = build_network("timm", architecture, len(classes)).to(memory_format=torch.channels_last)
    if pretrained is not None:
        load_base_weights(network, pretrained)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    targets = targets_of(samples, classes, soft, soft_weight)
    training_set = _dataset(samples, targets, geometry, variation, schedule.seed)
    validation_set = _dataset(known, targets_of(known, classes), geometry)
    weights = balanced_weights(samples)

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
            family="timm",
            architecture=architecture,
            classes=classes,
            geometry=geometry,
            weights=network.state_dict(),
            provenance={
                **provenance,
                "model": model,
                "objective": asdict(objective),
                "schedule": asdict(schedule),
                "validation": figures,
            },
            activation=objective.activation,
        ).save(folder / "best.pt")

    fit(
        network, batches=batches, loss=loss, score=score, keep=keep,
        schedule=schedule, folder=folder, resume=resume,
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


def architecture_of(model: str, crop_size: int) -> dict[str, Any]:
    """What builds a model of timm; one with a fixed input size, as a ViT, for that of the crop."""
    config = timm.get_pretrained_cfg(model)
    return {"name": model, **({"img_size": crop_size} if config and config.fixed_input_size else {})}


def load_base_weights(network: nn.Module, path: Path) -> None:
    """Take over every base weight that has this network's shape; only the last layer may differ.

    The position embedding of a ViT for another input size is resampled to this network's.

    Raises:
        TrainingError: the file holds no weights, or those of another network.
    """
    base = read_base_weights(path)
    own = network.state_dict()
    positions = base.get(_POSITIONS)
    if positions is not None and _POSITIONS in own and positions.shape != own[_POSITIONS].shape:
        n_prefix = 0 if network.no_embed_class else network.num_prefix_tokens
        base[_POSITIONS] = resample_abs_pos_embed(
            positions, list(network.patch_embed.grid_size), num_prefix_tokens=n_prefix
        )
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
