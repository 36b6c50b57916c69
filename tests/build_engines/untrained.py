"""Untrained networks that find things, and how they are asked: shared by the tests of graphs."""

from typing import Any

import torch
from torch import Tensor, nn


def spread_outputs(network: Any, tiles: Tensor) -> None:
    """Give an untrained ultralytics network boxes and scores that differ from place to place."""
    planes = tiles.permute(0, 3, 1, 2).float() / 255
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()  # takes the tiles' own statistics, so that signals survive every layer
            module.momentum = 1.0
    with torch.no_grad():
        network(planes)
    head = network.model[-1]
    branches = [head.one2many, *([head.one2one] if hasattr(head, "one2one_cv2") else [])]
    hooks = []
    for branch in branches:
        for kind, mean in (("box_head", 2.0), ("cls_head", -2.0)):
            for level in branch[kind]:

                def rescale(layer: nn.Conv2d, inputs: Any, output: Tensor, mean: float = mean) -> None:
                    average = output.mean((0, 2, 3))
                    scale = 1 / output.std((0, 2, 3)).clamp(min=1e-9)
                    layer.weight.data *= scale.view(-1, 1, 1, 1)
                    layer.bias.data = (layer.bias.data - average) * scale + mean

                hooks.append(level[-1].register_forward_hook(rescale))
    with torch.no_grad():
        network.eval()(planes)
    for hook in hooks:
        hook.remove()


def run(graph: nn.Module, pixels: Tensor) -> Any:
    """What the graph says of `pixels`, without gradients."""
    with torch.inference_mode():
        return graph(pixels)
