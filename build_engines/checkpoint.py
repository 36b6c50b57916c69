"""Trained networks on disk: everything that building a graph needs to know travels in one file.

A checkpoint is read with `weights_only=True`, so that a file from elsewhere cannot run code. The
exception are ultralytics' own `.pt` files, which are pickles and are said to be so.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn

from build_engines.families import UltralyticsClassifier
from edge.errors import EdgeError
from edge.geometry import Anchor, CropShape
from edge.locks import OutputUnwritableError

Family = Literal["yolox", "timm", "ultralytics"]
View = Literal["crop", "tile"]
Activation = Literal["softmax", "sigmoid"]
FORMAT = "cytologia-edge checkpoint 1"
"""What a checkpoint says that it is."""

PROVENANCE = "provenance.json"
"""Beside the weights of ultralytics, whose files have no place for it."""


class CheckpointError(EdgeError):
    """A file is no checkpoint of the kind that was asked for."""


def save_whole(content: dict[str, Any], path: Path) -> None:
    """Write a file of torch whole or not at all.

    Raises:
        OutputUnwritableError: it cannot be written; what was there stays.
    """
    partial = path.with_suffix(".part")
    try:
        torch.save(content, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by a place in its own code
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OutputUnwritableError(
            f"{path} cannot be written whole, and {free:.0f} MiB are free there ({error}); make space or "
            "mend the rights, then give the command again (a training goes on with --resume)."
        ) from error


@dataclass(frozen=True, slots=True)
class TileGeometry:
    """How a smear image becomes a detector's tile; see `edge.geometry.letterbox`.

    `background` is that of the training images, RGB 0 to 255, to which the graph first brings that of each
    tile (`build_engines.white_balance`); None leaves tiles as they are.
    """

    tile_size: int
    anchor: Anchor = "top_left"
    background: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class CropGeometry:
    """What of an image a classifier is shown (see `edge.classification.inputs_of`), and how it is normalised.

    `view` "crop" is each cell, with a margin; "tile" the whole image. `crop_size` is the side of the input
    in pixels. `mean` and `std` are of the RGB channels on a scale of 0 to 1; None takes each input's own, so
    that a stronger stain, another white balance or exposure changes nothing.
    """

    crop_size: int
    margin_px: float = 0.0
    margin_fraction: float = 0.15
    shape: CropShape = "square"
    view: View = "crop"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network with what it was trained for.

    Attributes:
        family: which builder makes the network.
        architecture: the builder's arguments.
        classes: class codes in the order of the outputs; empty for a detector that only finds.
        geometry: TileGeometry of a detector, CropGeometry of a classifier.
        weights: the network's state.
        provenance: data, licence, figures: goes into the model card as it is.
        activation: of a classifier, from its outputs to probabilities: "sigmoid" if it was trained on several
            labels an image.
    """

    family: Family
    architecture: dict[str, Any]
    classes: tuple[str, ...]
    geometry: TileGeometry | CropGeometry
    weights: dict[str, torch.Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    activation: Activation = "softmax"

    def save(self, path: Path) -> None:
        """Write the file, as `save_whole`."""
        content = {
            "format": FORMAT,
            "family": self.family,
            "architecture": self.architecture,
            "classes": list(self.classes),
            "geometry": asdict(self.geometry),
            "weights": self.weights,
            # Through JSON, so that nothing stands in the file that a reader with `weights_only` refuses.
            "provenance": json.loads(json.dumps(self.provenance, default=float)),
            "activation": self.activation,
        }
        save_whole(content, path)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint that `python -m training.…` wrote.

        Raises:
            CheckpointError: the file is missing, or something else.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"There is no checkpoint {path}; check the path.") from None
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint ({type(error).__name__}); give a file that "
                "`python -m training.detector` or `python -m training.classifier` wrote."
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise CheckpointError(f"{path} holds {found!r} and not {FORMAT!r}; train it again or convert it.")
        return cls.of(content, path)

    @classmethod
    def of(cls, content: dict[str, Any], path: Path) -> "Checkpoint":
        """From what a file holds that says it is `FORMAT`.

        Raises:
            CheckpointError: a part is missing, or of another kind.
        """
        try:
            geometry = content["geometry"]
            return cls(
                family=content["family"],
                architecture=dict(content["architecture"]),
                classes=tuple(content["classes"]),
                geometry=TileGeometry(**geometry) if "tile_size" in geometry else CropGeometry(**geometry),
                weights=dict(content["weights"]),
                provenance=dict(content["provenance"]),
                activation=content.get("activation", "softmax"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is a checkpoint of which a part is missing or of another kind "
                f"({type(error).__name__}: {error}); train it again with this version."
            ) from error

    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode."""
        network = build_network(self.family, self.architecture, len(self.classes))
        network.load_state_dict(self.weights)
        return network.eval()


def provenance_beside(weights: Path) -> dict[str, Any]:
    """What a training of ultralytics' networks wrote beside its weights; nothing where it wrote none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = weights.with_name(PROVENANCE)
    if not path.exists():
        return {}
    try:
        provenance = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({type(error).__name__}); remove it if nobody knows what the "
            "weights beside it were trained on."
        ) from error
    if not isinstance(provenance, dict):
        raise CheckpointError(f"{path} holds no provenance; remove it if it does not belong to the weights.")
    return provenance


def build_network(family: Family, architecture: dict[str, Any], class_count: int) -> nn.Module:
    """An untrained network of a family.

    Args:
        family: "yolox" (`depth`, `width`, `depthwise` in `architecture`), "timm" (`name`, and `img_size`
            where that is fixed in the network) or "ultralytics" (`name`), a classifier.
        architecture: the builder's arguments.
        class_count: 0 for a detector that only finds, which then has the one class "leukocyte".

    Raises:
        CheckpointError: timm has no such model.
    """
    if family == "yolox":
        return yolox_network(**architecture, class_count=max(class_count, 1))
    if family == "ultralytics":
        return UltralyticsClassifier.untrained(architecture["name"], class_count)
    name, options = architecture["name"], {key: own for key, own in architecture.items() if key != "name"}
    if not timm.is_model(name):  # such as hf-hub:…, which timm would look for in the network
        raise CheckpointError(f"{name!r} is no model of the timm that is installed; train another one.")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=class_count, **options)
    return network


def yolox_network(depth: float, width: float, depthwise: bool, class_count: int) -> nn.Module:
    """YOLOX as of Ge et al. 2021 (arXiv 2107.08430); Nano is depth 0.33, width 0.25, depthwise."""
    from yolox.models import YoloPafpn, YoloxHead, YoloxModule

    channels = [256, 512, 1024]
    network: nn.Module = YoloxModule(
        YoloPafpn(depth, width, in_channels=channels, depthwise=depthwise),
        YoloxHead(class_count, width, in_channels=channels, depthwise=depthwise),
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
    return network
