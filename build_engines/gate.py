"""The accuracy gate: an engine answers known images as FP32 torch does, or it is not used."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from build_engines.graphs import ClassifierGraph, DetectorGraph
from edge.backends.base import BACKEND_NAMES, find_backend
from edge.bundle import ClassifierSpec, DetectorSpec, GateResult, Golden
from edge.geometry import crop, letterbox
from edge.selftest import TOLERANCES, Outputs, deviation_of

Image = NDArray[np.uint8]


def reference_answers(
    detector: DetectorGraph,
    classifier: ClassifierGraph | None,
    detector_spec: DetectorSpec,
    classifier_spec: ClassifierSpec | None,
    images: Iterable[Image],
    threshold: float,
    most_crops: int,
) -> Golden:
    """Torch's own answers to images, each uint8 [H, W, 3] RGB, as tiles and as crops of what was found."""
    tiles, crops = [], []
    answers: list[Outputs] = []
    for rgb in images:
        tile, placement = letterbox(rgb, detector_spec.tile_size, detector_spec.anchor, detector_spec.pad)
        tiles.append(tile)
        answers.append(_run(detector, detector.output_names, tile[None]))
        found = answers[-1]["scores"][0] > threshold
        if classifier_spec:
            crops += [
                crop(rgb, box, classifier_spec.crop_size, classifier_spec.margin_px,
                     classifier_spec.margin_fraction, classifier_spec.shape)
                for box in placement.to_image(answers[-1]["boxes"][0][found])
            ]  # fmt: skip
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    if classifier is None or not crops:
        return Golden(np.stack(tiles), outputs, None, {})
    chosen = np.stack(crops[:most_crops])
    return Golden(np.stack(tiles), outputs, chosen, _run(classifier, classifier.output_names, chosen))


def _run(graph: torch.nn.Module, output_names: Sequence[str], batch: Image) -> Outputs:
    with torch.inference_mode():
        answers = graph(torch.from_numpy(batch))
    answers = (answers,) if isinstance(answers, Tensor) else answers
    return {name: answer.numpy() for name, answer in zip(output_names, answers, strict=True)}


def gate(
    folder: Path,
    detector: DetectorSpec,
    classifier: ClassifierSpec | None,
    reference: Golden,
    threshold: float,
    images: str,
) -> list[GateResult]:
    """Try every backend and precision of this machine on a bundle's graphs.

    Args:
        folder: of the graphs' files.
        reference: torch's answers.
        threshold: of a finding.
        images: where the reference's images come from, in words.
    """
    results = []
    for name in BACKEND_NAMES:
        backend = find_backend(name)
        for precision in backend.precisions():
            detector_session = backend.open(folder, detector.graph, detector.tile_size, precision)
            classifier_session = (
                None
                if classifier is None
                else backend.open(folder, classifier.graph, classifier.crop_size, precision)
            )
            tolerance = TOLERANCES[precision]
            found = deviation_of(detector_session, classifier_session, reference, threshold, tolerance)
            results.append(
                GateResult(
                    backend=name,
                    precision=precision,
                    passed=tolerance.allows(found),
                    images=images,
                    box_px=min(found.box_px, 1e9),
                    score=found.score,
                    probability=found.probability,
                )
            )
            detector_session.close()
            if classifier_session is not None:
                classifier_session.close()
    return results
