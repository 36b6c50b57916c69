"""Checkpoints of any family, read and wrapped as the graphs of a bundle, in both precisions."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from build_engines.checkpoint import Checkpoint, CheckpointError, CropGeometry, TileGeometry
from build_engines.compact import with_half_weights
from build_engines.errors import BuildError
from build_engines.families import import_ultralytics
from build_engines.graphs import ClassifierGraph, DetectorGraph, classifier_graph, detector_graph
from edge.bundle import ClassifierSpec, DetectorSpec, GraphFiles
from edge.cells import cell_class

_DETECTOR = GraphFiles(fp32="detector.onnx", fp16="detector.fp16.onnx")
_CLASSIFIER = GraphFiles(fp32="classifier.onnx", fp16="classifier.fp16.onnx")
_STRIDE = 32
"""Of the coarsest level of every supported detector."""


@dataclass(frozen=True, slots=True)
class Networks:
    """What a bundle is built from, in the two precisions.

    Attributes:
        detectors: the FP32 graph and the graph with an FP16 body.
        classifiers: the same; None where the detector names the classes.
    """

    detectors: tuple[DetectorGraph, DetectorGraph]
    detector_spec: DetectorSpec
    classifiers: tuple[ClassifierGraph, ClassifierGraph] | None
    classifier_spec: ClassifierSpec | None
    classes: tuple[str, ...]
    provenance: dict[str, Any]

    def files(self) -> Iterator[tuple[DetectorGraph | ClassifierGraph, str, int]]:
        """Each graph with the name of its file and the side of its input in pixels."""
        spec = self.detector_spec
        for graph, file in zip(self.detectors, (spec.graph.fp32, spec.graph.fp16), strict=True):
            yield graph, file, spec.tile_size
        if self.classifiers and self.classifier_spec:
            crops = self.classifier_spec
            for classifier, file in zip(self.classifiers, (crops.graph.fp32, crops.graph.fp16), strict=True):
                yield classifier, file, crops.crop_size


def load_networks(detector: Path, classifier: Path | None, tile_size: int | None = None) -> Networks:
    """Read both checkpoints and wrap them as graphs.

    Args:
        detector: a checkpoint of `python -m training.detector`, or an ultralytics `.pt` file, which is a
            pickle: open it only if you trust where it comes from.
        classifier: a checkpoint of `python -m training.classifier`; None for a one-stage bundle.
        tile_size: overrides the detector's own.
    """
    detectors, spec, classes, detector_facts = _load_detector(detector, tile_size)
    if spec.names_classes == (classifier is not None):
        raise BuildError(
            f"{detector} {'names' if spec.names_classes else 'does not name'} classes and "
            f"{'a' if classifier else 'no'} classifier was given; give exactly one network that names them."
        )
    if classifier is None:
        return Networks(detectors, spec, None, None, classes, {"detector": detector_facts})
    checkpoint = Checkpoint.load(classifier)
    if not isinstance(checkpoint.geometry, CropGeometry):
        raise BuildError(f"{classifier} is a detector's checkpoint; give a classifier's.")
    crops = checkpoint.geometry
    example = torch.zeros(1, 3, crops.crop_size, crops.crop_size)
    network = with_half_weights(checkpoint.network(), example)
    classifiers = tuple(
        classifier_graph(network, mean=crops.mean, std=crops.std, half=half) for half in (False, True)
    )
    classifier_spec = ClassifierSpec(
        name=checkpoint.architecture["name"],
        graph=_CLASSIFIER,
        crop_size=crops.crop_size,
        margin_px=crops.margin_px,
        margin_fraction=crops.margin_fraction,
        shape=crops.shape,
    )
    facts = {"detector": detector_facts, "classifier": checkpoint.provenance}
    return Networks(
        detectors, spec, (classifiers[0], classifiers[1]), classifier_spec, checkpoint.classes, facts
    )


def _load_detector(
    path: Path, tile_size: int | None
) -> tuple[tuple[DetectorGraph, DetectorGraph], DetectorSpec, tuple[str, ...], dict[str, Any]]:
    if _is_ultralytics(path):
        model = import_ultralytics().YOLO(path)
        names = tuple(model.names.values())
        classes = _class_codes(path, names) if len(names) > 1 else ()
        size = tile_size or int(model.overrides.get("imgsz", 640))
        geometry, network, family = TileGeometry(size, "centre"), model.model.float().eval(), "ultralytics"
        name, facts = path.stem, {"model": path.name, "framework": "ultralytics (AGPL-3.0)"}
        beside = path.with_name("provenance.json")
        facts |= json.loads(beside.read_text()) if beside.exists() else {}
    else:
        checkpoint = Checkpoint.load(path)
        if not isinstance(checkpoint.geometry, TileGeometry):
            raise BuildError(f"{path} is a classifier's checkpoint; give a detector's.")
        geometry, network, family = checkpoint.geometry, checkpoint.network(), checkpoint.family
        classes, name, facts = checkpoint.classes, checkpoint.family, checkpoint.provenance
        size = tile_size or geometry.tile_size
    if size % _STRIDE:
        raise BuildError(f"A tile of {size} px is no multiple of {_STRIDE}; give --tile-size a multiple.")
    network = with_half_weights(network, torch.zeros(1, 3, size, size))
    graphs = tuple(
        detector_graph(network, family=family, tile_size=size, half=half)  # type: ignore[arg-type]
        for half in (False, True)
    )
    spec = DetectorSpec(
        name=name,
        graph=_DETECTOR,
        tile_size=size,
        anchor=geometry.anchor,
        max_detections=graphs[0].max_detections,
        names_classes=bool(classes),
    )
    return (graphs[0], graphs[1]), spec, classes, facts


def _class_codes(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(cell_class(name).code for name in names)
    except ValueError as error:
        raise BuildError(f"{path} names cells in another way: {error}") from error


def _is_ultralytics(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"ultralytics" in archive.read(name) for name in pickles)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}; check the path.") from None
    except (OSError, zipfile.BadZipFile):
        return False
