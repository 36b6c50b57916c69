"""A model bundle: a folder with the graphs of a detector and a classifier, and all there is to know of them.

Everything that is particular to a network (colour order, normalising, decoding, suppression) is inside
its graphs or, where it is geometry, in `manifest.json`. So the station knows nothing of any network.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.cells import cell_class
from edge.errors import BundleError
from edge.geometry import LETTERBOX_PAD, Anchor, CropShape

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GraphFiles(_Part):
    """One network in two precisions: file names inside the bundle."""

    fp32: str
    fp16: str
    """FP16 body with FP32 ends."""


class DetectorSpec(_Part):
    """A detector graph and the tile that it takes; see `edge.geometry.letterbox`."""

    name: str
    graph: GraphFiles
    tile_size: int
    anchor: Anchor
    pad: int = LETTERBOX_PAD
    max_detections: int
    names_classes: bool = False
    """True for a one-stage network, whose graph also gives `probabilities`."""


class ClassifierSpec(_Part):
    """A classifier graph and the crop that it takes; see `edge.geometry.crop`."""

    name: str
    graph: GraphFiles
    crop_size: int
    margin_px: float
    margin_fraction: float
    shape: CropShape


class Thresholds(_Part):
    """What counts as a finding."""

    detection: float
    classification: float | None = Field(default=None, ge=0, le=1)
    """Probability of its class from which a finding is sure of it; None where nobody chose one. The station
    writes surer and less sure findings alike."""


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
        classes: class codes in the order of the probabilities.
        temperature: what `edge.pipeline.tempered` softens (above 1) or sharpens the probabilities by.
        accuracy: figures measured on real images, for people; nothing depends on them.
        gates: engines and precisions tried when the bundle was built.
        sha256: of every other file of the bundle.
    """

    schema_version: Literal[1]
    name: str
    created: str
    classes: tuple[str, ...]
    detectors: tuple[DetectorSpec, ...]
    classifiers: tuple[ClassifierSpec, ...]
    thresholds: Thresholds
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    provenance: dict[str, Any]
    accuracy: dict[str, Any]
    gates: tuple[GateResult, ...]
    sha256: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> "Manifest":
        for code in self.classes:
            cell_class(code)
        if len(self.detectors) != 1 or len(self.classifiers) > 1:
            raise ValueError(
                f"it has {len(self.detectors)} detectors and {len(self.classifiers)} classifiers, but "
                "this version runs one detector and at most one classifier"
            )
        if self.detectors[0].names_classes == bool(self.classifiers):
            raise ValueError("either the detector names the classes, or a classifier does, and not both")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is understood and whose files are whole."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Open a bundle and compare every file with the manifest's hash.

        Raises:
            BundleError: something is missing, damaged or of another schema.
        """
        try:
            text = (path / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path} is no model bundle ({MANIFEST}: {error.strerror}); give a folder that "
                "`python build_engines/build.py` wrote."
            ) from error
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise BundleError(
                f"{path / MANIFEST} is not of schema {SCHEMA_VERSION} ({where}: {first['msg']}); rebuild the "
                "bundle with this version."
            ) from error
        for name, expected in manifest.sha256.items():
            _check_file(path / name, expected)
        return cls(path, manifest)

    @cached_property
    def id(self) -> str:
        """Name and hash of the manifest, which holds the hash of all else: stands on every result row."""
        return f"{self.manifest.name}-{hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()[:12]}"

    @property
    def detector(self) -> DetectorSpec:
        """The detector."""
        return self.manifest.detectors[0]

    @property
    def classifier(self) -> ClassifierSpec | None:
        """The classifier; None where the detector names the classes."""
        return self.manifest.classifiers[0] if self.manifest.classifiers else None

    def golden(self) -> "Golden":
        """Known inputs and the reference answers to them.

        Raises:
            BundleError: they cannot be read, or hold nothing by which an engine could be told from another.
        """
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                golden = Golden.of_arrays(dict(arrays))
            tells = golden.tells_anything(self.manifest.thresholds.detection)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise BundleError(
                f"{self.path / GOLDEN} cannot be read ({type(error).__name__}); copy or rebuild the bundle."
            ) from error
        if not tells:
            raise BundleError(
                f"{self.path / GOLDEN} has no finding by which an engine could be tested; rebuild the bundle."
            )
        return golden


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Known inputs and what FP32 torch answers to them.

    Attributes:
        tiles: uint8 [T, S, S, 3] RGB.
        detector: the detector graph's outputs for `tiles`, by name.
        crops: uint8 [N, S, S, 3] RGB; none where the bundle has no classifier.
        classifier: the classifier graph's outputs for `crops`, by name.
    """

    tiles: NDArray[np.uint8]
    detector: dict[str, NDArray[Any]]
    crops: NDArray[np.uint8] | None
    classifier: dict[str, NDArray[Any]]

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Golden":
        """From the arrays of `golden.npz`."""
        return cls(
            tiles=arrays["tiles"],
            detector={key[9:]: array for key, array in arrays.items() if key.startswith("detector_")},
            crops=arrays.get("crops"),
            classifier={key[11:]: array for key, array in arrays.items() if key.startswith("classifier_")},
        )

    def tells_anything(self, threshold: float) -> bool:
        """Whether an engine can be wrong about it: a box scores above the threshold, a cell has classes."""
        has_classes = self.crops is not None or "probabilities" in self.detector
        return has_classes and bool((self.detector["scores"] > threshold).any())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As `of_arrays` takes them."""
        return {
            "tiles": self.tiles,
            **{f"detector_{key}": array for key, array in self.detector.items()},
            **({} if self.crops is None else {"crops": self.crops}),
            **{f"classifier_{key}": array for key, array in self.classifier.items()},
        }


def embedded_bundle() -> Path:
    """The bundle that comes with the package."""
    return Path(str(files("edge.demo"))) / "bundle"


def file_sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(
            f"{path} of the bundle is missing ({error.strerror}); copy the bundle again."
        ) from error
    if found != expected:
        raise BundleError(
            f"{path} has sha256 {found[:12]}… but the manifest says {expected[:12]}…; "
            "copy or rebuild the bundle."
        )
