"""`python -m training.cross_evaluate`: every image judged by a bundle that was trained without it."""

from pathlib import Path

import click

from edge.cli import one_sentence
from edge.names import name_of
from training.options import fold_options


@click.command()
@fold_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Report folder.")
@one_sentence
def main(splits: Path, bundles: Path, out: Path, backend: str, precision: str) -> None:
    """Measure the bundles of folds, or of sources left out, together, as training.evaluate does one.

    The report is of all images of all NAME-val.csv; with sources left out its figures per source are those
    of a station that the model never saw.
    """
    from rich.console import Console

    from edge.cells import Finding
    from training.annotations import read_beside
    from training.errors import AnnotationError
    from training.evaluate import CURVE_THRESHOLDS, evaluate, read_with, require_distinct_names, save
    from training.out_folder import require_writable
    from training.out_of_fold import folds_of, pipelines_of

    folds = folds_of(splits, bundles)
    thresholds = {fold.name: fold.bundle.manifest.thresholds.detection for fold in folds}
    if len(set(thresholds.values())) > 1:
        told = ", ".join(f"{name} {threshold:g}" for name, threshold in thresholds.items())
        raise AnnotationError(
            f"The bundles differ in their detection threshold ({told}), so that their findings cannot be "
            "counted together; build them with one --threshold."
        )
    threshold = thresholds[folds[0].name]
    own = {fold.name: read_beside(fold.csvs) for fold in folds}
    images = [image for of_fold in own.values() for image in of_fold]
    require_distinct_names(images)
    require_writable(out)
    findings: dict[str, list[Finding]] = {}
    rejected: dict[str, str] = {}
    console, engines = Console(stderr=True), {}
    counts = [len(of_fold) for of_fold in own.values()]
    for fold, pipeline in pipelines_of(folds, counts, backend, precision, console):
        engines[fold.name] = pipeline.engine_id
        found = read_with(pipeline, own[fold.name], threshold, console, CURVE_THRESHOLDS[0])
        findings |= found[0]
        rejected |= found[1]
    about = {
        "bundle": f"{len(folds)} bundles of {name_of(splits)}",
        "bundle id": ", ".join(fold.bundle.id for fold in folds),
        "engine": ", ".join(dict.fromkeys(engines.values())),
        "annotations": ", ".join(name_of(path) for fold in folds for path in fold.csvs),
        "sources": "all, each image read by the bundle of its own file",
    }
    save(evaluate(images, findings, working_threshold=threshold), about, images, findings, rejected, out)


if __name__ == "__main__":
    main(prog_name="python -m training.cross_evaluate")
