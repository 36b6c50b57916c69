"""`manifest.json` of a bundle: its networks, what each is shown, and how their answers become findings.

A key whose value is the default may be left out, and `dump` leaves it out: so a bundle that uses nothing new
is read by older stations too, and one that does is refused by them by the name of the key
(docs/decisions/ensembles.md).
"""

import os
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from edge.appearance import NAMES
from edge.cells import cell_class
from edge.geometry import LETTERBOX_PAD, Anchor, CropShape
from edge.views import Flip, Turn

SCHEMA_VERSION = 1
LARGEST_MARGIN_PX = 1000
"""Of a crop on each side, in pixels of the image: more would take the memory of a station."""


def _plain(name: str) -> str:
    if name != os.path.basename(name) or name in ("", ".", "..") or not name.isprintable():  # noqa: PTH119
        raise ValueError(f"{name!r} is no name of a file inside the bundle")
    return name


def on_one_line(name: str) -> str:
    """The name of a bundle, which stands in every result row.

    Raises:
        ValueError: it has no letters, or such as do not print.
    """
    if not name.isprintable() or not name.strip():
        raise ValueError(f"{name!r} cannot be printed on one line")
    return name


FileName = Annotated[str, AfterValidator(_plain)]
"""Of a file inside the bundle: what lies elsewhere on a machine is no part of it."""
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = PositiveFloat
WeightOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    # JSON has no NaN, but those who write and read it in Python do.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GraphFiles(_Part):
    """One network in two precisions: file names inside the bundle."""

    fp32: FileName
    fp16: FileName
    """FP16 body with FP32 ends."""


class Windows(_Part):
    """Overlapping windows of a large image, each a tile of its own; see `edge.windows`."""

    size_px: int = Field(gt=0)
    """Side in pixels of the image; an image that is no larger is read whole."""
    overlap_px: int = Field(gt=0)
    """Least overlap of neighbours in pixels of the image: the size of the largest cell."""

    @model_validator(mode="after")
    def _check(self) -> "Windows":
        if self.overlap_px > self.size_px / 2:
            raise ValueError(
                f"windows of {self.size_px} px overlap by {self.overlap_px} px; at most half can be"
            )
        return self


class DetectorSpec(_Part):
    """A detector graph and the tile that it takes; see `edge.geometry.letterbox`."""

    name: str
    graph: GraphFiles
    tile_size: int
    anchor: Anchor
    pad: int = Field(default=LETTERBOX_PAD, ge=0, le=255)
    max_detections: int
    names_classes: bool = False
    """True for a one-stage network, whose graph also gives `probabilities`."""
    classes: tuple[str, ...] = ()
    """Its own order of probabilities, if it names classes; none: the bundle's."""
    weight: Weight = 1.0
    """Where boxes of several detectors are fused."""
    class_weight: WeightOrNone = 1.0
    """Of its probabilities in the mean over all networks that name classes."""
    tta: tuple[Flip, ...] = ()
    """Views that it is shown besides the tile itself; the boxes of all are fused."""
    windows: Windows | None = None
    """None: every image is read whole."""

    @property
    def side_px(self) -> int:
        """Side of its square input."""
        return self.tile_size

    @property
    def at_once(self) -> int:
        """The largest batch that it is given; more would take memory that a station lacks."""
        return 1 if self.windows is None else 4

    @property
    def input_name(self) -> str:
        """Of its graph."""
        return "tiles"


class ClassifierSpec(_Part):
    """A classifier graph and what of an image it takes; see `edge.classification.inputs_of`."""

    name: str
    graph: GraphFiles
    crop_size: int
    """Side of its square input in pixels, whatever the view."""
    view: Literal["crop", "tile"] = "crop"
    """Each cell, or the whole image, whose answer then is of all its cells."""
    margin_px: float = Field(ge=0, le=LARGEST_MARGIN_PX)
    margin_fraction: float = Field(ge=0, le=1)
    shape: CropShape
    """"square" keeps the aspect: a crop is widened, a tile letterboxed. "stretched" does not."""
    classes: tuple[str, ...] = ()
    """Its own order of probabilities; none: the bundle's. A class that it does not know has 0."""
    weight: Weight = 1.0
    """In the mean over all networks that name classes."""
    only_when_alone: bool = False
    """It is asked only where one cell was found."""
    tta: tuple[Turn, ...] = ()
    """Views that it is shown besides the input itself; the answers are averaged."""

    @property
    def side_px(self) -> int:
        """Side of its square input."""
        return self.crop_size

    @property
    def at_once(self) -> int:
        """The largest batch that engines with fixed shapes are prepared for; larger ones are cut."""
        return 1 if self.view == "tile" else 4

    @property
    def input_name(self) -> str:
        """Of its graph."""
        return "crops"


NetworkSpec = DetectorSpec | ClassifierSpec


class Fusion(_Part):
    """How boxes of several detectors, or of one in several views, become one; see `edge.fusion.fuse`."""

    iou: float = Field(default=0.55, ge=0, le=1)
    """Boxes that overlap by more are one cell."""
    least_score: float = Field(default=0.01, ge=0, le=1)
    """Boxes with a lower score in their own network take no part."""


class Thresholds(_Part):
    """What counts as a finding."""

    detection: float = Field(ge=0, le=1)
    classification: float | None = Field(default=None, ge=0, le=1)
    """Probability of its class from which a finding is sure of it; None where nobody chose one. The station
    writes surer and less sure findings alike."""


class ImageSource(_Part):
    """What the training images of one source look like: a normal distribution of `edge.appearance`."""

    name: str
    images: int = Field(gt=0)
    mean: tuple[float, ...]
    deviation: tuple[PositiveFloat, ...]
    """Standard deviations."""
    correlation: tuple[tuple[float, ...], ...]
    """One row for each number; shrunk, so that it can be inverted."""

    @model_validator(mode="after")
    def _check(self) -> "ImageSource":
        sizes = {len(self.mean), len(self.deviation), len(self.correlation), *map(len, self.correlation)}
        if sizes != {len(NAMES)}:
            raise ValueError(
                f"{self.name} has {', '.join(map(str, sorted(sizes)))} numbers where {len(NAMES)} are needed"
            )
        if np.linalg.eigvalsh(np.array(self.correlation))[0] <= 0:
            raise ValueError(f"the correlation of {self.name} is not positive definite")
        return self


class TrainingImages(_Part):
    """What the images look like that the bundle was trained on; see `edge.likeness`.

    Attributes:
        statistics: names of the numbers, those of `edge.appearance.STATISTICS`.
        limit: distance from the nearest source beyond which an image is unlike them.
        limit_without_cells: the same of an image in which nothing was found.
    """

    statistics: tuple[str, ...]
    sources: Annotated[tuple[ImageSource, ...], Field(min_length=1)]
    limit: PositiveFloat
    limit_without_cells: PositiveFloat

    @model_validator(mode="after")
    def _check(self) -> "TrainingImages":
        if self.statistics != NAMES:
            raise ValueError(
                f"it has the statistics {', '.join(self.statistics)}, this version measures "
                f"{', '.join(NAMES)}; run `python -m training.likeness` of this version"
            )
        return self


class GateResult(_Part):
    """How far one engine and precision strayed from the FP32 reference when the bundle was built."""

    backend: str
    precision: str
    passed: bool
    images: str
    """Which images it was tried on, in words."""
    box_px: float
    score: float
    probability: float


class Manifest(_Part):
    """`manifest.json`, checked.

    Attributes:
        classes: class codes in the order of a finding's probabilities.
        temperature: what `edge.pipeline.tempered` softens (above 1) or sharpens the probabilities by.
        training_images: what each image is compared with; None: with nothing.
        accuracy: figures measured on real images, for people; nothing depends on them.
        gates: engines and precisions tried when the bundle was built.
        sha256: of every other file of the bundle.
    """

    schema_version: Literal[1]
    name: Annotated[str, AfterValidator(on_one_line)]
    created: str
    classes: tuple[str, ...]
    detectors: tuple[DetectorSpec, ...]
    classifiers: tuple[ClassifierSpec, ...]
    fusion: Fusion = Fusion()
    thresholds: Thresholds
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    training_images: TrainingImages | None = None
    provenance: dict[str, dict[str, Any]]
    accuracy: dict[str, dict[str, Any]]
    gates: tuple[GateResult, ...]
    sha256: dict[FileName, str]

    @property
    def networks(self) -> tuple[NetworkSpec, ...]:
        """All of them: the detectors, then the classifiers."""
        return (*self.detectors, *self.classifiers)

    def training_of(self, spec: NetworkSpec) -> dict[str, Any]:
        """What `provenance` tells of a network, under the name of its graph; empty if that is nothing."""
        name = spec.graph.fp32.removesuffix(".onnx").replace("-", " ")
        return self.provenance.get(name, {})

    def dump(self) -> str:
        """The text of the file: what is the default is not in it."""
        return self.model_dump_json(indent=1, exclude_defaults=True) + "\n"

    @model_validator(mode="after")
    def _check(self) -> "Manifest":
        for code in self.classes:
            cell_class(code)
        if len(set(self.classes)) < len(self.classes) or not self.classes:
            raise ValueError(f"its classes are {', '.join(self.classes) or 'none'}; each must be there once")
        if not self.detectors:
            raise ValueError("it has 0 detectors; one is needed to find cells")
        if not _names_every_cell(self.detectors, self.classifiers):
            raise ValueError(
                "nobody names the classes of every cell: each detector must, with a class_weight, or a "
                "classifier that is not only_when_alone"
            )
        for network in self.networks:
            unknown = sorted(set(network.classes) - set(self.classes))
            if unknown or len(set(network.classes)) < len(network.classes):
                raise ValueError(
                    f"{network.name} names {', '.join(network.classes)}, of which "
                    f"{', '.join(unknown) or 'one comes twice'}{' is not of the bundle' if unknown else ''}"
                )
        return self


def _names_every_cell(detectors: Iterable[DetectorSpec], classifiers: Iterable[ClassifierSpec]) -> bool:
    return any(not one.only_when_alone for one in classifiers) or all(
        one.names_classes and one.class_weight > 0 for one in detectors
    )
