"""What an evaluation found, as JSON, Markdown, tables for a terminal and pictures."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from build_engines.markdown_text import one_line, table_line
from edge.geometry import Image
from training.bootstrap import MACRO_F1_COVERED, Interval, Intervals
from training.metric import ChallengeScore, ClassFigures, Confusion, DetectionFigures, SourceFigures
from training.mistakes import Mistake, draw_mistakes
from training.pairing import Cell, Detection
from training.reliability import CoveragePoint, Recommendation, ReliabilityBin
from training.report_charts import draw_confusion, draw_coverage, draw_reliability
from training.tally import ACCURACY, GIOU_TERM, MACRO_F1, PRECISION, RECALL, SCORE

_HOW = """\
The score pairs each true box with the predicted box of highest GIoU in its image, not one to one, and is
0.8 macro F1 + 0.2 GIoU term, where the GIoU term is the mean of (GIoU + 1) / 2. Accuracy and the figures of
classes follow that pairing. Detection is counted one to one: predictions choose in descending order of score,
each the free true box with the highest IoU of at least 0.5; so are the confusion matrix and the calibration
error (15 bins, most probable class). Boxes without a class count in detection and mean GIoU only.

Intervals are of 95 %: the 2.5 % and 97.5 % percentiles of the figure over samples in which the images of each
source are drawn anew with replacement, and Wilson's for a precision, recall or accuracy of which no sample
differs. They speak of other images of these sources, and of no other source. Images of one patient are not
independent; where there are some, the intervals are too narrow. So they are for classes with few cells.
"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured. Findings below the working threshold count in `curve` alone.

    Attributes:
        accuracy: share of boxes with a class that were given that class, by the challenge's pairing.
        covered_without_cells: classes of `covered` that no image shows, so that they are not measured.
        macro_f1_covered: macro F1 over the rest of `covered`.
        calibration_error: of the class probabilities of `n_calibration` cells found and having a class.
        annotations_sha256: of names, boxes and classes: that of another evaluation of the same annotations.
        reliability: of the same cells' probabilities.
        coverage: accuracy of the found cells that have a class, when the less sure ones are set apart.
        recommendation: the class threshold for `target_accuracy`; None where none reaches it.
        mistakes: wrong classes and then false detections, most confident first, and then missed cells.
        cells, false_detections: of what all is made, at the working threshold; not in the report.
    """

    n_images: int
    n_boxes: int
    annotations_sha256: str
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
    reliability: tuple[ReliabilityBin, ...]
    coverage: tuple[CoveragePoint, ...]
    target_accuracy: float
    recommendation: Recommendation | None
    intervals: Intervals
    classes: tuple[ClassFigures, ...]
    sources: tuple[SourceFigures, ...]
    confusion: Confusion
    mistakes: tuple[Mistake, ...]
    cells: tuple[Cell, ...]
    false_detections: tuple[Detection, ...]


_WITHIN = "95% interval"
_MOST_CONFUSIONS = 12


class _Sheet(NamedTuple):
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write(
    evaluation: Evaluation, about: Mapping[str, str], out_dir: Path, read_image: Callable[[str], Image | None]
) -> None:
    """Save report.json, report.md and the pictures of report.md into an existing folder.

    Args:
        about: what was measured and with what, in words, for the head of the report.
        read_image: the image of a `Mistake.image`, uint8 [H, W, 3] RGB, or None for one that was rejected.
    """
    text = json.dumps(to_json(evaluation, about), indent=2, ensure_ascii=False, allow_nan=False)
    (out_dir / "report.json").write_text(text + "\n", encoding="utf-8")
    (out_dir / "report.md").write_text(to_markdown(evaluation, about), encoding="utf-8")
    draw_confusion(evaluation.confusion, out_dir / "confusion.png")
    draw_reliability({"as evaluated": evaluation.reliability}, out_dir / "reliability.png")
    draw_coverage(
        evaluation.coverage, evaluation.target_accuracy, evaluation.recommendation, out_dir / "coverage.png"
    )
    draw_mistakes(evaluation.mistakes, read_image, out_dir / "mistakes.png")


def to_json(evaluation: Evaluation, about: Mapping[str, str]) -> dict[str, Any]:
    """Plain values under the names of `Evaluation`'s attributes; what is undefined (nan) becomes None."""
    figures = plain(dataclasses.replace(evaluation, cells=(), false_detections=()))
    for name in ("cells", "false_detections"):
        del figures[name]
    return {"about": dict(about), **figures}


def plain(value: Any) -> Any:
    """For JSON: dataclasses become mappings, undefined numbers (nan) None, and all others are rounded."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def to_markdown(evaluation: Evaluation, about: Mapping[str, str]) -> str:
    """The report for people."""
    blocks = [f"# Evaluation of {about.get('bundle', 'a bundle')}"]
    blocks.append("\n".join(f"- {key}: {one_line(value)}" for key, value in about.items()))
    for sheet in (*_sheets(evaluation), _curve_sheet(evaluation), _confusions_sheet(evaluation.confusion)):
        lines = [
            f"## {sheet.title}\n",
            table_line(sheet.header),
            table_line(["---"] + ["---:"] * (len(sheet.header) - 1)),
        ]
        blocks.append("\n".join([*lines, *(table_line(row) for row in sheet.rows)]))
    pictures = (
        ("Confusion matrix", "confusion.png"),
        ("Reliability of the classes", "reliability.png"),
        ("Accuracy against coverage", "coverage.png"),
        ("Worst mistakes", "mistakes.png"),
    )
    blocks += [f"![{title}]({file})" for title, file in pictures]
    blocks.append(f"## How it is measured\n\n{_HOW}")
    return "\n\n".join(blocks)


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
            table.add_row(*map(escape, row))
        console.print(table)


def _sheets(evaluation: Evaluation) -> list[_Sheet]:
    score, detection = evaluation.score, evaluation.detection
    within = evaluation.intervals
    covered = [label for label in evaluation.covered if label not in evaluation.covered_without_cells]
    absent = ", ".join(evaluation.covered_without_cells)
    given = (
        ("Score (0.8 F1 + 0.2 GIoU term)", score.score, SCORE, f"{score.n_boxes} cells with a class"),
        ("Macro F1", score.macro_f1, MACRO_F1, f"{len(evaluation.classes)} classes, true or predicted"),
        (
            "GIoU term",
            score.giou_term,
            GIOU_TERM,
            f"{score.n_without_prediction} cells in images without findings",
        ),
        (
            "Macro F1 over covered classes",
            evaluation.macro_f1_covered,
            MACRO_F1_COVERED,
            f"{len(covered)} classes" + (f"; not measured, no cells: {absent}" if absent else ""),
        ),
        ("Accuracy", evaluation.accuracy, ACCURACY, f"{score.n_boxes} cells with a class"),
        (
            "Detection precision",
            detection.precision,
            PRECISION,
            f"{detection.n_matched} of {detection.n_predicted} findings, threshold {detection.threshold:g}",
        ),
        ("Detection recall", detection.recall, RECALL, f"{detection.n_matched} of {detection.n_true} cells"),
    )
    headline = [
        (what, _number(value), interval_text(within.measures.get(name)), over)
        for what, value, name, over in given
    ]
    headline.append(
        (
            "Calibration error",
            _number(evaluation.calibration_error),
            "",
            f"{evaluation.n_calibration} cells, lower is better",
        )
    )
    headline.append(_recommended(evaluation))
    classes = [
        (
            *(one.label, _number(one.precision), _number(one.recall), _number(one.f1)),
            *(interval_text(within.classes.get(one.label)), str(one.support)),
        )
        for one in evaluation.classes
    ]
    sources, source_intervals = [], []
    for one in evaluation.sources:
        known = within.sources.get(one.source, {})
        sources.append(
            (
                one.source,
                *(str(count) for count in (one.n_images, one.n_boxes, one.n_labelled)),
                *map(_number, (one.precision, one.recall, one.mean_giou, one.accuracy, one.macro_f1)),
            )
        )
        names = (PRECISION, RECALL, ACCURACY, MACRO_F1)
        source_intervals.append((one.source, *(interval_text(known.get(name)) for name in names)))
    columns = ("images", "cells", "with class", "precision", "recall", "mean GIoU", "accuracy", "macro F1")
    return [
        _Sheet(f"All {evaluation.n_images} images", ("Measure", "Value", _WITHIN, "Over"), headline),
        _Sheet("Classes", ("Class", "precision", "recall", "F1", f"F1, {_WITHIN}", "cells"), classes),
        _Sheet("Sources, with precision and recall of detection", ("Source", *columns), sources),
        _Sheet(
            f"Sources, {_WITHIN}", ("Source", "precision", "recall", "accuracy", "macro F1"), source_intervals
        ),
    ]


def _recommended(evaluation: Evaluation) -> tuple[str, str, str, str]:
    what, found = f"Class threshold for accuracy {evaluation.target_accuracy:g}", evaluation.recommendation
    if found is None:
        return what, "-", "", "no threshold reaches it on these cells"
    over = (
        f"keeps {found.n_kept} of {evaluation.n_calibration} found cells, {found.accuracy:.1%} of them right"
    )
    return what, f"{found.threshold:.4f}", "", over


def interval_text(interval: Interval | None) -> str:
    """Both ends, or "-"."""
    return "-" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _curve_sheet(evaluation: Evaluation) -> _Sheet:
    rows = [
        (f"{one.threshold:.2f}", _number(one.precision), _number(one.recall), str(one.n_predicted))
        for one in evaluation.curve
    ]
    return _Sheet("Detection by threshold", ("Threshold", "precision", "recall", "findings"), rows)


def _confusions_sheet(confusion: Confusion) -> _Sheet:
    pairs = [
        (count, true, said)
        for true, row in zip(confusion.labels, confusion.counts, strict=False)
        for said, count in zip(confusion.labels, row, strict=False)
        if count and true != said
    ]
    rows = [
        (f"{true} → {said}", str(count)) for count, true, said in sorted(pairs, key=lambda pair: -pair[0])
    ]
    return _Sheet("Most frequent confusions", ("True → predicted", "cells"), rows[:_MOST_CONFUSIONS])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
