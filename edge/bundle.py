"""A model bundle: a folder with networks that find and name cells, and all there is to know of them.

Everything that is particular to a network (colour order, normalising, decoding, suppression) is inside
its graphs or, where it is geometry, in `manifest.json`. So the station knows nothing of any network.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge.errors import BundleError
from edge.manifest import SCHEMA_VERSION, ClassifierSpec, DetectorSpec, Manifest, NetworkSpec
from edge.records import FileStamp

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is understood and whose files are whole.

    Attributes:
        id: name and hash of the manifest, which holds the hash of all else: stands on every result row.
        stamps: which version of each file that was, by name.
    """

    path: Path
    manifest: Manifest
    id: str
    stamps: Mapping[str, FileStamp]

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Open a bundle and compare every file with the manifest's hash.

        Raises:
            BundleError: something is missing, damaged or of another schema.
        """
        try:
            stamps = {MANIFEST: FileStamp.of((path / MANIFEST).stat())}
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
        graphs = (name for one in manifest.networks for name in (one.graph.fp32, one.graph.fp16))
        if unproved := sorted({GOLDEN, *graphs} - manifest.sha256.keys()):
            raise BundleError(
                f"{path / MANIFEST} has no sha256 of {', '.join(unproved)}, without which the bundle's id "
                "does not tell what is run; rebuild the bundle."
            )
        for name, expected in manifest.sha256.items():
            stamps[name] = _check_file(path / name, expected)
        return cls(path, manifest, f"{manifest.name}-{hashlib.sha256(text).hexdigest()[:12]}", stamps)

    def require_unchanged(self) -> None:
        """Make sure that what was read of the files since `load` is what it found.

        Raises:
            BundleError: one of them was replaced.
        """
        for name, stamp in self.stamps.items():
            try:
                is_same = FileStamp.of((self.path / name).stat()) == stamp
            except OSError:
                is_same = False
            if not is_same:
                raise BundleError(
                    f"{self.path / name} was replaced while the bundle {self.id} was opened; start again "
                    "when all files of the new one are there."
                )

    @property
    def detector(self) -> DetectorSpec:
        """The detector of a bundle that has one and at most one classifier.

        Raises:
            BundleError: it has more networks.
        """
        self._require_few_networks()
        return self.manifest.detectors[0]

    @property
    def classifier(self) -> ClassifierSpec | None:
        """The classifier of such a bundle; None where the detector names the classes.

        Raises:
            BundleError: it has more networks.
        """
        self._require_few_networks()
        return self.manifest.classifiers[0] if self.manifest.classifiers else None

    def _require_few_networks(self) -> None:
        detectors, classifiers = len(self.manifest.detectors), len(self.manifest.classifiers)
        if detectors > 1 or classifiers > 1:
            raise BundleError(
                f"The bundle {self.path} has {detectors} detectors and {classifiers} classifiers, but this "
                "is made for one detector and at most one classifier; give a bundle of these."
            )

    def golden(self) -> "Golden":
        """Known inputs and the reference answers to them.

        Raises:
            BundleError: they cannot be read, are not of the manifest's networks, or hold nothing by which an
            engine could be told from another.
        """
        try:
            with (self.path / GOLDEN).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                golden = Golden.of_arrays(dict(arrays))
        except Exception as error:  # bytes of somebody else may raise anything in NumPy and zipfile
            raise BundleError(
                f"{self.path / GOLDEN} cannot be read ({type(error).__name__}); copy or rebuild the bundle."
            ) from error
        manifest = self.manifest
        known = f"{len(golden.detectors)} detectors and {len(golden.classifiers)} classifiers"
        told = f"{len(manifest.detectors)} detectors and {len(manifest.classifiers)} classifiers"
        if known != told:
            raise BundleError(
                f"{self.path / GOLDEN} knows answers of {known}, the manifest has {told}; rebuild the bundle."
            )
        for spec, one in zip(manifest.networks, golden.networks, strict=True):
            arrays = {spec.input_name: one.inputs, **one.outputs}
            for name, expected in _arrays_of(spec, len(one.inputs), len(spec.classes or manifest.classes)):
                found = f"{arrays[name].dtype} {list(arrays[name].shape)}" if name in arrays else "nothing"
                if found != expected:
                    raise BundleError(
                        f"{self.path / GOLDEN} knows {name} of {spec.name} as {found}, by the manifest they "
                        f"are {expected}; rebuild the bundle."
                    )
        if not golden.tells_anything(manifest.thresholds.detection):
            raise BundleError(
                f"{self.path / GOLDEN} has no finding by which an engine could be tested; rebuild the bundle."
            )
        return golden


def _arrays_of(spec: NetworkSpec, count: int, classes: int) -> Iterator[tuple[str, str]]:
    """What the station gives a network and reads of its answers: names, types with shapes."""
    yield spec.input_name, f"uint8 {[count, spec.side_px, spec.side_px, 3]}"
    rows = [count]
    if isinstance(spec, DetectorSpec):
        rows = [count, spec.max_detections]
        yield "boxes", f"float32 {[*rows, 4]}"
        yield "scores", f"float32 {rows}"
    if isinstance(spec, ClassifierSpec) or spec.names_classes:
        yield "probabilities", f"float32 {[*rows, classes]}"


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Known inputs of one network and what FP32 torch answers to them.

    Attributes:
        inputs: uint8 [N, S, S, 3] RGB, tiles or crops.
        outputs: of its graph, by name.
    """

    inputs: NDArray[np.uint8]
    outputs: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Known answers of all networks, in the order of `Manifest.networks`."""

    detectors: tuple[Known, ...]
    classifiers: tuple[Known, ...]

    @property
    def networks(self) -> tuple[Known, ...]:
        """The detectors' and then the classifiers'."""
        return (*self.detectors, *self.classifiers)

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Golden":
        """From the arrays of `golden.npz`: `tiles` and `detector_scores`, `tiles2` and `detector2_scores`."""
        return cls(tuple(_of_kind(arrays, *_DETECTORS)), tuple(_of_kind(arrays, *_CLASSIFIERS)))

    def tells_anything(self, threshold: float) -> bool:
        """Whether an engine can be wrong about each network: a box scores above the threshold, a cell has
        classes.
        """
        finds = all((one.outputs["scores"] > threshold).any() for one in self.detectors)
        names = bool(self.classifiers) or any("probabilities" in one.outputs for one in self.detectors)
        return finds and names and all(len(one.inputs) for one in self.classifiers)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As `of_arrays` takes them."""
        found: dict[str, NDArray[Any]] = {}
        for (inputs, prefix), networks in ((_DETECTORS, self.detectors), (_CLASSIFIERS, self.classifiers)):
            for number, known in zip(_numbers(), networks, strict=False):
                found[inputs + number] = known.inputs
                found |= {f"{prefix}{number}_{name}": array for name, array in known.outputs.items()}
        return found


_DETECTORS, _CLASSIFIERS = ("tiles", "detector"), ("crops", "classifier")
"""Names of the arrays of a network's inputs, and what those of its outputs begin with."""


def _numbers() -> Iterator[str]:
    """Of networks of one kind in the names of arrays: the first has none."""
    return chain([""], map(str, count(2)))


def _of_kind(arrays: dict[str, NDArray[Any]], inputs: str, prefix: str) -> Iterator[Known]:
    for number in takewhile(lambda number: inputs + number in arrays, _numbers()):
        start = f"{prefix}{number}_"
        outputs = {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}
        known = Known(arrays[inputs + number], outputs)
        _require_answers(known)
        yield known


def _require_answers(known: Known) -> None:
    """One answer to each input, and numbers: from NaN no engine strays by more than is allowed."""
    for name, values in known.outputs.items():
        if values.shape[:1] != (len(known.inputs),):
            raise ValueError(f"{name} is of shape {values.shape} for {len(known.inputs)} inputs")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} has a value that is not finite")


def embedded_bundle() -> Path:
    """The bundle that comes with the package."""
    return Path(str(files("edge.demo"))) / "bundle"


def file_sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(path: Path, expected: str) -> FileStamp:
    """Compare a file with its hash; the version of it that was compared."""
    try:
        stamp = FileStamp.of(path.stat())
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
    return stamp
