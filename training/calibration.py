"""The temperature and the class threshold of a bundle, from cells whose class is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.cells import Finding, cell_class
from edge.manifest import Manifest
from edge.matching import match_one_to_one
from edge.pipeline import tempered
from training import metric
from training.annotations import AnnotatedImage
from training.errors import AnnotationError
from training.reliability import (
    CoveragePoint,
    Recommendation,
    ReliabilityBin,
    coverage_curve,
    cross_fitted,
    fit_temperature,
    negative_log_likelihood,
    recommend,
    reliability_bins,
)

FEWEST_CELLS = 50
"""With fewer, a temperature is chance."""

_OF_PROBABILITIES = ("calibration_error", "n_calibration", "recommendation", "target_accuracy")
"""Figures of an earlier evaluation that another temperature makes untrue."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownCells:
    """Cells that were found and whose class is known.

    Attributes:
        images: n names.
        probabilities: float32 [n, C] of temperature 1, in the manifest's order of classes.
        truth: int [n], column of the true class, -1 for a class that the bundle does not know.
    """

    images: tuple[str, ...]
    probabilities: NDArray[np.float32]
    truth: NDArray[np.intp]

    def outcome(self, probabilities: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probability of the predicted class, and whether it is the true one; [n] each."""
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == self.truth


@dataclass(frozen=True, slots=True)
class Quality:
    """How far probabilities are from what they say.

    Attributes:
        negative_log_likelihood: over cells of classes that the bundle knows.
        calibration_error: expected calibration error, over all cells.
    """

    negative_log_likelihood: float
    calibration_error: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted, and what it brings.

    Attributes:
        n_unknown: cells of classes that the bundle does not know: always wrong, and no part of the fit.
        before: at temperature 1.
        after: at the temperature, on the cells that it was fitted on.
        after_on_others: at temperatures fitted on other images (5 parts).
        bins_before, bins_after: the reliability diagram at temperature 1 and at the temperature.
        recommendation: None where no threshold reaches the target accuracy.
    """

    n_cells: int
    n_unknown: int
    temperature: float
    before: Quality
    after: Quality
    after_on_others: Quality
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]
    coverage: tuple[CoveragePoint, ...]
    target_accuracy: float
    recommendation: Recommendation | None


def uncalibrated(bundle: Bundle) -> Bundle:
    """The same bundle with temperature 1, so that a bundle can be calibrated again."""
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"temperature": 1.0}))


def known_cells(
    images: Sequence[AnnotatedImage],
    predictions: Mapping[str, Sequence[Finding]],
    classes: Sequence[str],
) -> KnownCells:
    """The cells with a class that were found, matched one to one.

    Args:
        predictions: findings by `AnnotatedImage.name`.
        classes: class codes in the order of the columns.

    Raises:
        AnnotationError: they are too few, or all or none are named rightly.
    """
    columns = {cell_class(code).code: place for place, code in enumerate(classes)}
    names, rows, truth = [], [], []
    for image in images:
        findings = predictions.get(image.name, ())
        boxes = np.array([one.box_xyxy for one in findings], np.float32).reshape(-1, 4)
        scores = [one.detection_score for one in findings]
        matches = match_one_to_one(image.boxes_xyxy, boxes, scores)
        for finding, match in zip(findings, matches, strict=True):
            label = image.labels[match] if match >= 0 else None
            if label is not None:
                names.append(image.name)
                rows.append([finding.probabilities[code] for code in classes])
                truth.append(columns.get(label, -1))
    table = np.array(rows, np.float32).reshape(-1, len(classes))
    cells = KnownCells(tuple(names), table, np.array(truth, np.intp))
    n_right = int(cells.outcome(table)[1].sum())
    n_known = int((cells.truth >= 0).sum())
    if n_known < FEWEST_CELLS:
        raise AnnotationError(
            f"{n_known} cells of classes that the bundle knows were found, too few to calibrate it by "
            f"({FEWEST_CELLS} needed); give more annotated images."
        )
    if n_right in (0, n_known):
        raise AnnotationError(
            f"Of {n_known} cells {n_right} were named rightly, so that nothing tells sure from unsure; "
            "give more images, none of them trained on."
        )
    return cells


def calibrate(cells: KnownCells, thresholds: Sequence[float], target_accuracy: float) -> Calibration:
    """Fit the temperature, and choose the class threshold at it.

    Args:
        thresholds: of the curve of accuracy against coverage.
        target_accuracy: wanted of the cells that the class threshold keeps, 0 to 1.
    """
    known = cells.truth >= 0
    raw, truth = cells.probabilities, cells.truth
    temperature = fit_temperature(raw[known], truth[known])
    after = tempered(raw, temperature)
    # A cell of an unknown class has no place in a likelihood; it is judged like the others.
    of_others = after.copy()
    names = [name for name, one in zip(cells.images, known, strict=True) if one]
    of_others[known] = cross_fitted(raw[known], truth[known], names)
    confidences, correct = cells.outcome(after)
    return Calibration(
        n_cells=len(truth),
        n_unknown=int((~known).sum()),
        temperature=temperature,
        before=_quality(cells, raw),
        after=_quality(cells, after),
        after_on_others=_quality(cells, of_others),
        bins_before=reliability_bins(*cells.outcome(raw)),
        bins_after=reliability_bins(confidences, correct),
        coverage=coverage_curve(confidences, correct, thresholds),
        target_accuracy=target_accuracy,
        recommendation=recommend(confidences, correct, target_accuracy),
    )


def _quality(cells: KnownCells, probabilities: NDArray[np.float32]) -> Quality:
    known = cells.truth >= 0
    return Quality(
        negative_log_likelihood(probabilities[known], cells.truth[known]),
        metric.calibration_error(*cells.outcome(probabilities)),
    )


def with_calibration(manifest: Manifest, found: Calibration, images_are: str) -> Manifest:
    """The manifest with temperature, class threshold and where they come from.

    Args:
        images_are: what it was calibrated on, in words.
    """
    chosen = found.recommendation
    qualities = {
        "before": found.before,
        "after": found.after,
        "after (fitted on other images)": found.after_on_others,
    }
    if chosen is None:
        kept = f"no threshold reaches the accuracy {found.target_accuracy:g}"
    else:
        kept = (
            f"{chosen.threshold:.4f} keeps {chosen.n_kept} of {found.n_cells} cells, {chosen.accuracy:.1%} "
            f"of them right ({found.target_accuracy:.1%} wanted)"
        )
    facts = {
        "images": images_are,
        "cells": found.n_cells,
        "temperature": round(found.temperature, 6),
        "negative log likelihood": {
            when: round(one.negative_log_likelihood, 6) for when, one in qualities.items()
        },
        "calibration error": {when: round(one.calibration_error, 6) for when, one in qualities.items()},
        "class threshold": kept,
    }
    accuracy = {
        name: {key: value for key, value in figures.items() if key not in _OF_PROBABILITIES}
        for name, figures in manifest.accuracy.items()
    }
    thresholds = manifest.thresholds.model_copy(
        update={"classification": None if chosen is None else chosen.threshold}
    )
    return manifest.model_copy(
        update={
            "temperature": round(found.temperature, 6),
            "thresholds": thresholds,
            "provenance": {**manifest.provenance, "calibration": facts},
            "accuracy": accuracy,
        }
    )
