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
    linear = {name for node in graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    if nameless := [name for name in stored if name in linear and _NETWORK not in name]:
        raise BuildError(
            f"{path} holds {len(nameless)} linear layers of its network without their names, so a training "
            "cannot begin from it; give the best.pt that it was built from."
        )
    if not weights:
        raise BuildError(f"{path} holds no weights of a network by name; give a bundle's .onnx file.")
    tensors = {own: _tensor(stored[name]) for own, name in weights.items()}
    return dict(_as_focus(name, tensor) for name, tensor in tensors.items())


def _own_name(name: str) -> str:
    return name[name.index(_NETWORK) + len(_NETWORK) :] if _NETWORK in name else name


def _tensor(stored: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(stored).copy()).float()


def _as_focus(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The first layer of a YOLOX as it was trained; some graphs have its convolution where Focus has it."""
    module, _, kind = name.rpartition(".")
    focus = STRIDED_STEM + "conv.conv"
    if module not in (focus, STRIDED_STEM + "conv"):
        return name, tensor
    return f"{focus}.{kind}", focus_weight(tensor) if tensor.shape[1:] == (3, 6, 6) else tensor
