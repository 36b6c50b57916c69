"""Weights in 16 bits, without changing what a network computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from build_engines.checkpoint import yolox_network
from build_engines.compact import store_half, with_half_weights
from build_engines.graphs import classifier_graph
from build_engines.onnx_export import export


def trained(network: nn.Module) -> nn.Module:
    """With batch-norms that do something, as after training."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return network.eval()


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return trained(timm.create_model("test_efficientnet", num_classes=5))


def yolox() -> nn.Module:
    torch.manual_seed(0)
    return trained(yolox_network(0.33, 0.25, True, 1))


def coatnet() -> nn.Module:
    """Its `stem.conv2` feeds a batch-norm and the shortcut around it."""
    return small_maxxvit("coatnet_pico_rw_224", stem_width=(8, 16), embed_dim=(16, 32, 32, 32))


def maxvit() -> nn.Module:
    return small_maxxvit("maxvit_rmlp_pico_rw_256", stem_width=(16, 32), embed_dim=(32, 32, 32, 32))


def small_maxxvit(name: str, **widths: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    return trained(timm.create_model(name, num_classes=5, img_size=96, depths=(1, 1, 1, 1), **widths))


class Block(nn.Module):
    """Two convolutions and two batch-norms, joined as `join` says."""

    def __init__(self, join: "Callable[[Block, Tensor], Tensor | tuple[Tensor, ...]]") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        self.join = join

    def forward(self, planes: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.join(self, planes)


def with_shortcut(block: Block, planes: Tensor) -> Tensor:
    made = block.convs[0](planes)
    return made + block.norms[0](made)


def with_a_view_as_shortcut(block: Block, planes: Tensor) -> Tensor:
    made = block.convs[0](planes)
    return torch.cat([made.flatten(1), block.norms[0](made).flatten(1)], 1)


def changed_in_place(block: Block, planes: Tensor) -> Tensor:
    return block.norms[0](block.convs[0](planes).relu_())


def convolution_used_twice(block: Block, planes: Tensor) -> Tensor:
    return block.norms[0](block.convs[0](planes)) + block.norms[1](block.convs[0](planes.flip(2)))


def norm_used_twice(block: Block, planes: Tensor) -> Tensor:
    return block.norms[0](block.convs[0](planes)) + block.norms[0](block.convs[1](planes))


def two_norms_of_one(block: Block, planes: Tensor) -> Tensor:
    made = block.convs[0](planes)
    return block.norms[0](made) * block.norms[1](made)


def returned_too(block: Block, planes: Tensor) -> tuple[Tensor, ...]:
    made = block.convs[0](planes)
    return made, block.norms[0](made)


def strays(network: nn.Module, other: nn.Module, example: Tensor) -> float:
    """The largest difference of their answers as a part of the largest answer."""
    with torch.inference_mode():
        before, after = network(example), other(example)
    pairs = zip(before, after, strict=True) if isinstance(before, tuple) else [(before, after)]
    return max(((one - two).abs().max() / one.abs().max()).item() for one, two in pairs)


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def is_folded(norm: nn.BatchNorm2d) -> bool:
    return bool((norm.weight == 1).all() and (norm.running_mean == 0).all())


@pytest.mark.parametrize("make", [classifier, yolox, coatnet, maxvit])
def test_folding_and_rounding_keep_the_function(make: "type[nn.Module]") -> None:
    network, example = make(), torch.rand(2, 3, 96, 96)
    compact = with_half_weights(network, example)
    assert 0 < strays(network, compact, example) < 0.01  # the weights were rounded
    for name, weights in compact.state_dict().items():
        assert torch.equal(weights, weights.to(torch.float16).to(weights.dtype)), name


@pytest.mark.parametrize("make", [classifier, yolox])
def test_every_batch_norm_behind_a_convolution_is_folded(
    make: "type[nn.Module]", caplog: pytest.LogCaptureFixture
) -> None:
    norms = norms_of(with_half_weights(make(), torch.rand(1, 3, 96, 96)))
    assert norms
    assert all(map(is_folded, norms))
    assert not caplog.records


def test_only_the_batch_norm_beside_a_shortcut_is_kept() -> None:
    block = with_half_weights(coatnet(), torch.zeros(1, 3, 96, 96)).stages[0].blocks[0]
    assert [is_folded(norm) for norm in (block.pre_norm, block.norm1, block.norm2)] == [False, True, True]


@pytest.mark.parametrize(
    "join",
    [
        with_shortcut,
        with_a_view_as_shortcut,
        changed_in_place,
        convolution_used_twice,
        norm_used_twice,
        two_norms_of_one,
    ],
)
def test_a_batch_norm_is_kept_where_folding_would_change_what_others_get(
    join: "Callable[[Block, Tensor], Tensor]", caplog: pytest.LogCaptureFixture
) -> None:
    network, example = trained(Block(join)), torch.rand(2, 3, 16, 16)
    compact = with_half_weights(network, torch.zeros(1, 3, 16, 16))
    assert strays(network, compact, example) < 0.01
    assert not any(map(is_folded, norms_of(compact)))
    assert not caplog.records


def test_a_network_that_strays_all_the_same_keeps_its_batch_norms(caplog: pytest.LogCaptureFixture) -> None:
    network, example = trained(Block(returned_too)), torch.rand(2, 3, 16, 16)
    compact = with_half_weights(network, torch.zeros(1, 3, 16, 16))
    assert strays(network, compact, example) < 0.01
    assert caplog.messages == ["folding the batch-norms of Block would change its answers, so it keeps them"]


def test_the_given_network_is_left_as_it_is() -> None:
    network = classifier()
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    with_half_weights(network, torch.rand(1, 3, 96, 96))
    assert all(torch.equal(before[name], weights) for name, weights in network.state_dict().items())


def test_a_file_with_half_weights_is_smaller_and_answers_the_same(tmp_path: Path) -> None:
    network = with_half_weights(classifier(), torch.rand(1, 3, 96, 96))
    graph = classifier_graph(network, mean=None, std=None)
    path = tmp_path / "graph.onnx"
    export(graph, (1, 96, 96, 3), path, input_name="crops", output_names=["probabilities"])
    crops = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3), np.uint8)
    size_bytes = path.stat().st_size
    (before,) = ort.InferenceSession(path).run(None, {"crops": crops})
    saved_bytes = store_half(path)
    (after,) = ort.InferenceSession(path).run(None, {"crops": crops})
    assert saved_bytes == size_bytes - path.stat().st_size > 0.3 * size_bytes
    np.testing.assert_array_equal(before, after)


def test_only_weights_that_are_exact_in_16_bits_are_stored_in_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    exact = generator.normal(size=64).astype(np.float16).astype(np.float32)
    inexact = exact.copy()
    inexact[7] += 2**-20
    tensors = {"exact": exact, "inexact": inexact, "places": np.arange(64)[::-1].copy()}
    nodes = [
        helper.make_node("Gather", ["exact", "places"], ["turned"]),
        helper.make_node("Add", ["x", "turned"], ["sum"]),
        helper.make_node("Add", ["sum", "inexact"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in "xy")
    weights = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "sums", [x], [y], weights), opset_imports=opset)
    model.ir_version = 8
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    store_half(path)
    stored = {one.name: one.data_type for one in onnx.load(path).graph.initializer}
    assert stored == {
        "exact_half": TensorProto.FLOAT16,
        "inexact": TensorProto.FLOAT,
        "places": TensorProto.INT64,
    }
    (answer,) = ort.InferenceSession(path).run(None, {"x": np.zeros(64, np.float32)})
    np.testing.assert_array_equal(answer, exact[::-1] + inexact)
