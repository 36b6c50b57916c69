"""YOLOX: base weights, loss and prediction for the common training loop."""

import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from build_engines.checkpoint import TileGeometry
from build_engines.graphs import detector_graph
from build_engines.white_balance import WhiteBalance
from edge.geometry import letterbox
from training.base_weights import BaseWeights, take_over
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


def loss(network: Any, tiles: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """A YoloxModule's own loss of a batch: assignment by SimOTA, box, objectness and class terms."""
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
    graph = detector_graph(
        network, family="yolox", tile_size=geometry.tile_size, background=geometry.background
    ).to(device)
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


def background_of(rgb: Iterable[Image], geometry: TileGeometry) -> tuple[float, float, float]:
    """The background that most images have, RGB 0 to 255: the median of what a graph finds in their tiles."""
    tiles = (letterbox(image, geometry.tile_size, geometry.anchor)[0] for image in rgb)
    estimates = [WhiteBalance.estimate(torch.from_numpy(tile[None]).float()) for tile in tiles]
    red, green, blue = torch.cat(estimates).median(0).values.tolist()
    return red, green, blue


def load_base_weights(network: Any, base: BaseWeights, calibration: Tensor) -> None:
    """Take over base weights of the same size of YOLOX, with or without folded batch-norms.

    Args:
        network: a YoloxModule as built, any number of classes; its class convolutions stay new where the
            base weights name another number.
        base: what they are.
        calibration: uint8 [B, S, S, 3] RGB tiles to put batch-norms back on.

    Raises:
        TrainingError: the weights are of another size of network.
    """
    new = take_over(network, base.tensors, lambda: network.head(network.backbone(network_input(calibration))))
    if any(".cls_preds." not in name for name in new):
        raise TrainingError(
            f"{base.path} is of another network than the one to train; give the weights of its own size."
        )
