"""YOLOX in training: base weights compute what they did, targets are its own, boxes are in image pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from build_engines.checkpoint import TileGeometry, build_network
from build_engines.graphs import detector_graph
from edge.geometry import letterbox
from tests.build_engines.untrained import spread_yolox_outputs
from tests.real_files import weights_path
from training import yolox
from training.base_weights import BaseWeights, read_base_weights
from training.loop import TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 96


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        yield


def tiles(seed: int, count: int = 4) -> Tensor:
    """uint8 [n, 96, 96, 3] RGB, coarse coloured patches with noise."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 200, (count, 6, 6, 3)).repeat(SIZE // 6, 1).repeat(SIZE // 6, 2)
    return torch.from_numpy((patches + random.integers(0, 56, patches.shape)).astype(np.uint8))


def settled(class_count: int) -> Any:
    """An untrained YOLOX-Nano whose batch-norms know what they see and are not neutral."""
    network = build_network("yolox", yolox.NANO, class_count)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.train()
    with torch.no_grad():
        network.backbone(yolox.network_input(tiles(0, 8)))
        for feature, stem, classes, boxes in zip(
            network.backbone(yolox.network_input(tiles(1, 8))), network.head.stems, network.head.cls_convs,
            network.head.reg_convs, strict=True,
        ):  # fmt: skip
            classes(stem(feature))
            boxes(stem(feature))
    return network.eval()


def fused(network: Any) -> Any:
    from yolox.utils import fuse_model

    with torch.no_grad():
        return fuse_model(network)


@torch.inference_mode()
def computed(network: Any, of: Tensor) -> Tensor:
    """Box and objectness of every place before they are decoded, float32 [B, A, 5]; the classes are new."""
    network.eval()
    network.head.decode_in_inference = False
    output: Tensor = network.head(network.backbone(yolox.network_input(of)))
    return output[..., :5]


def base_of(network: nn.Module, folder: Path) -> BaseWeights:
    path = folder / "base.pth"
    torch.save(network.state_dict(), path)
    return read_base_weights(path)


class TestBaseWeights:
    def test_fused_ones_compute_what_they_did(self, tmp_path: Path) -> None:
        base = fused(settled(80))
        network = build_network("yolox", yolox.NANO, 1)
        yolox.load_base_weights(network, base_of(base, tmp_path), tiles(2))
        for seed in (2, 3):  # tiles that the batch-norms were restored on, and others
            before, after = computed(base, tiles(seed)), computed(network, tiles(seed))
            assert before[..., :4].std() > 0.3
            assert torch.allclose(after, before, atol=0.01)

    def test_fused_ones_leave_batch_norms_that_can_be_trained_on(self, tmp_path: Path) -> None:
        network = build_network("yolox", yolox.NANO, 1)
        yolox.load_base_weights(network, base_of(fused(settled(80)), tmp_path), tiles(2, 16))
        judging = computed(network, tiles(2, 16))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()  # statistics of the batch, which are those that were restored
        with torch.no_grad():
            training = network.head(network.backbone(yolox.network_input(tiles(2, 16))))[..., :5]
        assert (training - judging).abs().mean() < 0.1 * judging[..., :4].std()

    def test_unfused_ones_are_taken_over_as_they_are(self, tmp_path: Path) -> None:
        base = settled(80)
        network = build_network("yolox", yolox.NANO, 1)
        yolox.load_base_weights(network, base_of(base, tmp_path), tiles(2))
        assert torch.equal(computed(network, tiles(3)), computed(base, tiles(3)))

    @pytest.mark.parametrize("count", [1, 80])
    def test_class_convolutions_stay_new_where_the_count_is_another(self, count: int, tmp_path: Path) -> None:
        network, base = build_network("yolox", yolox.NANO, 1), fused(settled(count))
        expected = [one.weight.clone() for one in (network if count != 1 else base).head.cls_preds]
        yolox.load_base_weights(network, base_of(base, tmp_path), tiles(2))
        after = [layer.weight for layer in network.head.cls_preds]
        assert all(torch.equal(one, other) for one, other in zip(expected, after, strict=True))

    def test_of_another_network_are_refused(self, tmp_path: Path) -> None:
        plain = build_network("yolox", {**yolox.NANO, "depthwise": False}, 1)
        with pytest.raises(TrainingError, match=r"base\.pth is of another network .* its own size"):
            yolox.load_base_weights(build_network("yolox", yolox.NANO, 1), base_of(plain, tmp_path), tiles(2))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"no weights", r"base\.pth cannot be read as weights \(\w+\); give"),
            ([1, 2], r"base\.pth holds more or other things than weights; give"),
            (
                {"format": "cytologia-edge checkpoint 1"},
                r"base\.pth holds more or other things than weights; give",
            ),
            ({}, r"base\.pth is of another network"),
        ],
    )
    def test_of_a_file_that_holds_none_are_refused(
        self, content: object, message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "base.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(TrainingError, match=message):
            yolox.load_base_weights(build_network("yolox", yolox.NANO, 1), read_base_weights(path), tiles(2))

    def test_coco_weights_as_they_come_compute_what_they_did(self) -> None:
        from yolox.models import YoloPafpn, YoloxHead, YoloxModule

        path = weights_path("yolox_nano_fused_torch.pth")
        channels = [256, 512, 1024]
        base = YoloxModule(
            YoloPafpn(0.33, 0.25, depthwise=True, in_channels=channels),
            YoloxHead(80, 0.25, depthwise=True, in_channels=channels),
        ).eval()
        fused(base).load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        network = build_network("yolox", yolox.NANO, 1)
        yolox.load_base_weights(network, read_base_weights(path), tiles(2, 8))
        assert computed(network, tiles(3)) == pytest.approx(computed(base, tiles(3)), rel=1e-2, abs=1e-2)


def test_network_input_is_bgr_of_full_scale() -> None:
    rgb = torch.tensor([[[[10, 20, 30], [255, 0, 1]]]], dtype=torch.uint8)
    planes = yolox.network_input(rgb)
    assert planes.dtype == torch.float32
    assert planes.tolist() == [[[[30.0, 1.0]], [[20.0, 0.0]], [[10.0, 255.0]]]]


def test_targets_are_class_centre_and_size_with_empty_rows_left_empty() -> None:
    boxes = torch.tensor([[[10.0, 20, 30, 60], [0, 0, 0, 0]], [[1, 2, 4, 4], [5, 5, 6, 8]]])
    assert yolox.targets(boxes).tolist() == [
        [[0, 20, 40, 20, 40], [0, 0, 0, 0, 0]],
        [[0, 2.5, 3, 3, 2], [0, 5.5, 6.5, 1, 3]],
    ]


class TestLoss:
    def test_is_a_number_that_pulls_at_every_part(self) -> None:
        network = build_network("yolox", yolox.NANO, 1).train()
        boxes = torch.zeros(2, 60, 4)
        boxes[:, 0] = torch.tensor([20.0, 20, 70, 70])
        yolox.loss(network, tiles(0, 2), boxes).backward()
        idle = {name for name, weight in network.named_parameters() if not weight.grad.any()}  # type: ignore[union-attr]
        of_levels_without_a_cell = ("head.cls_convs.", "head.cls_preds.", "head.reg_preds.")
        assert all(name.startswith(of_levels_without_a_cell) for name in idle)
        assert {f"head.cls_preds.{level}.weight" for level in range(3)} - idle

    def test_tiles_without_cells_have_one_too(self) -> None:
        network = build_network("yolox", yolox.NANO, 1).train()
        assert torch.isfinite(yolox.loss(network, tiles(0, 2), torch.zeros(2, 60, 4)))


def test_predictions_are_those_of_the_graph_in_image_pixels() -> None:
    """What a training is judged by is what a bundle gets; more images than one batch keep their order."""
    network = build_network("yolox", yolox.NANO, 0)
    spread_yolox_outputs(network, tiles(0))
    geometry = TileGeometry(SIZE, "top_left", background=(240.0, 215.0, 191.0))
    graph = detector_graph(network, family="yolox", tile_size=SIZE, background=geometry.background)
    sizes_wh = [(96, 96), (192, 96), (48, 60)] * 6
    images = [
        np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
        for seed, (width, height) in enumerate(sizes_wh)
    ]
    found = yolox.predict(network, images, geometry, least_score=0.3)
    assert len(found) == len(images)
    assert sum(len(scores) for _, scores in found) > 0
    for image, size_wh, (boxes, scores) in zip(images, sizes_wh, found, strict=True):
        tile, placement = letterbox(image, SIZE, "top_left")
        with torch.inference_mode():
            expected, expected_scores, _ = (one[0].numpy() for one in graph(torch.from_numpy(tile[None])))
        kept = expected_scores > 0.3
        np.testing.assert_allclose(boxes, placement.to_image(expected[kept]), atol=0.01)
        np.testing.assert_allclose(scores, expected_scores[kept], atol=1e-4)
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= np.array(size_wh) + 1e-3).all()


def test_an_image_without_findings_gives_empty_arrays() -> None:
    network = build_network("yolox", yolox.NANO, 0)
    spread_yolox_outputs(network, tiles(0))
    [(boxes, scores)] = yolox.predict(
        network, [np.zeros((50, 60, 3), np.uint8)], TileGeometry(SIZE, "top_left"), least_score=1.0
    )
    assert (boxes.shape, scores.shape) == ((0, 4), (0,))
