"""Half the bytes: weights that both precisions share, and files that store them in 16 bits.

A bundle holds each network twice, with an FP32 and an FP16 body. Both get the same weights, rounded to
FP16 after the batch-norms are folded in, so that the two differ in arithmetic only and the FP32 file can
store its weights in 16 bits without another loss.
"""

import copy
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

HALF = "_half"
"""Ends the name of a tensor that is stored in 16 bits; without it, it is that of the widened one."""

_LEAST_VALUES = 64
"""Smaller tensors are left as they are: they weigh nothing, and are often shapes or constants."""


def with_half_weights(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy in float32 whose weights are exact in float16, batch-norms folded in first.

    Args:
        network: in evaluation mode.
        example: an input of it, to find which convolution feeds which batch-norm.
    """
    network = copy.deepcopy(network).eval()
    _fold_batch_norms(network, example)
    return network.half().float()


def _fold_batch_norms(network: nn.Module, example: Tensor) -> None:
    """Fold each batch-norm into the convolution whose output it takes; whatever else it does, stays.

    Works on any module graph, since it looks at which tensors flow and not at names. timm's
    BatchNormAct2d keeps its activation.
    """
    made_by: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # alive, so that no id is given twice
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_conv(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        kept.append(output)
        made_by[id(output)] = module

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], module))

    hooks = [m.register_forward_hook(after_conv) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [
        m.register_forward_pre_hook(before_norm) for m in network.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        network(example)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        _make_identity(norm)


def _make_identity(norm: nn.BatchNorm2d) -> None:
    """A batch-norm that changes nothing: the exporter removes it, or folds ones and zeros."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.eps = 0.0
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
    if norm.affine:
        norm.weight.data.fill_(1)
        norm.bias.data.zero_()


def store_half(path: Path) -> int:
    """Store the float32 weights of an ONNX file that are exact in float16 as float16 with a cast behind.

    What the graph computes stays the same to the bit: an engine folds the casts when it loads the file.

    Returns:
        How many bytes the file became smaller.
    """
    before = path.stat().st_size
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _LEAST_VALUES:
            continue
        half = values.astype("float16")
        if not (half.astype("float32") == values).all():
            continue
        name, stored = tensor.name, f"{tensor.name}{HALF}"
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}_widened", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return before - path.stat().st_size
