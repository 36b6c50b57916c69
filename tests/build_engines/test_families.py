"""The graphs answer as the libraries do from which their networks come."""

from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from build_engines.families import import_ultralytics
from build_engines.graphs import detector_graph
from tests.build_engines.untrained import run, spread_outputs
from tests.real_files import data_path, weights_path

TILE_SIZE = 320


@pytest.fixture(scope="module")
def smear_images() -> list[np.ndarray]:
    """Two smear images, uint8 [H,W,3] BGR, one of them cut so that letterboxing has an odd rest."""
    paths = sorted(data_path("smears/images").glob("*.jpg"))[:2]
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


def found(outputs: tuple[Tensor, ...], tile: int, above: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, scores, labels = (output[tile].numpy() for output in outputs[:3])
    wanted = scores > above
    return boxes[wanted], scores[wanted], labels[wanted]


def threshold_for(candidates: Tensor, count: int = 60) -> float:
    """A score that about `count` candidates exceed and none comes near, from [K] scores in falling order."""
    gaps = candidates[count - 10 : count] - candidates[count - 9 : count + 1]
    place = count - 10 + int(gaps.argmax())
    return float(candidates[place : place + 2].mean())


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


def test_bars_of_ultralytics_are_a_line_each_where_there_is_no_terminal(
    ultralytics: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    from ultralytics.utils import TQDM

    for _ in TQDM(range(50), desc="epoch 1", mininterval=0.0, disable=False):
        pass
    written = capsys.readouterr().out
    assert written.count("epoch 1") == 1
    assert "50/50" in written
    assert written.endswith("\n")
    assert not set(written) & set("\r\033")


def yolox_nano() -> Any:
    """COCO weights with batch-norms already fused, as they come."""
    from yolox.models import YoloPafpn, YoloxHead, YoloxModule
    from yolox.utils import fuse_model

    path = weights_path("yolox_nano_fused_torch.pth")
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
