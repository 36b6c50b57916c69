"""Checkpoints of any family, read and wrapped as the graphs of a bundle, in both precisions."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from build_engines.checkpoint import (
    Activation,
    Checkpoint,
    CheckpointError,
    CropGeometry,
    TileGeometry,
    provenance_beside,
)
from build_engines.compact import with_half_weights
from build_engines.errors import BuildError
from build_engines.families import UltralyticsClassifier, import_ultralytics
from build_engines.graphs import ClassifierGraph, DetectorGraph, classifier_graph, detector_graph
from build_engines.recipe import ClassifierEntry, DetectorEntry, Recipe, recipe_of
from edge.cells import cell_class
from edge.errors import EdgeError
from edge.manifest import ClassifierSpec, DetectorSpec, Fusion, GraphFiles, NetworkSpec
from edge.names import name_of

_STRIDE = 32
"""Of the coarsest level of every supported detector."""

_FRAMEWORK = {"framework": "ultralytics (AGPL-3.0)"}

_A_CLASS_OF_IT = b"cultralytics."
"""In a pickle of torch: its code for a class (c), and the module of that. Texts may name ultralytics, too."""

Graph = DetectorGraph | ClassifierGraph


_Entry = TypeVar("_Entry", DetectorEntry, ClassifierEntry)
_MOST_TOLD = 300
"""Characters of another library's words; torch names every tensor that does not fit."""


@dataclass(frozen=True, slots=True)
class Network:
    """One network of a bundle that is to be.

    Attributes:
        graphs: the FP32 graph and the graph with an FP16 body.
        spec: what the manifest says of it.
        classes: in the order of its outputs; empty for a detector that only finds.
        facts: where it comes from.
    """

    graphs: tuple[Graph, Graph]
    spec: NetworkSpec
    classes: tuple[str, ...]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Networks:
    """What a bundle is built from.

    Attributes:
        detectors, classifiers: whose specs name only such orders of classes as differ from the bundle's.
        classes: of the bundle: the first network's that names any, and what others add.
    """

    detectors: tuple[Network, ...]
    classifiers: tuple[Network, ...]
    classes: tuple[str, ...]
    fusion: Fusion

    @property
    def all(self) -> tuple[Network, ...]:
        """In the order of `Manifest.networks`."""
        return (*self.detectors, *self.classifiers)

    @property
    def specs(self) -> tuple[NetworkSpec, ...]:
        """Of all."""
        return tuple(network.spec for network in self.all)

    @property
    def provenance(self) -> dict[str, Any]:
        """The facts of each network: of "detector" and "classifier", further ones with their number."""
        return {
            f"{kind}{_numbered(' ', index)}": network.facts
            for kind, networks in (("detector", self.detectors), ("classifier", self.classifiers))
            for index, network in enumerate(networks)
        }

    def files(self) -> Iterator[tuple[Graph, str, int]]:
        """Each graph with the name of its file and the side of its input in pixels."""
        for network in self.all:
            files = network.spec.graph
            for graph, file in zip(network.graphs, (files.fp32, files.fp16), strict=True):
                yield graph, file, network.spec.side_px


def load_networks(detector: Path, classifier: Path | None, tile_size: int | None = None) -> Networks:
    """A detector and a classifier; see `load_recipe`."""
    return load_recipe(recipe_of([detector], [classifier] if classifier else [], tile_size))


def load_recipe(recipe: Recipe, *, may_blend: bool = False) -> Networks:
    """Read all checkpoints and wrap them as graphs.

    Args:
        recipe: detectors are checkpoints of `python -m training.detector`, or ultralytics `.pt` files, which
            are pickles: open them only if you trust where they come from. Classifiers are checkpoints of
            `python -m training.classifier`, or ultralytics' too.
        may_blend: whether detectors may name classes beside classifiers.

    Raises:
        BuildError: the networks do not go together, or one is of the wrong kind.
        CheckpointError: a file is no checkpoint.
    """
    detectors = tuple(_load(_load_detector, entry, index) for index, entry in enumerate(recipe.detector))
    classifiers = tuple(
        _load(_load_classifier, entry, index) for index, entry in enumerate(recipe.classifier)
    )
    has_classifier = any(not entry.only_when_alone for entry in recipe.classifier)
    for entry, network in zip(recipe.detector, detectors, strict=True):
        names = bool(network.classes) and entry.class_weight > 0
        if not names and not has_classifier:
            raise BuildError(
                f"{entry.checkpoint} does not name classes and no classifier was given that always does; "
                "give one with --classifier, or in the recipe without only_when_alone."
            )
        if names and classifiers and not may_blend:
            raise BuildError(
                f"{entry.checkpoint} names classes and a classifier was given; leave one out, or say in a "
                "recipe (--recipe) with what weights their answers are blended."
            )
    classes = tuple(dict.fromkeys(code for network in (*detectors, *classifiers) for code in network.classes))
    return Networks(
        tuple(_with_order(network, classes) for network in detectors),
        tuple(_with_order(network, classes) for network in classifiers),
        classes,
        recipe.fusion,
    )


def _with_order(network: Network, classes: tuple[str, ...]) -> Network:
    own = () if network.classes == classes else network.classes
    return replace(network, spec=network.spec.model_copy(update={"classes": own}))


def _numbered(before: str, index: int) -> str:
    """Nothing for the first of a kind, then its number from 2."""
    return f"{before}{index + 1}" if index else ""


def _graph_files(kind: str, index: int) -> GraphFiles:
    stem = f"{kind}{_numbered('-', index)}"
    return GraphFiles(fp32=f"{stem}.onnx", fp16=f"{stem}.fp16.onnx")


def _load(kind: Callable[[_Entry, int], Network], entry: _Entry, index: int) -> Network:
    with _understood(entry.checkpoint):
        return kind(entry, index)


def _load_classifier(entry: ClassifierEntry, index: int) -> Network:
    path = entry.checkpoint
    if is_ultralytics(path):
        network, classes, crops, name, facts = _ultralytics_classifier(path)
        activation: Activation = "softmax"
    else:
        checkpoint = Checkpoint.load(path)
        if not isinstance(checkpoint.geometry, CropGeometry):
            raise BuildError(f"{path} is a detector's checkpoint; give a classifier's.")
        network, crops = checkpoint.network(), checkpoint.geometry
        name = checkpoint.architecture["name"].removesuffix(".yaml")
        classes, facts, activation = checkpoint.classes, checkpoint.provenance, checkpoint.activation
        if checkpoint.family == "ultralytics":
            facts = _FRAMEWORK | facts
    activation, view = entry.activation or activation, entry.view or crops.view
    network = with_half_weights(network, torch.zeros(1, 3, crops.crop_size, crops.crop_size))
    with _refused_as_build(path):
        graphs = tuple(
            classifier_graph(network, mean=crops.mean, std=crops.std, activation=activation, half=half)
            for half in (False, True)
        )
    spec = ClassifierSpec(
        name=name,
        graph=_graph_files("classifier", index),
        crop_size=crops.crop_size,
        margin_px=crops.margin_px if view == "crop" else 0,
        margin_fraction=crops.margin_fraction if view == "crop" else 0,
        view=view,
        shape=entry.shape or crops.shape,
        **entry.model_dump(include={"weight", "only_when_alone", "tta"}),
    )
    return Network((graphs[0], graphs[1]), spec, classes, facts)


def _ultralytics_classifier(
    path: Path,
) -> tuple[nn.Module, tuple[str, ...], CropGeometry, str, dict[str, Any]]:
    model = ultralytics_model(path)
    if model.task != "classify":
        raise BuildError(f"{path} is a network for {model.task!r} and no classifier; give a classifier's.")
    # Its own resizing of the shorter side and cutting of the longer one is nearest to a stretched square.
    size = int(model.overrides.get("imgsz", 224))
    crops = CropGeometry(size, margin_fraction=0.0, shape="stretched", mean=(0, 0, 0), std=(1, 1, 1))
    classes = _class_codes(path, tuple(model.names.values()))
    return UltralyticsClassifier(model.model), classes, crops, path.stem, _ultralytics_facts(path)


def ultralytics_model(path: Path) -> Any:
    """A model of ultralytics with its network, from its pickle, which can run code.

    Raises:
        CheckpointError: ultralytics does not read the file.
    """
    if path.suffix.lower() != ".pt":
        raise CheckpointError(f"{path} is a network of ultralytics, which reads it only as .pt; rename it.")
    try:
        return import_ultralytics().YOLO(path)
    except Exception as error:  # a pickle of another version may raise anything
        raise CheckpointError(
            f"{path} cannot be read by the ultralytics that is installed ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); install the version that wrote it, or train it again."
        ) from error


def _ultralytics_facts(path: Path) -> dict[str, Any]:
    return {"model": name_of(path), **_FRAMEWORK, **provenance_beside(path)}


def _load_detector(entry: DetectorEntry, index: int) -> Network:
    path = entry.checkpoint
    if is_ultralytics(path):
        model = ultralytics_model(path)
        if model.task != "detect":
            raise BuildError(f"{path} is a network for {model.task!r} and no detector; give a detector's.")
        names = tuple(model.names.values())
        classes = _class_codes(path, names) if len(names) > 1 else ()
        size = entry.tile_size or int(model.overrides.get("imgsz", 640))
        geometry, network, family = TileGeometry(size, "centre"), model.model.float().eval(), "ultralytics"
        name, facts = path.stem, _ultralytics_facts(path)
    else:
        checkpoint = Checkpoint.load(path)
        if not isinstance(checkpoint.geometry, TileGeometry):
            raise BuildError(f"{path} is a classifier's checkpoint; give a detector's.")
        geometry, network, family = checkpoint.geometry, checkpoint.network(), checkpoint.family
        classes, name, facts = checkpoint.classes, checkpoint.family, checkpoint.provenance
        size = entry.tile_size or geometry.tile_size
    if size % _STRIDE:
        raise BuildError(f"A tile of {size} px is no multiple of {_STRIDE}; give --tile-size a multiple.")
    network = with_half_weights(network, torch.zeros(1, 3, size, size))
    options: dict[str, Any] = {"family": family, "tile_size": size, "background": geometry.background}
    with _refused_as_build(path):
        graphs = tuple(detector_graph(network, **options, half=half) for half in (False, True))
    spec = DetectorSpec(
        name=name,
        graph=_graph_files("detector", index),
        tile_size=size,
        anchor=geometry.anchor,
        max_detections=graphs[0].max_detections,
        names_classes=bool(classes),
        **entry.model_dump(include={"weight", "class_weight", "tta", "windows"}),
    )
    return Network((graphs[0], graphs[1]), spec, classes, facts)


@contextmanager
def _refused_as_build(path: Path) -> Iterator[None]:
    """What a graph refuses, as an error of the build."""
    try:
        yield
    except ValueError as error:
        raise BuildError(f"{path} does not become a graph: {error}") from error


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """What a file says of its network and is not so, as an error of the build."""
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:  # torch and timm have no kind of their own for what does not fit
        told = " ".join(str(error).split())[:_MOST_TOLD]
        raise BuildError(
            f"{path} does not become the network that it says it is ({type(error).__name__}: {told}); "
            "train it again with this version, or give another file."
        ) from error


def _class_codes(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(cell_class(name).code for name in names)
    except ValueError as error:
        raise BuildError(f"{path} names cells in another way: {error}") from error


def is_ultralytics(path: Path) -> bool:
    """Whether a file is a pickle of ultralytics, told by what it names; nothing of it is run.

    Raises:
        CheckpointError: it is not there.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(_A_CLASS_OF_IT in archive.read(name) for name in pickles)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}; check the path.") from None
    except (OSError, zipfile.BadZipFile):
        return False
