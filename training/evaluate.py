"""How right a bundle is on annotated images, measured end to end from the files.

`evaluate` is pure: annotations and findings in, figures out. The command below it runs the station's own
pipeline over the files and writes the report.
"""

import csv
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import track

from edge.bundle import Bundle
from edge.cells import CELL_CLASSES, Finding, cell_class
from edge.cli import NumberRange, one_sentence
from edge.errors import ImageRejected
from edge.names import name_of
from edge.pipeline import Pipeline, open_pipeline
from training import metric, report
from training.annotations import AnnotatedImage, read_annotations, read_beside, read_pixels
from training.bootstrap import intervals
from training.errors import AnnotationError
from training.mistakes import FALSE_DETECTION, MISSED, WRONG_CLASS, Mistake
from training.options import engine_options, image_options
from training.out_folder import require_writable, writing
from training.pairing import CELLS_CSV, Cell, Detection, pair, write_cells
from training.reliability import coverage_curve, recommend, reliability_bins
from training.report import Evaluation
from training.tally import Tally

COVERED = ("BA", "EO", "Er", "LY", "M", "MM", "MO", "PM", "PNN", "Thromb")
"""The classes with enough openly available images to train on."""

CURVE_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
COVERAGE_THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(50))
TARGET_ACCURACY = 0.95


def evaluate(
    images: Sequence[AnnotatedImage],
    predictions: Mapping[str, Sequence[Finding]],
    *,
    working_threshold: float,
    covered: Sequence[str] = COVERED,
    target_accuracy: float = TARGET_ACCURACY,
) -> Evaluation:
    """Compare findings with annotations.

    Args:
        images: the truth. Boxes without a class count in detection and in no figure of classes or score.
        predictions: findings by `AnnotatedImage.name`, also those below the working threshold, which the
            detection curve needs; an image without an entry has none.
        working_threshold: detection score from which a finding counts in everything but the curve.
        covered: class codes of `macro_f1_covered`.
        target_accuracy: of the cells that the recommended class threshold keeps.
    """
    cells, detections = pair(images, predictions, working_threshold)
    working = [one for one in detections if one.detection_score >= working_threshold]
    labelled = [cell for cell in cells if cell.truth is not None]
    truth, nearest = _labels(labelled)
    pairs = [(cell.truth, cell.found) for cell in labelled]
    pairs += [(None, one.label) for one in working if not one.matched]
    confidences = [cell.class_score for cell in labelled if cell.class_score is not None]
    correct = [cell.found == cell.truth for cell in labelled if cell.class_score is not None]
    return Evaluation(
        n_images=len(images),
        n_boxes=len(cells),
        annotations_sha256=_fingerprint(cells),
        working_threshold=working_threshold,
        score=metric.challenge_score(truth, nearest, [cell.giou for cell in labelled]),
        accuracy=_accuracy(labelled),
        covered=tuple(covered),
        covered_without_cells=tuple(label for label in covered if label not in set(truth)),
        macro_f1_covered=metric.macro_f1(truth, nearest, covered),
        detection=_curve(cells, detections, [working_threshold])[0],
        curve=_curve(cells, detections, CURVE_THRESHOLDS),
        calibration_error=metric.calibration_error(confidences, correct),
        n_calibration=len(confidences),
        reliability=reliability_bins(confidences, correct),
        coverage=coverage_curve(confidences, correct, COVERAGE_THRESHOLDS),
        target_accuracy=target_accuracy,
        recommendation=recommend(confidences, correct, target_accuracy),
        intervals=intervals(Tally.of(cells, [one for one in working if not one.matched]), covered),
        classes=metric.class_figures(truth, nearest, _in_lineage_order([*truth, *nearest])),
        sources=tuple(
            _source_figures(source, images, cells, working)
            for source in sorted({image.source for image in images})
        ),
        confusion=metric.confusion(pairs, _in_lineage_order(label for pair in pairs for label in pair)),
        mistakes=_mistakes(cells, working),
        cells=tuple(cells),
        false_detections=tuple(one for one in working if not one.matched),
    )


def _fingerprint(cells: Sequence[Cell]) -> str:
    """By which it is known that two evaluations are of the same annotations."""
    truth = sorted((cell.image, cell.box_xyxy, cell.truth or "") for cell in cells)
    return hashlib.sha256(repr(truth).encode()).hexdigest()


def _labels(labelled: Iterable[Cell]) -> tuple[list[str], list[str | None]]:
    pairs = [(cell.truth, cell.nearest) for cell in labelled if cell.truth is not None]
    return [truth for truth, _ in pairs], [nearest for _, nearest in pairs]


def _in_lineage_order(labels: Iterable[str | None]) -> list[str]:
    """The distinct labels in the order of a differential count, foreign ones last."""
    codes = {known.code: place for place, known in enumerate(CELL_CLASSES)}
    distinct = {label for label in labels if label is not None}
    return sorted(distinct, key=lambda label: (codes.get(label, len(codes)), label))


def _accuracy(labelled: Sequence[Cell]) -> float:
    return float(np.mean([cell.nearest == cell.truth for cell in labelled])) if labelled else float("nan")


def _curve(
    cells: Sequence[Cell], detections: Sequence[Detection], thresholds: Sequence[float]
) -> tuple[metric.DetectionFigures, ...]:
    scores = [one.detection_score for one in detections]
    return metric.detection_curve(scores, [one.matched for one in detections], len(cells), thresholds)


def _source_figures(
    source: str, images: Sequence[AnnotatedImage], cells: Sequence[Cell], working: Sequence[Detection]
) -> metric.SourceFigures:
    own = [cell for cell in cells if cell.source == source]
    labelled = [cell for cell in own if cell.truth is not None]
    truth, nearest = _labels(labelled)
    detection = _curve(own, [one for one in working if one.source == source], [0.0])[0]
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


def _mistakes(cells: Sequence[Cell], working: Sequence[Detection]) -> tuple[Mistake, ...]:
    wrong, missed, false = [], [], []
    for cell in cells:
        where = (cell.image, cell.source, cell.box_xyxy, cell.truth)
        if cell.found is None:
            missed.append(Mistake(MISSED, *where, predicted=None, confidence=None))
        elif cell.truth is not None and cell.found != cell.truth:
            wrong.append(Mistake(WRONG_CLASS, *where, cell.found, cell.class_score))
    for one in working:
        if not one.matched:
            where = (one.image, one.source, one.box_xyxy, None)
            false.append(Mistake(FALSE_DETECTION, *where, one.label, one.detection_score))
    for group in (wrong, false):
        group.sort(key=lambda mistake: -(mistake.confidence or 0.0))
    return (*wrong, *false, *missed)


def read_with(
    pipeline: Pipeline,
    images: Sequence[AnnotatedImage],
    threshold: float,
    console: Console,
    least_score: float | None = None,
) -> tuple[dict[str, list[Finding]], dict[str, str]]:
    """Findings of every image, and why the others were rejected, both by name.

    Args:
        threshold: least detection score of a finding.
        least_score: below it, as of `Pipeline.read`; what has the threshold is then as without it.
    """
    findings: dict[str, list[Finding]] = {}
    rejected: dict[str, str] = {}
    for image in track(images, description="Reading images", console=console):
        try:
            findings[image.name] = pipeline.read(
                read_pixels(image), detection_threshold=threshold, least_score=least_score
            )
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


def select_images(
    csvs: Sequence[Path], folders: Sequence[Path], provenance: Path | None, sources: Sequence[str]
) -> list[AnnotatedImage]:
    """The annotated images of the options that `training.options.image_options` adds.

    Raises:
        AnnotationError: as `read_annotations`; none is of the sources, or two have one name, by which
            findings are kept, here and in predictions.csv.
    """
    images = read_annotations(csvs, folders, provenance) if folders else read_beside(csvs)
    images = [image for image in images if not sources or image.source in sources]
    if not images:
        raise AnnotationError(f"No image is of the source {', '.join(sources)}; see provenance.csv.")
    require_distinct_names(images)
    return images


def require_distinct_names(images: Sequence[AnnotatedImage]) -> None:
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


_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--bundle", "bundle_dir", type=_FOLDER, required=True, help="Folder of the model bundle.")
@image_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Report folder.")
@engine_options
@click.option(
    "--covered",
    callback=_codes,
    default=",".join(COVERED),
    show_default=True,
    help="Classes of one macro F1.",
)
@click.option(
    "--target-accuracy",
    type=NumberRange(0, 1, min_open=True),
    default=TARGET_ACCURACY,
    show_default=True,
    help="Accuracy wanted of the cells that a class threshold keeps.",
)
@one_sentence
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
    target_accuracy: float,
) -> None:
    """Measure a bundle on annotated images and write report.json, report.md and what they are made of."""
    logging.basicConfig(format="%(message)s")
    images = select_images(csvs, folders, provenance, sources)
    bundle = Bundle.load(bundle_dir)
    working_threshold = bundle.manifest.thresholds.detection
    require_writable(out)
    with open_pipeline(bundle, backend=backend, precision=precision) as pipeline:
        engine = pipeline.engine_id
        console = Console(stderr=True)
        findings, rejected = read_with(pipeline, images, working_threshold, console, CURVE_THRESHOLDS[0])
    about = {
        "bundle": bundle.manifest.name,
        "bundle id": bundle.id,
        "temperature": f"{bundle.manifest.temperature:g}",
        "engine": engine,
        "annotations": ", ".join(map(name_of, csvs)),
        "sources": ", ".join(sources) or "all",
    }
    evaluation = evaluate(
        images,
        findings,
        working_threshold=working_threshold,
        covered=covered,
        target_accuracy=target_accuracy,
    )
    save(evaluation, about, images, findings, rejected, out)


def save(
    evaluation: Evaluation,
    about: Mapping[str, str],
    images: Sequence[AnnotatedImage],
    findings: Mapping[str, Sequence[Finding]],
    rejected: Mapping[str, str],
    out: Path,
) -> None:
    """Write all files of a report into a folder, and the tables on the terminal."""
    whole = {
        **about,
        "rejected images": ", ".join(f"{name} ({why})" for name, why in rejected.items()) or "none",
    }
    readable = {image.name: image for image in images if image.name not in rejected}
    with writing(out):
        write_predictions(findings, out / "predictions.csv")
        write_cells(evaluation.cells, evaluation.false_detections, out / CELLS_CSV)
        report.write(
            evaluation, whole, out, lambda name: read_pixels(readable[name]) if name in readable else None
        )
    report.print_tables(evaluation, whole, Console())


if __name__ == "__main__":
    main()
