"""What people would write instead: `predict` of ultralytics, then a timm model in eager torch on crops."""

import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from build_engines.checkpoint import Checkpoint, CropGeometry
from build_engines.compact import with_half_weights
from build_engines.errors import BuildError
from build_engines.families import import_ultralytics
from build_engines.graphs import normalise
from edge.backends import openvino  # noqa: F401  before openvino itself, whose telemetry this switches off
from edge.bench.ways import Answer, Way
from edge.bundle import Bundle
from edge.cells import Finding
from edge.geometry import SAME_CELL_IOU, crop, letterbox
from edge.images import decode

log = logging.getLogger(__name__)

Format = Literal["torch", "onnx", "openvino"]


class UltralyticsDetector:
    """An ultralytics detector in one of its formats, asked by its own `predict`.

    Threshold and IoU of the suppression are those of the bundle, all else of `predict` is left as it is.
    """

    def __init__(self, weights: Path, bundle: Bundle, *, rounded: bool = False) -> None:
        """Args:
        weights: what `exported` gives.
        bundle: with the same weights.
        rounded: round them as the bundle does; weights of torch only.
        """
        size = bundle.detector.tile_size
        self._model = _ultralytics().YOLO(weights, task="detect")
        if rounded:
            example = torch.zeros(1, 3, size, size)
            self._model.model = with_half_weights(self._model.model.float(), example)
        self._options: dict[str, Any] = {
            "imgsz": size,
            "conf": bundle.manifest.thresholds.detection,
            "iou": SAME_CELL_IOU,
            "max_det": bundle.detector.max_detections,
            "device": "cpu",
            "verbose": False,
        }

    def find(self, image: Path | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Detect in a file, or in uint8 [H, W, 3] BGR as ultralytics takes it.

        Returns:
            Its pixels, uint8 [H, W, 3] BGR; boxes float32 [n, 4] xyxy in them; scores float32 [n].
        """
        result = self._model.predict(image, **self._options)[0]
        return result.orig_img, result.boxes.xyxy.numpy(), result.boxes.conf.numpy()


class UsualWay(Way):
    """Detect with ultralytics, name with timm. Ends with findings in memory: nothing is written."""

    def __init__(self, name: str, detector: UltralyticsDetector, classifier: "EagerClassifier") -> None:
        self.name = name
        self._detector = detector
        self._classifier = classifier

    def answer(self, prepared: Path) -> Answer:
        """Findings of an image file."""
        return Answer(self._classifier.findings(*self._detector.find(prepared)))


class SameInputs:
    """The usual way with the bundle's rounded weights and the station's own tile: what is left to differ then
    is how the numbers are computed. Not a way that is timed.
    """

    def __init__(self, bundle: Bundle, detector: Path, classifier: Path) -> None:
        self._spec = bundle.detector
        self._detector = UltralyticsDetector(detector, bundle, rounded=True)
        self._classifier = EagerClassifier(Checkpoint.load(classifier), rounded=True)

    def findings(self, image: Path) -> tuple[Finding, ...]:
        """Findings of an image file, decoded and put on a tile as the station does."""
        rgb = decode(image.read_bytes())
        tile, placement = letterbox(rgb, self._spec.tile_size, self._spec.anchor, self._spec.pad)
        _, boxes, scores = self._detector.find(np.ascontiguousarray(tile[..., ::-1]))
        return self._classifier.findings(rgb[..., ::-1], placement.to_image(boxes), scores)


class EagerClassifier:
    """A classifier of timm from its checkpoint, all crops of an image in one batch."""

    def __init__(self, checkpoint: Checkpoint, *, rounded: bool = False) -> None:
        """Args:
        checkpoint: of `python -m training.classifier`.
        rounded: round the weights as a bundle does.
        """
        assert isinstance(checkpoint.geometry, CropGeometry)
        self._geometry = checkpoint.geometry
        self._classes = checkpoint.classes
        self._network: nn.Module = checkpoint.network()
        if rounded:
            example = torch.zeros(1, 3, checkpoint.geometry.crop_size, checkpoint.geometry.crop_size)
            self._network = with_half_weights(self._network, example)

    def findings(self, bgr: np.ndarray, boxes_xyxy: np.ndarray, scores: np.ndarray) -> tuple[Finding, ...]:
        """Name the cells in the boxes.

        Args:
            bgr: uint8 [H, W, 3].
            boxes_xyxy: float32 [n, 4] in its pixels.
            scores: float32 [n] of the detector.
        """
        if not len(boxes_xyxy):
            return ()
        form = self._geometry
        crops = np.stack(
            [
                crop(bgr, box, form.crop_size, form.margin_px, form.margin_fraction, form.shape)
                for box in boxes_xyxy
            ]
        )
        rgb = torch.from_numpy(crops).flip(-1).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            probabilities = self._network(normalise(rgb, form.mean, form.std)).softmax(-1).numpy()
        return tuple(
            self._finding(box, score, row)
            for box, score, row in zip(boxes_xyxy, scores, probabilities, strict=True)
        )

    def _finding(self, box_xyxy: np.ndarray, score: np.float32, probabilities: np.ndarray) -> Finding:
        ranked = {
            self._classes[i]: float(probabilities[i]) for i in np.argsort(-probabilities, kind="stable")
        }
        x1, y1, x2, y2 = map(float, box_xyxy)
        label = next(iter(ranked))
        return Finding((x1, y1, x2, y2), label, float(score), ranked[label], ranked)


def _ultralytics() -> ModuleType:
    module = import_ultralytics()
    logging.getLogger("ultralytics").setLevel(logging.WARNING)  # it tells much and advertises
    return module


def exported(weights: Path, form: Format, tile_size: int) -> Path:
    """The weights in one of ultralytics' formats, beside them; made anew if the weights are newer.

    Raises:
        BuildError: there are no weights.
    """
    if not weights.exists():
        raise BuildError(
            f"There are no weights {weights}; run `make benchmark-bundle`, or give their folder."
        )
    if form == "torch":
        return weights
    path = (
        weights.with_suffix(".onnx")
        if form == "onnx"
        else weights.with_name(f"{weights.stem}_openvino_model")
    )
    if not path.exists() or path.stat().st_mtime < weights.stat().st_mtime:
        # The simplifier is a package of its own, and ONNX Runtime simplifies the graph when it loads it.
        options = {"simplify": False} if form == "onnx" else {}
        log.info("exporting %s", path)
        _ultralytics().YOLO(weights).export(format=form, imgsz=tile_size, **options)
    return path
