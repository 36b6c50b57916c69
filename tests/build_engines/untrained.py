"""Untrained networks that find things, and how they are asked: shared by the tests of graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ULTRALYTICS_LAYERS = {
    "backbone": [
        [-1, 1, "Conv", [8, 3, 4]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
    ],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}
"""Three convolutions and a head of two levels: exported in a second."""


def spread_outputs(network: Any, tiles: Tensor) -> None:
    """Give an untrained ultralytics network boxes and scores that differ from place to place."""
    head = network.model[-1]
    branches = [head.one2many, *([head.one2one] if hasattr(head, "one2one_cv2") else [])]
    wanted = {
        level[-1]: (mean, 1.0)
        for branch in branches
        for kind, mean in (("box_head", 2.0), ("cls_head", -2.0))
        for level in branch[kind]
    }
    planes = tiles.permute(0, 3, 1, 2).float() / 255
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()  # takes the tiles' own statistics, so that signals survive every layer
            module.momentum = 1.0
    with torch.no_grad():
        network(planes)
    _rescale(network, lambda: network(planes), wanted)


def spread_yolox_outputs(network: Any, tiles: Tensor) -> None:
    """The same for an untrained YOLOX, which is not chaotic either: what rounding does to it stays small."""
    head = network.head
    wanted = {
        **dict.fromkeys(head.reg_preds, (0.5, 0.1)),  # sides are exponentials of it
        **dict.fromkeys(head.obj_preds, (-1.0, 1.0)),
        **dict.fromkeys(head.cls_preds, (1.0, 1.0)),
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    planes = tiles.permute(0, 3, 1, 2).float()
    _rescale(network, lambda: network(planes), wanted)


def _rescale(
    network: nn.Module, forward: Callable[[], object], wanted: dict[nn.Conv2d, tuple[float, float]]
) -> None:
    """Give the outputs of the last layers the wanted mean and deviation."""

    def rescale(layer: nn.Conv2d, _inputs: object, output: Tensor) -> None:
        mean, deviation = wanted[layer]
        scale = deviation / output.std((0, 2, 3)).clamp(min=1e-9)
        layer.weight.data *= scale.view(-1, 1, 1, 1)
        layer.bias.data = (layer.bias.data - output.mean((0, 2, 3))) * scale + mean

    network.eval()
    hooks = [layer.register_forward_hook(rescale) for layer in wanted]
    with torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()


def run(graph: nn.Module, pixels: Tensor) -> Any:
    """What the graph says of `pixels`, without gradients."""
    with torch.inference_mode():
        return graph(pixels)
