"""Weights in 16 bits, without changing what a network computes."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from torch import nn

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


@pytest.mark.parametrize("make", [classifier, yolox])
def test_folding_and_rounding_keep_the_function(make: "type[nn.Module]") -> None:
    network, example = make(), torch.rand(2, 3, 96, 96)
    compact = with_half_weights(network, example)
    with torch.inference_mode():
        before, after = network(example), compact(example)
    assert (before - after).abs().max() < 0.01 * before.abs().max()
    assert not torch.equal(before, after)  # the weights were rounded
    for name, weights in compact.state_dict().items():
        assert torch.equal(weights, weights.to(torch.float16).to(weights.dtype)), name


def test_every_batch_norm_behind_a_convolution_is_folded() -> None:
    compact = with_half_weights(yolox(), torch.rand(1, 3, 96, 96))
    norms = [module for module in compact.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all((norm.weight == 1).all() and (norm.running_mean == 0).all() for norm in norms)


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
