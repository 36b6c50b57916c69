"""YOLOX: base weights, loss and prediction for the common training loop."""

import warnings
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from build_engines.checkpoint import TileGeometry
from build_engines.graphs import detector_graph
from edge.geometry import letterbox
from training.base_weights import read_base_weights
from training.loop import TrainingError

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]

_BATCH = 16

NANO = {"depth": 0.33, "width": 0.25, "depthwise": True}
ARCHITECTURES = {
    "yolox-nano": NANO,
    "yolox-tiny": {"depth": 0.33, "width": 0.375, "depthwise": False},
    "yolox-s": {"depth": 0.33, "width": 0.5, "depthwise": False},
}
"""Sizes of YOLOX that can be trained, by name (Ge et al. 2021, table 3)."""


def network_input(tiles: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] RGB to float32 [B, 3, S, S] BGR 0 to 255, channels last in memory."""
    return tiles.flip(3).float().permute(0, 3, 1, 2)


def targets(boxes_xyxy: Tensor) -> Tensor:
    """float32 [B, n, 4] xyxy with empty rows to YOLOX's [B, n, 5]: class 0, centre x, y, width, height."""
    centre = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return torch.cat([torch.zeros_like(centre[..., :1]), centre, sides], dim=-1)


def loss(network: nn.Module, tiles: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """YOLOX's own loss of a batch: assignment by SimOTA, box, objectness and class terms."""
    with warnings.catch_warnings():
        # yolox opens torch.cuda.amp.autocast, which torch calls by another name since 2.4.
        warnings.simplefilter("ignore", FutureWarning)
        features = network.backbone(network_input(tiles))
        total: Tensor = network.head(features, targets(boxes_xyxy), None)[0]
    return total


def predict(
    network: nn.Module, rgb: Iterable[Image], geometry: TileGeometry, least_score: float = 0.05
) -> list[tuple[Boxes, NDArray[np.float32]]]:
    """Boxes [n, 4] in image pixels and scores [n] of each image, best first, by the graph of a bundle."""
    device = next(network.parameters()).device
    graph = detector_graph(network, family="yolox", tile_size=geometry.tile_size).to(device)
    found = []
    tiles_of = (letterbox(image, geometry.tile_size, geometry.anchor) for image in rgb)
    while placed := list(islice(tiles_of, _BATCH)):
        tiles = torch.from_numpy(np.stack([tile for tile, _ in placed])).to(device)
        with torch.inference_mode():
            boxes, scores, _ = (answer.cpu().numpy() for answer in graph(tiles))
        for (_, placement), image_boxes, image_scores in zip(placed, boxes, scores, strict=True):
            kept = image_scores > least_score
            found.append((placement.to_image(image_boxes[kept]), image_scores[kept]))
    return found


def load_base_weights(network: nn.Module, path: Path, calibration: Tensor) -> None:
    """Take over base weights of the same size of YOLOX, with or without fused batch-norms.

    Fused weights have lost their batch-norms. They are put back without changing what the network
    computes: the mean and deviation that each convolution's output has on the calibration tiles become
    both the running statistics and the affine part, which then cancel out.

    Args:
        network: as built, any number of classes; its class convolutions stay new.
        path: state dict of another class count.
        calibration: uint8 [B, S, S, 3] RGB tiles.

    Raises:
        TrainingError: the file holds no weights, or those of another size of network.
    """
    base = {name: tensor for name, tensor in read_base_weights(path).items() if ".cls_preds." not in name}
    own = network.state_dict()
    fused = {name for name in base if name.endswith(".conv.bias")}
    if not base or any(
        name not in own or own[name].shape != base[name].shape for name in base.keys() - fused
    ):
        raise TrainingError(
            f"{path} is of another network than the one to train; give the weights of its own size."
        )
    network.load_state_dict(
        {name: t for name, t in base.items() if not name.endswith(".conv.bias")}, strict=False
    )
    if not any(name.endswith(".conv.bias") for name in base):
        return
    hooks = [
        module.conv.register_forward_hook(_restore_batch_norm(module.bn, base[f"{name}.conv.bias"]))
        for name, module in network.named_modules()
        if f"{name}.conv.bias" in base
    ]
    network.eval()
    with torch.inference_mode():
        network.head(network.backbone(network_input(calibration)))
    for hook in hooks:
        hook.remove()


def _restore_batch_norm(norm: nn.BatchNorm2d, bias: Tensor):  # type: ignore[no-untyped-def]
    """A hook on a convolution that runs before its batch-norm does, and gives that one its state."""

    def hook(_conv: nn.Module, _inputs: object, output: Tensor) -> None:
        mean, variance = output.mean((0, 2, 3)), output.var((0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.data.copy_((variance + norm.eps).sqrt())
        norm.bias.data.copy_(mean + bias)

    return hook
