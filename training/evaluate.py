"""How right a bundle is on annotated images, measured end to end from the files.

`evaluate` is pure: annotations and findings in, figures out. The command below it runs the station's own
pipeline over the files and writes the report.
"""

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from edge.bundle import Bundle
from edge.cells import CELL_CLASSES, Finding, cell_class
from edge.errors import EdgeError, ImageRejected
from edge.geometry import Boxes
from edge.pipeline import Pipeline, open_pipeline
from training import metric, report
from training.annotations import (
    AnnotatedImage,
    AnnotationError,
    read_annotations,
    read_beside,
    read_pixels,
)
from training.report import FALSE_DETECTION, MISSED, WRONG_CLASS, Evaluation, Mistake

COVERED = ("BA", "EO", "Er", "LY", "M", "MM", "MO", "PM", "PNN", "Thromb")
"""The classes with enough openly available images to train on."""

CURVE_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True, slots=True)
class _Cell:
    """A true box with what was said of it: the challenge's pairing, and the one-to-one match."""

    image: AnnotatedImage
    box_xyxy: tuple[float, ...]
    truth: str | None
    nearest: str | None
    giou: float
    match: Finding | None


@dataclass(frozen=True, slots=True)
class _Detection:
    image: AnnotatedImage
    finding: Finding
    matched: bool


def evaluate(
    images: Sequence[AnnotatedImage],
    predictions: Mapping[str, Sequence[Finding]],
    *,
    working_threshold: float,
    covered: Sequence[str] = COVERED,
) -> Evaluation:
    """Compare findings with annotations.

    Args:
        images: the truth. Boxes without a class count in detection and in no figure of classes or score.
        predictions: findings by `AnnotatedImage.name`, also those below the working threshold, which the
            detection curve needs; an image without an entry has none.
        working_threshold: detection score from which a finding counts in everything but the curve.
        covered: class codes of `macro_f1_covered`.
    """
    cells: list[_Cell] = []
    detections: list[_Detection] = []
    for image in images:
        of_image = _pair(image, predictions.get(image.name, ()), working_threshold)
        cells += of_image[0]
        detections += of_image[1]
    working = [one for one in detections if one.finding.detection_score >= working_threshold]
    labelled = [cell for cell in cells if cell.truth is not None]
    truth, nearest = _labels(labelled)
    pairs = [(cell.truth, cell.match.label if cell.match else None) for cell in labelled]
    pairs += [(None, one.finding.label) for one in working if not one.matched]
    found = [(cell.match, cell.truth) for cell in labelled if cell.match is not None]
    return Evaluation(
        n_images=len(images),
        n_boxes=len(cells),
        working_threshold=working_threshold,
        score=metric.challenge_score(truth, nearest, [cell.giou for cell in labelled]),
        accuracy=_accuracy(labelled),
        covered=tuple(covered),
        covered_without_cells=tuple(label for label in covered if label not in set(truth)),
        macro_f1_covered=metric.macro_f1(truth, nearest, covered),
        detection=_curve(cells, detections, [working_threshold])[0],
        curve=_curve(cells, detections, CURVE_THRESHOLDS),
        calibration_error=metric.calibration_error(
            [match.class_score for match, _ in found], [match.label == label for match, label in found]
        ),
        n_calibration=len(found),
        classes=metric.class_figures(truth, nearest, _in_lineage_order([*truth, *nearest])),
        sources=tuple(
            _source_figures(source, images, cells, working)
            for source in sorted({image.source for image in images})
        ),
        confusion=metric.confusion(pairs, _in_lineage_order(label for pair in pairs for label in pair)),
        mistakes=_mistakes(cells, working),
    )


def _pair(
    image: AnnotatedImage, findings: Sequence[Finding], working_threshold: float
) -> tuple[list[_Cell], list[_Detection]]:
    findings = sorted(findings, key=lambda finding: -finding.detection_score)
    boxes: Boxes = np.array([finding.box_xyxy for finding in findings], np.float32).reshape(-1, 4)
    matches = metric.match_one_to_one(image.boxes_xyxy, boxes, [one.detection_score for one in findings])
    n_working = sum(finding.detection_score >= working_threshold for finding in findings)
    nearest, giou = metric.best_by_giou(image.boxes_xyxy, boxes[:n_working])
    match_of = {int(cell): findings[place] for place, cell in enumerate(matches[:n_working]) if cell >= 0}
    cells = [
        _Cell(
            image=image,
            box_xyxy=tuple(map(float, image.boxes_xyxy[place])),
            truth=truth,
            nearest=findings[nearest[place]].label if nearest[place] >= 0 else None,
            giou=float(giou[place]),
            match=match_of.get(place),
        )
        for place, truth in enumerate(image.labels)
    ]
    pairs = zip(findings, matches, strict=True)
    return cells, [_Detection(image, finding, bool(match >= 0)) for finding, match in pairs]


def _labels(labelled: Iterable[_Cell]) -> tuple[list[str], list[str | None]]:
    pairs = [(cell.truth, cell.nearest) for cell in labelled if cell.truth is not None]
    return [truth for truth, _ in pairs], [nearest for _, nearest in pairs]


def _in_lineage_order(labels: Iterable[str | None]) -> list[str]:
    """The distinct labels in the order of a differential count, foreign ones last."""
    codes = {known.code: place for place, known in enumerate(CELL_CLASSES)}
    distinct = {label for label in labels if label is not None}
    return sorted(distinct, key=lambda label: (codes.get(label, len(codes)), label))


def _accuracy(labelled: Sequence[_Cell]) -> float:
    return float(np.mean([cell.nearest == cell.truth for cell in labelled])) if labelled else float("nan")


def _curve(
    cells: Sequence[_Cell], detections: Sequence[_Detection], thresholds: Sequence[float]
) -> tuple[metric.DetectionFigures, ...]:
    scores = [one.finding.detection_score for one in detections]
    return metric.detection_curve(scores, [one.matched for one in detections], len(cells), thresholds)


def _source_figures(
    source: str, images: Sequence[AnnotatedImage], cells: Sequence[_Cell], working: Sequence[_Detection]
) -> metric.SourceFigures:
    own = [cell for cell in cells if cell.image.source == source]
    labelled = [cell for cell in own if cell.truth is not None]
    truth, nearest = _labels(labelled)
    detection = _curve(own, [one for one in working if one.image.source == source], [0.0])[0]
    return metric.SourceFigures(
        source=source,
        n_images=sum(image.source == source for image in images),
        n_boxes=len(own),
        n_labelled=len(labelled),
        precision=detection.precision,
        recall=detection.recall,
        mean_giou=float(np.mean([cell.giou for cell in own])) if own else float("nan"),
        accuracy=_accuracy(labelled),
        macro_f1=metric.macro_f1(truth, nearest, sorted(set(truth))),
    )


def _mistakes(cells: Sequence[_Cell], working: Sequence[_Detection]) -> tuple[Mistake, ...]:
    wrong, missed, false = [], [], []
    for cell in cells:
        where = (cell.image.name, cell.image.source, cell.box_xyxy, cell.truth)
        if cell.match is None:
            missed.append(Mistake(MISSED, *where, predicted=None, confidence=None))
        elif cell.truth is not None and cell.match.label != cell.truth:
            wrong.append(Mistake(WRONG_CLASS, *where, cell.match.label, cell.match.class_score))
    for image, finding in ((one.image, one.finding) for one in working if not one.matched):
        where = (image.name, image.source, finding.box_xyxy, None)
        false.append(Mistake(FALSE_DETECTION, *where, finding.label, finding.detection_score))
    for group in (wrong, false):
        group.sort(key=lambda mistake: -(mistake.confidence or 0.0))
    return (*wrong, *false, *missed)


def read_with(
    pipeline: Pipeline, images: Sequence[AnnotatedImage], lowest_threshold: float, console: Console
) -> tuple[dict[str, list[Finding]], dict[str, str]]:
    """Findings of every image from `lowest_threshold` on, and why the others were rejected, both by name."""
    findings: dict[str, list[Finding]] = {}
    rejected: dict[str, str] = {}
    for image in track(images, description="Reading images", console=console):
        try:
            findings[image.name] = pipeline.read(read_pixels(image), detection_threshold=lowest_threshold)
        except ImageRejected as error:
            rejected[image.name] = error.reason
    return findings, rejected


def write_predictions(findings: Mapping[str, Sequence[Finding]], path: Path) -> None:
    """All findings in the challenge's columns, with their two scores behind."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["NAME", "x1", "y1", "x2", "y2", "class", "class_score", "detection_score"])
        for name, of_image in findings.items():
            for one in of_image:
                box = [f"{corner:.1f}" for corner in one.box_xyxy]
                rows.writerow([name, *box, one.label, f"{one.class_score:.4f}", f"{one.detection_score:.4f}"])


def _require_distinct_names(images: Sequence[AnnotatedImage]) -> None:
    """Refuse images whose findings nobody could tell apart, here or in predictions.csv."""
    paths: dict[str, Path] = {}
    for image in images:
        if image.name in paths:
            raise AnnotationError(
                f"{paths[image.name]} and {image.path} have the same NAME, by which findings are kept; "
                "rename one of them, or measure the two folders apart."
            )
        paths[image.name] = image.path


def _codes(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(cell_class(code.strip()).code for code in value.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--bundle", "bundle_dir", type=_FOLDER, required=True, help="Folder of the model bundle.")
@click.option("--csv", "csvs", type=_FILE, required=True, multiple=True, help="Annotations; repeatable.")
@click.option(
    "--images",
    "folders",
    type=_FOLDER,
    multiple=True,
    help="Folders of the images, repeatable; images/ beside each CSV without it.",
)
@click.option(
    "--provenance",
    type=_FILE,
    help="CSV with NAME and source, for figures per source; provenance.csv beside each CSV without --images.",
)
@click.option("--source", "sources", multiple=True, help="Only the images of this source; repeatable.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Report folder.")
@click.option("--backend", default="auto", show_default=True, help="Inference engine.")
@click.option("--precision", default="auto", show_default=True, help="Precision of the inference engine.")
@click.option(
    "--covered",
    callback=_codes,
    default=",".join(COVERED),
    show_default=True,
    help="Classes of one macro F1.",
)
def main(
    bundle_dir: Path,
    csvs: tuple[Path, ...],
    folders: tuple[Path, ...],
    provenance: Path | None,
    sources: tuple[str, ...],
    out: Path,
    backend: str,
    precision: str,
    covered: tuple[str, ...],
) -> None:
    """Measure a bundle on annotated images and write report.json, report.md and what they are made of."""
    logging.basicConfig(format="%(message)s")
    try:
        images = read_annotations(csvs, folders, provenance) if folders else read_beside(csvs)
        images = [image for image in images if not sources or image.source in sources]
        if not images:
            raise AnnotationError(f"No image is of the source {', '.join(sources)}; see provenance.csv.")
        _require_distinct_names(images)
        bundle = Bundle.load(bundle_dir)
        working_threshold = bundle.manifest.thresholds.detection
        with open_pipeline(bundle, backend=backend, precision=precision) as pipeline:
            engine = pipeline.engine_id
            lowest_threshold = min(CURVE_THRESHOLDS[0], working_threshold)
            findings, rejected = read_with(pipeline, images, lowest_threshold, Console(stderr=True))
    except EdgeError as error:
        raise click.ClickException(str(error)) from error
    evaluation = evaluate(images, findings, working_threshold=working_threshold, covered=covered)
    about = {
        "bundle": bundle.manifest.name,
        "engine": engine,
        "annotations": ", ".join(path.name for path in csvs),
        "sources": ", ".join(sources) or "all",
        "rejected images": ", ".join(f"{name} ({why})" for name, why in rejected.items()) or "none",
    }
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(findings, out / "predictions.csv")
    readable = {image.name: image for image in images if image.name not in rejected}
    report.write(
        evaluation, about, out, lambda name: read_pixels(readable[name]) if name in readable else None
    )
    report.print_tables(evaluation, about, Console())


if __name__ == "__main__":
    main()
