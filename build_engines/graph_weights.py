"""The weights of a bundle's graph, under the names that the network had in torch before it was exported.

So a training can begin from a bundle. What export changed for good stays changed: weights are rounded to
16 bits and batch-norms are folded into the convolutions before them, which therefore have a bias.
"""

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from build_engines.compact import HALF
from build_engines.errors import BuildError
from build_engines.families import STRIDED_STEM, focus_weight

_NETWORK = "network."
"""Attribute of every graph that holds the network itself."""


def weights_of_graph(path: Path) -> dict[str, Tensor]:
    """A state dict, float32.

    Raises:
        BuildError: the file is no graph, or none that holds a network's weights by their names.
    """
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # whatever the parser meets
        raise BuildError(
            f"{path} cannot be read as a graph ({type(error).__name__}); give a bundle's .onnx file."
        ) from error
    stored = {one.name.removesuffix(HALF): one for one in graph.initializer}
    weights = {_own_name(name): name for name in stored if _NETWORK in name}
    for node in graph.node:  # of equal tensors one alone is stored, so a bias may bear another's name
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in stored:
            weights[_own_name(node.input[1]).removesuffix("weight") + "bias"] = node.input[2]
    if not weights:
        raise BuildError(f"{path} holds no weights of a network by name; give a bundle's .onnx file.")
    tensors = {own: _tensor(stored[name]) for own, name in weights.items()}
    return dict(_as_focus(name, tensor) for name, tensor in tensors.items())


def _own_name(name: str) -> str:
    return name[name.index(_NETWORK) + len(_NETWORK) :] if _NETWORK in name else name


def _tensor(stored: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(stored).copy()).float()


def _as_focus(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The first layer of a YOLOX as it was trained."""
    if not name.startswith(STRIDED_STEM + "conv."):
        return name, tensor
    inside = name.replace(STRIDED_STEM + "conv.", STRIDED_STEM + "conv.conv.")
    return inside, focus_weight(tensor) if tensor.ndim == 4 else tensor
