"""What an evaluation found, as JSON, Markdown, tables for a terminal and two pictures."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from edge.geometry import Image, crop, crop_region
from training.annotations import LEUKOCYTE_WITHOUT_CLASS
from training.metric import ChallengeScore, ClassFigures, Confusion, DetectionFigures, SourceFigures

WRONG_CLASS, MISSED, FALSE_DETECTION = "wrong class", "missed", "false detection"

_COLOURS = {WRONG_CLASS: "tab:orange", MISSED: "tab:red", FALSE_DETECTION: "tab:purple"}
_COLUMNS, _CROP_SIZE, _CROP_MARGIN = 8, 160, 0.4

_HOW = """\
The score pairs each true box with the predicted box of highest GIoU in its image, not one to one, and is
0.8 macro F1 + 0.2 GIoU term, where the GIoU term is the mean of (GIoU + 1) / 2. Accuracy and the figures of
classes follow that pairing. Detection is counted one to one: predictions choose in descending order of score,
each the free true box with the highest IoU of at least 0.5; so are the confusion matrix and the calibration
error (15 bins, most probable class). Boxes without a class count in detection and mean GIoU only.
"""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One cell that was read wrongly.

    Attributes:
        kind: WRONG_CLASS, MISSED or FALSE_DETECTION.
        box_xyxy: the true box, or the predicted one of a false detection; pixels of the image.
        truth: None for a false detection and for a missed cell without a class.
        confidence: probability of the wrong class, or detection score of a false detection.
    """

    kind: str
    image: str
    source: str
    box_xyxy: tuple[float, ...]
    truth: str | None
    predicted: str | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured. Findings below the working threshold count in `curve` alone.

    Attributes:
        accuracy: share of boxes with a class that were given that class, by the challenge's pairing.
        covered_without_cells: classes of `covered` that no image shows, so that they are not measured.
        macro_f1_covered: macro F1 over the rest of `covered`.
        calibration_error: of the class probabilities of `n_calibration` cells found and having a class.
        mistakes: wrong classes and then false detections, most confident first, and then missed cells.
    """

    n_images: int
    n_boxes: int
    working_threshold: float
    score: ChallengeScore
    accuracy: float
    covered: tuple[str, ...]
    covered_without_cells: tuple[str, ...]
    macro_f1_covered: float
    detection: DetectionFigures
    curve: tuple[DetectionFigures, ...]
    calibration_error: float
    n_calibration: int
    classes: tuple[ClassFigures, ...]
    sources: tuple[SourceFigures, ...]
    confusion: Confusion
    mistakes: tuple[Mistake, ...]


class _Sheet(NamedTuple):
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write(
    evaluation: Evaluation, about: Mapping[str, str], out_dir: Path, read_image: Callable[[str], Image | None]
) -> None:
    """Save report.json, report.md, confusion.png and mistakes.png into an existing folder.

    Args:
        about: what was measured and with what, in words, for the head of the report.
        read_image: the image of a `Mistake.image`, uint8 [H, W, 3] RGB, or None for one that was rejected.
    """
    text = json.dumps(to_json(evaluation, about), indent=2, ensure_ascii=False, allow_nan=False)
    (out_dir / "report.json").write_text(text + "\n", encoding="utf-8")
    (out_dir / "report.md").write_text(to_markdown(evaluation, about), encoding="utf-8")
    draw_confusion(evaluation.confusion, out_dir / "confusion.png")
    draw_mistakes(evaluation.mistakes, read_image, out_dir / "mistakes.png")


def to_json(evaluation: Evaluation, about: Mapping[str, str]) -> dict[str, Any]:
    """Plain values under the names of `Evaluation`'s attributes; what is undefined (nan) becomes None."""
    return {"about": dict(about), **_plain(dataclasses.asdict(evaluation))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def to_markdown(evaluation: Evaluation, about: Mapping[str, str]) -> str:
    """The report for people."""
    blocks = [f"# Evaluation of {about.get('bundle', 'a bundle')}"]
    blocks.append("\n".join(f"- {key}: {value}" for key, value in about.items()))
    for sheet in (*_sheets(evaluation), _curve_sheet(evaluation), _confusions_sheet(evaluation.confusion)):
        lines = [
            f"## {sheet.title}\n",
            _line(sheet.header),
            _line(["---"] + ["---:"] * (len(sheet.header) - 1)),
        ]
        blocks.append("\n".join([*lines, *(_line(row) for row in sheet.rows)]))
    blocks.append("![Confusion matrix](confusion.png)\n\n![Worst mistakes](mistakes.png)")
    blocks.append(f"## How it is measured\n\n{_HOW}")
    return "\n\n".join(blocks)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def print_tables(evaluation: Evaluation, about: Mapping[str, str], console: Console) -> None:
    """The figures on a terminal."""
    console.print("\n".join(f"{key}: {value}" for key, value in about.items()), markup=False)
    for sheet in _sheets(evaluation):
        table = Table(
            title=sheet.title, title_justify="left", box=SIMPLE, collapse_padding=True, pad_edge=False
        )
        for place, name in enumerate(sheet.header):
            stacked = name.replace(" ", "\n")  # a column as narrow as its longest word, to fit 80 characters
            table.add_column(stacked, justify="right" if place else "left", no_wrap=not place)
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def _sheets(evaluation: Evaluation) -> list[_Sheet]:
    score, detection = evaluation.score, evaluation.detection
    covered = [label for label in evaluation.covered if label not in evaluation.covered_without_cells]
    absent = ", ".join(evaluation.covered_without_cells)
    headline = [
        ("Score (0.8 F1 + 0.2 GIoU term)", _number(score.score), f"{score.n_boxes} cells with a class"),
        ("Macro F1", _number(score.macro_f1), f"{len(evaluation.classes)} classes, true or predicted"),
        (
            "GIoU term",
            _number(score.giou_term),
            f"{score.n_without_prediction} cells in images without findings",
        ),
        (
            "Macro F1 over covered classes",
            _number(evaluation.macro_f1_covered),
            f"{len(covered)} classes" + (f"; not measured, no cells: {absent}" if absent else ""),
        ),
        ("Accuracy", _number(evaluation.accuracy), f"{score.n_boxes} cells with a class"),
        (
            "Detection precision",
            _number(detection.precision),
            f"{detection.n_matched} of {detection.n_predicted} findings, threshold {detection.threshold:g}",
        ),
        ("Detection recall", _number(detection.recall), f"{detection.n_matched} of {detection.n_true} cells"),
        (
            "Calibration error",
            _number(evaluation.calibration_error),
            f"{evaluation.n_calibration} cells, lower is better",
        ),
    ]
    classes = [
        (one.label, _number(one.precision), _number(one.recall), _number(one.f1), str(one.support))
        for one in evaluation.classes
    ]
    sources = [
        (
            one.source,
            *(str(count) for count in (one.n_images, one.n_boxes, one.n_labelled)),
            *map(_number, (one.precision, one.recall, one.mean_giou, one.accuracy, one.macro_f1)),
        )
        for one in evaluation.sources
    ]
    columns = ("images", "cells", "with class", "precision", "recall", "mean GIoU", "accuracy", "macro F1")
    return [
        _Sheet(f"All {evaluation.n_images} images", ("Measure", "Value", "Over"), headline),
        _Sheet("Classes", ("Class", "precision", "recall", "F1", "cells"), classes),
        _Sheet("Sources, with precision and recall of detection", ("Source", *columns), sources),
    ]


def _curve_sheet(evaluation: Evaluation) -> _Sheet:
    rows = [
        (f"{one.threshold:.2f}", _number(one.precision), _number(one.recall), str(one.n_predicted))
        for one in evaluation.curve
    ]
    return _Sheet("Detection by threshold", ("Threshold", "precision", "recall", "findings"), rows)


def _confusions_sheet(confusion: Confusion, n_most: int = 12) -> _Sheet:
    pairs = [
        (count, true, said)
        for true, row in zip(confusion.labels, confusion.counts, strict=False)
        for said, count in zip(confusion.labels, row, strict=False)
        if count and true != said
    ]
    rows = [
        (f"{true} → {said}", str(count)) for count, true, said in sorted(pairs, key=lambda pair: -pair[0])
    ]
    return _Sheet("Most frequent confusions", ("True → predicted", "cells"), rows[:n_most])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def draw_confusion(confusion: Confusion, path: Path) -> None:
    """A PNG of the counts, rows the truth, coloured by their share of the row."""
    counts = np.array(confusion.counts)
    side_in = 3.0 + 0.45 * len(counts)
    figure = Figure(figsize=(side_in, side_in), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(counts))
    axes.set_xticks(places, [*confusion.labels, "missed"], rotation=90)
    axes.set_yticks(places, [*confusion.labels, "no cell there"])
    axes.set(
        xlabel="predicted", ylabel="true", title="Cells matched one to one, coloured by share of the row"
    )
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    for border in (axes.axhline, axes.axvline):
        border(len(counts) - 1.5, color="grey", linewidth=1)
    figure.savefig(path, dpi=110)


def draw_mistakes(
    mistakes: Sequence[Mistake], read_image: Callable[[str], Image | None], path: Path, per_kind: int = 24
) -> None:
    """A PNG of the first mistakes of each kind, each cell with its surroundings and its box."""
    groups = [list(islice((one for one in mistakes if one.kind == kind), per_kind)) for kind in _COLOURS]
    rows = [group[at : at + _COLUMNS] for group in groups for at in range(0, len(group), _COLUMNS)]
    figure = Figure(figsize=(1.6 * _COLUMNS, 1.95 * max(len(rows), 1)), layout="constrained")
    grid = figure.subplots(max(len(rows), 1), _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for mistake_row, axes_row in zip(rows, grid, strict=False):
        for mistake, axes in zip(mistake_row, axes_row, strict=False):
            _draw_mistake(mistake, read_image(mistake.image), axes)
    if not rows:
        figure.suptitle("No mistakes")
    figure.savefig(path, dpi=110)


def _draw_mistake(mistake: Mistake, rgb: Image | None, axes: Axes) -> None:
    colour = _COLOURS[mistake.kind]
    if rgb is not None:
        box = np.array(mistake.box_xyxy, np.float32)
        axes.imshow(crop(rgb, box, _CROP_SIZE, margin_fraction=_CROP_MARGIN))
        left, top, right, _ = crop_region(box, 0.0, _CROP_MARGIN, "square")
        scale = _CROP_SIZE / (right - left)
        x1, y1, x2, y2 = (box - np.array([left, top, left, top], np.float32)) * scale
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5))
    truth = mistake.truth or LEUKOCYTE_WITHOUT_CLASS
    title = {
        WRONG_CLASS: f"{truth} → {mistake.predicted} {mistake.confidence or 0:.2f}",
        MISSED: f"{truth}, missed",
        FALSE_DETECTION: f"no cell → {mistake.predicted} {mistake.confidence or 0:.2f}",
    }[mistake.kind]
    axes.set_title(f"{title}\n{mistake.image}", fontsize=7, color=colour)
