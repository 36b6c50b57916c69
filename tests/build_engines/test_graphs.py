"""Suppression is exact, answers keep the contract, and what does not fit is refused."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from build_engines.graphs import (
    DetectorGraph,
    NonMaximumSuppression,
    classifier_graph,
    detector_graph,
)
from tests.build_engines.untrained import run, spread_outputs


def greedy_suppression(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """The plain algorithm on float32 [K,4] boxes in falling order of score → bool [K]."""
    kept = np.ones(len(boxes), bool)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for row in range(len(boxes)):
        if kept[row]:
            box, others = boxes[row], boxes[row + 1 :]
            overlap_wh = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
            overlap = overlap_wh.clip(0).prod(1)
            kept[row + 1 :] &= ~(overlap / (areas[row] + areas[row + 1 :] - overlap) > iou_threshold)
    return kept


class TestSuppression:
    @pytest.mark.parametrize(
        ("field", "iou_threshold"),
        [(60.0, 0.65), (120.0, 0.65), (120.0, 0.45), (300.0, 0.3), (1000.0, 0.65)],  # from a heap to sparse
    )
    def test_equals_greedy_suppression_on_random_boxes(self, field: float, iou_threshold: float) -> None:
        random = torch.Generator().manual_seed(int(field))
        corners = torch.rand(500, 100, 2, generator=random) * field
        boxes = torch.cat((corners, corners + 40 + 20 * torch.rand(500, 100, 2, generator=random)), -1)
        kept = NonMaximumSuppression(iou_threshold, box_count=100, rounds=24)(boxes)
        scores = torch.linspace(1, 0, 100)
        assert not kept.all()
        for row in range(500):
            expected = torch.zeros(100, dtype=torch.bool)
            expected[torchvision.ops.nms(boxes[row], scores, iou_threshold)] = True
            assert torch.equal(kept[row], expected)
            if row % 10 == 0:
                plain = greedy_suppression(boxes[row].numpy(), iou_threshold)
                assert np.array_equal(kept[row].numpy(), plain)

    @pytest.mark.parametrize("chain", [2, 7, 25])
    def test_is_exact_for_chains_one_longer_than_its_rounds(self, chain: int) -> None:
        left = torch.arange(float(chain)) * 8
        boxes = torch.stack((left, 0 * left, left + 40, 0 * left + 40), -1)[None]  # neighbours: IoU 0.67
        kept = NonMaximumSuppression(0.6, box_count=chain, rounds=chain - 1)(boxes)[0]
        assert kept.tolist() == [place % 2 == 0 for place in range(chain)]
        too_few = NonMaximumSuppression(0.6, box_count=chain, rounds=chain - 2)(boxes)[0]
        assert too_few.tolist() != kept.tolist()

    def test_keeps_the_first_of_equal_boxes(self) -> None:
        boxes = torch.tensor([[[0.0, 0, 10, 10]] * 5])
        kept = NonMaximumSuppression(0.65, box_count=5, rounds=1)(boxes)[0]
        assert kept.tolist() == [True, False, False, False, False]

    def test_keeps_boxes_without_area_or_overlap(self) -> None:
        boxes = torch.tensor([[[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [20, 20, 30, 30]]])
        assert NonMaximumSuppression(0.1, box_count=4, rounds=3)(boxes).all()


@pytest.fixture(scope="module")
def small_graph(ultralytics: ModuleType) -> DetectorGraph:
    torch.manual_seed(3)
    network = ultralytics.YOLO("yolov8n.yaml").model
    spread_outputs(network, torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8))
    return detector_graph(network, family="ultralytics", tile_size=128, max_detections=50, iou_threshold=0.3)


def test_detector_outputs_keep_the_contract(small_graph: DetectorGraph) -> None:
    tiles = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8)
    boxes, scores, labels, probabilities = run(small_graph, tiles)
    assert (boxes.shape, boxes.dtype) == ((3, 50, 4), torch.float32)
    assert (scores.shape, scores.dtype) == ((3, 50), torch.float32)
    assert (labels.shape, labels.dtype) == ((3, 50), torch.int32)
    assert (probabilities.shape, probabilities.dtype) == ((3, 50, 80), torch.float32)
    assert (scores.diff(dim=1) <= 0).all()
    assert torch.allclose(probabilities.sum(-1), torch.ones(3, 50))
    used = scores > 0
    assert used.any()
    assert not used.all()
    assert torch.equal(probabilities.argmax(-1)[used], labels[used].long())
    assert not boxes[~used].any()
    assert torch.allclose(probabilities[~used], torch.tensor(1 / 80))
    assert not labels[~used].any()


def test_one_class_detectors_have_no_probabilities() -> None:
    from yolox.models import YoloPafpn, YoloxHead, YoloxModule

    network = YoloxModule(YoloPafpn(0.33, 0.125), YoloxHead(1, 0.125))
    graph = detector_graph(network, family="yolox", tile_size=64, max_detections=10)
    outputs = run(graph, torch.zeros((1, 64, 64, 3), dtype=torch.uint8))
    assert graph.output_names == ("boxes", "scores", "labels")
    assert len(outputs) == 3


def test_half_bodies_answer_nearly_the_same(ultralytics: ModuleType) -> None:
    torch.manual_seed(3)
    tiles = torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8)
    network = ultralytics.YOLO("yolo11n.yaml").model
    spread_outputs(network, tiles)
    options: dict[str, Any] = {"family": "ultralytics", "tile_size": 128, "iou_threshold": 1.0}
    whole, half = (detector_graph(network, **options, half=half) for half in (False, True))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    scores, half_scores = run(whole, tiles)[1], run(half, tiles)[1]
    assert half_scores.dtype == torch.float32
    assert not torch.equal(scores, half_scores)
    assert torch.allclose(scores, half_scores, atol=0.02)


@pytest.mark.parametrize("half", [False, True])
def test_classifier_graph_agrees_with_timm(half: bool) -> None:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=23).eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    crops = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    planes = crops.permute(0, 3, 1, 2) / 255
    normalised = torchvision.transforms.functional.normalize(planes, list(mean), list(std))
    expected = run(network, normalised).softmax(1)
    probabilities = run(classifier_graph(network, mean=mean, std=std, half=half), crops)
    assert probabilities.dtype == torch.float32
    assert torch.allclose(probabilities, expected, atol=0.02 if half else 1e-6)
    assert torch.allclose(probabilities.sum(1), torch.ones(3), atol=1e-6)
    assert next(network.parameters()).dtype == torch.float32


def test_a_network_of_several_labels_gives_their_scores_over_their_sum() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
    crops = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    graph = classifier_graph(network, mean=(0, 0, 0), std=(1, 1, 1), activation="sigmoid")
    scores = run(network, crops.permute(0, 3, 1, 2) / 255).sigmoid()
    assert torch.allclose(run(graph, crops), scores / scores.sum(1, keepdim=True))


class TestRefusals:
    def network(self) -> nn.Module:
        from yolox.models import YoloPafpn, YoloxHead, YoloxModule

        return YoloxModule(YoloPafpn(0.33, 0.125), YoloxHead(1, 0.125))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tile_size": 100}, "100 pixels does not divide .* 32 pixels; choose"),
            ({"tile_size": 32}, "max_detections=100 is more than the 21 places .* 32 pixels; take a larger"),
            ({"tile_size": 320, "iou_threshold": 65}, "iou_threshold=65 lies outside 0 to 1; choose"),
            ({"tile_size": 320, "one_to_one": True}, "one_to_one=True was given for YOLOX.*; leave it out"),
        ],
    )
    def test_arguments_that_do_not_fit(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            detector_graph(self.network(), family="yolox", **options)

    def test_a_branch_that_the_head_lacks(self, ultralytics: ModuleType) -> None:
        with pytest.raises(ValueError, match=r"one_to_one=True asks .* Detect head does not have; pass"):
            detector_graph(
                ultralytics.YOLO("yolov8n.yaml").model, family="ultralytics", tile_size=320, one_to_one=True
            )

    def test_networks_that_do_not_detect(self, ultralytics: ModuleType) -> None:
        rotated = ultralytics.YOLO("yolo11n-obb.yaml").model
        with pytest.raises(ValueError, match="ends in OBB, not in a Detect head; train"):
            detector_graph(rotated, family="ultralytics", tile_size=320)

    def test_weights_beyond_float16(self) -> None:
        network = nn.Conv2d(3, 2, 1)
        nn.init.constant_(network.weight, 1e5)
        with pytest.raises(ValueError, match=r"weight has values beyond 65504.*; build this model"):
            classifier_graph(network, mean=(0, 0, 0), std=(1, 1, 1), half=True)

    @pytest.mark.parametrize("shape", [(1, 64, 64, 3), (1, 3, 128, 128), (128, 128, 3)])
    def test_tiles_of_another_shape(self, shape: tuple[int, ...], small_graph: DetectorGraph) -> None:
        with pytest.raises(ValueError, match=r"uint8 \[any,128,128,3\], not torch.uint8 .*; letterbox"):
            small_graph(torch.zeros(shape, dtype=torch.uint8))

    def test_tiles_that_are_already_floats(self, small_graph: DetectorGraph) -> None:
        with pytest.raises(ValueError, match=r"must be uint8 .* not torch\.float32"):
            small_graph(torch.zeros(1, 128, 128, 3))
