"""The graphs answer as the libraries do from which their networks come."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from build_engines.families import import_ultralytics
from build_engines.graphs import DetectorGraph, NonMaximumSuppression, classifier_graph, detector_graph

REPOSITORY = Path(__file__).resolve().parents[2]
TILE_SIZE = 320


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for one another longer than these small networks take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """With a settings folder of its own, so that a test run leaves the user's alone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
        return import_ultralytics()


@pytest.fixture(scope="module")
def smear_images() -> list[np.ndarray]:
    """Two smear images, uint8 [H,W,3] BGR, one of them cut so that letterboxing has an odd rest."""
    folder = Path(os.environ.get("CYTOLOGIA_DATA", REPOSITORY.parent / "shared/data")) / "smears/images"
    paths = sorted(folder.glob("*.jpg"))[:2]
    if len(paths) < 2:
        pytest.skip(f"needs two smear images in {folder}; set CYTOLOGIA_DATA to the data folder")
    first, second = (cv2.imread(str(path)) for path in paths)
    return [first, second[: second.shape[0] * 2 // 3 + 1]]


def letterbox(image: np.ndarray, *, centred: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tile [S,S,3] in the image's colours, tile pixels an image pixel [x,y], left and top margin [x,y]."""
    height, width = image.shape[:2]
    scale = TILE_SIZE / max(height, width)
    new_wh = (round(width * scale), round(height * scale))
    left, top = (round((TILE_SIZE - side) / 2 - 0.1) if centred else 0 for side in new_wh)
    tile = np.full((TILE_SIZE, TILE_SIZE, 3), 114, np.uint8)
    resized = cv2.resize(image, new_wh, interpolation=cv2.INTER_LINEAR)
    tile[top : top + new_wh[1], left : left + new_wh[0]] = resized
    return tile, np.divide(new_wh, (width, height)), np.array((left, top))


def rgb_tiles(images: list[np.ndarray], *, centred: bool) -> Tensor:
    tiles = [letterbox(image, centred=centred)[0][..., ::-1] for image in images]
    return torch.from_numpy(np.stack(tiles))


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
    with torch.inference_mode():
        return graph(pixels)


def found(outputs: tuple[Tensor, ...], tile: int, above: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, scores, labels = (output[tile].numpy() for output in outputs[:3])
    wanted = scores > above
    return boxes[wanted], scores[wanted], labels[wanted]


def threshold_for(candidates: Tensor, count: int = 60) -> float:
    """A score that about `count` candidates exceed and none comes near, from [K] scores in falling order."""
    gaps = candidates[count - 10 : count] - candidates[count - 9 : count + 1]
    place = count - 10 + int(gaps.argmax())
    return float(candidates[place : place + 2].mean())


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


ULTRALYTICS_HEADS = [
    # architecture, one_to_one, predict's nms (False selects the branch that needs none)
    ("yolov8n.yaml", None, None),
    ("yolov9t.yaml", None, None),
    ("yolo11n.yaml", None, None),
    ("yolov10n.yaml", None, None),
    ("yolov10n.yaml", True, False),
    ("yolo26n.yaml", None, None),
    ("yolo26n.yaml", True, False),
]


@pytest.mark.parametrize(("architecture", "one_to_one", "nms"), ULTRALYTICS_HEADS)
def test_ultralytics_graph_agrees_with_predict(
    architecture: str,
    one_to_one: bool | None,
    nms: bool | None,
    ultralytics: ModuleType,
    smear_images: list[np.ndarray],
) -> None:
    torch.manual_seed(5)
    yolo = ultralytics.YOLO(architecture)
    tiles = rgb_tiles(smear_images, centred=True)
    spread_outputs(yolo.model, tiles)
    options: dict[str, Any] = {"family": "ultralytics", "tile_size": TILE_SIZE, "one_to_one": one_to_one}
    candidates = run(detector_graph(yolo.model, **options, iou_threshold=1.0), tiles)[1]
    outputs = run(detector_graph(yolo.model, **options, iou_threshold=0.5), tiles)

    for row, image in enumerate(smear_images):
        above = threshold_for(candidates[row])
        settings: dict[str, Any] = {"imgsz": TILE_SIZE, "rect": False, "iou": 0.5, "agnostic_nms": True}
        if nms is not None:
            settings["nms"] = nms
        predicted = yolo.predict(image, conf=above, device="cpu", verbose=False, **settings)[0].boxes
        boxes, scores, labels = found(outputs, row, above)
        _, scale, margin = letterbox(image, centred=True)
        boxes = (boxes - np.tile(margin, 2)) / np.tile(scale, 2)
        boxes = boxes.clip(0, np.tile(image.shape[1::-1], 2))
        assert len(boxes) > 5
        something_was_suppressed = len(boxes) < int((candidates[row] > above).sum())
        assert something_was_suppressed == (one_to_one is not True)
        assert scores == pytest.approx(predicted.conf.numpy(), abs=1e-4)
        assert boxes == pytest.approx(predicted.xyxy.numpy(), abs=0.5)
        assert labels.tolist() == predicted.cls.int().tolist()


def test_ultralytics_graph_leaves_the_network_as_it_was(ultralytics: ModuleType) -> None:
    network = ultralytics.YOLO("yolo26n.yaml").model
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    detector_graph(network, family="ultralytics", tile_size=64, max_detections=20, one_to_one=True, half=True)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert not network.end2end


def test_import_ultralytics_switches_usage_reports_off(ultralytics: ModuleType) -> None:
    from ultralytics.utils.events import events

    events.enabled = True
    import_ultralytics()
    assert not events.enabled


def yolox_nano() -> Any:
    """COCO weights with batch-norms already fused, as they come."""
    from yolox.models import YoloPafpn, YoloxHead, YoloxModule
    from yolox.utils import fuse_model

    folder = Path(os.environ.get("CYTOLOGIA_WEIGHTS", REPOSITORY.parent / "shared/weights"))
    path = folder / "yolox_nano_fused_torch.pth"
    if not path.exists():
        pytest.skip(f"needs {path}; set CYTOLOGIA_WEIGHTS to the folder of base weights")
    channels = [256, 512, 1024]
    backbone = YoloPafpn(0.33, 0.25, depthwise=True, in_channels=channels)
    network = YoloxModule(backbone, YoloxHead(80, 0.25, in_channels=channels, depthwise=True)).eval()
    with torch.no_grad():
        fuse_model(network)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(weights.get("model", weights))
    return network


def test_yolox_graph_agrees_with_yolox_postprocess(smear_images: list[np.ndarray]) -> None:
    from yolox.utils import postprocess

    network = yolox_nano()
    tiles = rgb_tiles(smear_images, centred=False)
    options: dict[str, Any] = {"family": "yolox", "tile_size": TILE_SIZE}
    candidates = run(detector_graph(network, **options, iou_threshold=1.0), tiles)[1]
    outputs = run(detector_graph(network, **options, iou_threshold=0.5), tiles)
    raw = run(network, tiles.flip(3).permute(0, 3, 1, 2).float())
    for row in range(len(smear_images)):
        above = threshold_for(candidates[row])
        expected = postprocess(raw[row : row + 1].clone(), 80, above, 0.5, class_agnostic=True)[0].numpy()
        boxes, scores, labels = found(outputs, row, above)
        assert 5 < len(boxes) < int((candidates[row] > above).sum())
        assert scores == pytest.approx(expected[:, 4] * expected[:, 5], abs=1e-4)
        assert boxes == pytest.approx(expected[:, :4], abs=1e-2)
        assert labels.tolist() == expected[:, 6].astype(int).tolist()


def test_yolox_graph_is_the_same_with_its_batch_norms_fused() -> None:
    from yolox.models import YoloPafpn, YoloxHead, YoloxModule

    torch.manual_seed(1)
    network = YoloxModule(YoloPafpn(0.33, 0.125), YoloxHead(1, 0.125)).eval()
    tiles = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that leaving them out would show
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    graph = detector_graph(network, family="yolox", tile_size=64, max_detections=84, iou_threshold=1.0)
    scores = run(graph, tiles)[1]
    raw = run(network, tiles.flip(3).permute(0, 3, 1, 2).float())
    expected = (raw[..., 4] * raw[..., 5]).sort(1, descending=True).values
    assert not any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())
    assert torch.allclose(scores, expected, atol=1e-6)


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


class TestRefusals:
    def network(self) -> nn.Module:
        from yolox.models import YoloPafpn, YoloxHead, YoloxModule

        return YoloxModule(YoloPafpn(0.33, 0.125), YoloxHead(1, 0.125))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tile_size": 100}, "100 pixels does not divide .* 32 pixels; choose"),
            ({"tile_size": 32}, "max_detections=100 is more than the 21 places .* 32 pixels; lower"),
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
