"""What a bundle's graphs are called on a server, what they take and give there, and what it tells of them.

`build_engines/triton_repository.py` writes it and `edge/backends/kserve.py` asks for it: no package of either
is needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.errors import BackendError
from edge.manifest import GraphFiles

DETECTOR, CLASSIFIER = "detector", "classifier"

# Parameters of a model by which a server tells what it serves.
BUNDLE_ID = "cytologia_bundle"
PRECISION = "cytologia_precision"
MODEL_SHA256 = "cytologia_sha256"
BATCHES = "cytologia_batches"
"""Batch sizes in ascending order, where each has a model of its own; see `model_name`."""

DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
"""The protocol's names of NumPy's types. Triton's own files say TYPE_UINT8 and so on."""

SERVE = "serve what `python build_engines/build.py --triton DIR` writes of this bundle"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output.

    Attributes:
        datatype: the protocol's name of it.
        shape: of one tile or crop, without the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A graph of a bundle as a server has it."""

    name: str
    files: GraphFiles
    input: Tensor
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a server that was compared with its graph.

    Attributes:
        largest: of its batches; None where the server tells of no limit.
        is_static: it takes no other batch than the largest.
    """

    name: str
    largest: int | None
    is_static: bool


def served_graphs(bundle: Bundle) -> tuple[ServedGraph, ...]:
    """The bundle's graphs. Their inputs and outputs are those of its known answers.

    Raises:
        BackendError: there are several detectors or classifiers.
        BundleError: the known answers cannot be read.
    """
    manifest = bundle.manifest
    if len(manifest.detectors) > 1 or len(manifest.classifiers) > 1:
        raise BackendError(
            f"A server serves one detector and at most one classifier, and {bundle.path} has "
            f"{len(manifest.detectors)} and {len(manifest.classifiers)}; run this bundle on an engine of the "
            "station's own."
        )
    names = (DETECTOR, CLASSIFIER)[: len(manifest.networks)]
    return tuple(
        ServedGraph(name, spec.graph, _tensors({spec.input_name: known.inputs})[0], _tensors(known.outputs))
        for name, spec, known in zip(names, manifest.networks, bundle.golden().networks, strict=True)
    )


def model_name(graph: str, batch: int, is_smallest: bool) -> str:
    """Name of the model of a static batch: the graph's own for the smallest, then "detector-b4" and so on."""
    return graph if is_smallest else f"{graph}-b{batch}"


def parameters_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a model: in its metadata, or as Triton has them in its configuration."""
    config = answer["config"].get("parameters") or {}
    found: dict[str, Any] = {**(answer.get("parameters") or {}), **config}
    return {
        key: str(value.get("string_value", "") if isinstance(value, Mapping) else value)
        for key, value in found.items()
    }


def compared(answer: Mapping[str, Any], graph: ServedGraph, url: str) -> Model:
    """Compare names, types and shapes of a model with its graph.

    Args:
        answer: the model's metadata, with its configuration under "config".
        graph: what it must be.
        url: of the server, for the error.

    Raises:
        BackendError: it is something else.
    """
    takes, gives = _told(answer["inputs"]), _told(answer["outputs"])
    batch = takes[0][2][0] if takes and takes[0][2] else -1
    gives = [one for tensor in graph.outputs for one in gives if one[0] == tensor.name]
    for verb, ours, theirs in (("takes", (graph.input,), takes), ("gives", graph.outputs, gives)):
        expected = [(tensor.name, tensor.datatype, [batch, *tensor.shape]) for tensor in ours]
        if expected != theirs:
            raise BackendError(
                f"The model {answer['name']!r} of the server at {url} {verb} {_words(theirs)}, but the "
                f"bundle's {verb} {_words(expected)}; {SERVE}."
            )
    if batch > 0:
        return Model(answer["name"], batch, True)
    return Model(answer["name"], int(answer["config"].get("max_batch_size", 0)) or None, False)


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, DATATYPES[array.dtype.name], array.shape[1:]) for name, array in arrays.items())


def _told(tensors: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[int]]]:
    return [(one["name"], one["datatype"], [int(size) for size in one["shape"]]) for one in tensors]


def _words(tensors: Sequence[tuple[str, str, list[int]]]) -> str:
    words = (
        f"{name} {datatype} [{', '.join(str(size) if size > 0 else 'any' for size in shape)}]"
        for name, datatype, shape in tensors
    )
    return ", ".join(words) or "nothing of that"
