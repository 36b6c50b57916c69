"""Half the bytes: weights that both precisions share, and files that store them in 16 bits.

A bundle holds each network twice, with an FP32 and an FP16 body. Both get the same weights, rounded to
FP16 after the batch-norms are folded in, so that the two differ in arithmetic only and the FP32 file can
store its weights in 16 bits without another loss.
"""

import copy
import logging
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)

HALF = "_half"
"""Ends the name of a tensor that is stored in 16 bits; without it, it is that of the widened one."""

_LEAST_VALUES = 64
"""Smaller tensors are left as they are: they weigh nothing, and are often shapes or constants."""

_ROUNDED = 1e-6
"""Of the largest number of an output: how far folding may move it in float64; 1e-15 is usual."""


def with_half_weights(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy in float32 whose weights are exact in float16, batch-norms folded in first.

    Args:
        network: in evaluation mode.
        example: an input of it, to find which convolution feeds which batch-norm.

    Returns:
        The same function, but for rounding. If it were another with folded batch-norms, none is folded, and a
        warning is logged.
    """
    network = copy.deepcopy(network).eval()
    if _folding_keeps_the_function(network, example):
        _fold_batch_norms(network, example)
    else:
        name = type(network).__name__
        log.warning("folding the batch-norms of %s would change its answers, so it keeps them", name)
    return network.half().float()


def _folding_keeps_the_function(network: nn.Module, example: Tensor) -> bool:
    """Whether the network answers as before when its batch-norms are folded in, tried on noise in float64."""
    exact, example = copy.deepcopy(network).double(), example.double()
    noise = torch.rand(example.shape, generator=torch.Generator().manual_seed(0), dtype=example.dtype)
    before = _answers(exact, noise)
    _fold_batch_norms(exact, example)
    return all(
        torch.allclose(one, other, rtol=0, atol=_ROUNDED * one.abs().max().item())
        for one, other in zip(before, _answers(exact, noise), strict=True)
    )


def _answers(network: nn.Module, noise: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [one for one in tree_leaves(network(noise)) if isinstance(one, Tensor)]


class _Reads(TorchDispatchMode):
    """Counts the operations that take each of some tensors, by id."""

    def __init__(self, watched: Container[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watched = watched
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.count.update(id(one) for one in tree_leaves((args, kwargs)) if id(one) in self.watched)
        return func(*args, **kwargs)


def _fold_batch_norms(network: nn.Module, example: Tensor) -> None:
    """Fold each batch-norm into the convolution whose output it takes; whatever else it does, stays.

    Works on any module graph, since it looks at which tensors flow and not at names. timm's
    BatchNormAct2d keeps its activation. A batch-norm also stays where folding would change what others get:
    something else reads the convolution's output, as a shortcut does, or one of the two is used repeatedly.
    """
    made_by: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # alive, so that no id is given twice
    pairs: list[tuple[int, nn.BatchNorm2d]] = []
    uses: Counter[nn.Module] = Counter()

    def after_conv(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        kept.append(output)
        made_by[id(output)] = module
        uses[module] += 1

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        uses[module] += 1
        if id(inputs[0]) in made_by:
            pairs.append((id(inputs[0]), module))

    hooks = [m.register_forward_hook(after_conv) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [
        m.register_forward_pre_hook(before_norm) for m in network.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    with torch.inference_mode(), _Reads(made_by) as reads:
        network(example)
    for hook in hooks:
        hook.remove()
    for output, norm in pairs:
        conv = made_by[output]
        if not reads.count[output] == uses[conv] == uses[norm] == 1:
            continue
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
