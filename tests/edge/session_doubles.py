"""Test doubles of engines whose answers can be told from their inputs by hand, and bundles for them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.backends.base import Outputs, Session
from edge.bundle import Bundle
from edge.manifest import ClassifierSpec, DetectorSpec, GraphFiles, Manifest

CLASSES = ("PNN", "LY", "MO")
PLACES = 30
"""Boxes a tile."""


class BlobSession(Session):
    """Finds dark blobs: the surest is the largest. Answers lie in its own memory until the next run.

    Args:
        names: probabilities that it gives every blob, if it names classes.
        score: of every blob, in place of one by its size.
    """

    def __init__(self, side_px: int, names: list[float] | None = None, score: float | None = None) -> None:
        super().__init__("blobs", side_px)
        self.names, self.score = names, score
        self.batches: list[np.ndarray] = []
        self._memory: Outputs = {}

    def _run(self, batch: np.ndarray) -> Outputs:
        self.batches.append(batch)
        for array in self._memory.values():
            array[:] = 0.77  # what the last run gave is gone
        boxes, scores = np.zeros((len(batch), PLACES, 4), "f4"), np.zeros((len(batch), PLACES), "f4")
        for row, tile in enumerate(batch):
            found = cv2.connectedComponentsWithStats((tile[..., 0] < 60).astype(np.uint8))[2][1:]
            found = sorted(found.tolist(), key=lambda blob: -blob[4])
            for place, (x, y, width, height, area) in enumerate(found):
                boxes[row, place] = x, y, x + width, y + height
                scores[row, place] = self.score or 0.5 + area / tile[..., 0].size
        self._memory = {"boxes": boxes, "scores": scores, "labels": np.zeros(scores.shape, np.int32)}
        if self.names:
            self._memory["probabilities"] = np.tile(np.array(self.names, "f4"), (*scores.shape, 1))
        return self._memory

    def close(self) -> None: ...


class NamingSession(Session):
    """Gives every input the same probabilities, or those that a function tells of its pixels."""

    def __init__(self, side_px: int, names: Any) -> None:
        super().__init__("names", side_px)
        self.names = names
        self.batches: list[np.ndarray] = []

    def _run(self, batch: np.ndarray) -> Outputs:
        self.batches.append(batch)
        rows = [self.names(one) if callable(self.names) else self.names for one in batch]
        return {"probabilities": np.array(rows, np.float32)}

    def close(self) -> None: ...


def detector_spec(**changes: Any) -> DetectorSpec:
    """Tiles of 64 px."""
    files = GraphFiles(fp32="d.onnx", fp16="d.fp16.onnx")
    known: dict[str, Any] = {"tile_size": 64, "anchor": "centre", "max_detections": PLACES}
    return DetectorSpec(**{"name": "blobs", "graph": files, **known, **changes})


def classifier_spec(**changes: Any) -> ClassifierSpec:
    """Crops of 16 px without a margin."""
    files = GraphFiles(fp32="c.onnx", fp16="c.fp16.onnx")
    known: dict[str, Any] = {"crop_size": 16, "margin_px": 0, "margin_fraction": 0, "shape": "stretched"}
    return ClassifierSpec(**{"name": "names", "graph": files, **known, **changes})


def manifest_of(detectors: list[DetectorSpec], classifiers: list[ClassifierSpec], **changes: Any) -> Manifest:
    """A manifest of the three classes, with a threshold of 0.4."""
    known: dict[str, Any] = {"schema_version": 1, "name": "double", "created": "now", "classes": CLASSES}
    empty: dict[str, Any] = {"provenance": {}, "accuracy": {}, "gates": (), "sha256": {}}
    networks = {"detectors": tuple(detectors), "classifiers": tuple(classifiers)}
    return Manifest(**{**known, **empty, **networks, "thresholds": {"detection": 0.4}, **changes})


def bundle_of(folder: Path, manifest: Manifest) -> Bundle:
    """A bundle without files."""
    return Bundle(folder, manifest, "double-1a2b3c4d5e6f", {})


def field_of(size_wh: tuple[int, int], cells: list[tuple[int, int, int, int]]) -> np.ndarray:
    """A light image with dark rectangles, which do not touch."""
    rgb = np.full((size_wh[1], size_wh[0], 3), 220, np.uint8)
    for x1, y1, x2, y2 in cells:
        rgb[y1:y2, x1:x2] = 20
    return rgb
