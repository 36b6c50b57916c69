"""`python -m training.cross_evaluate`: every image judged by a bundle that was trained without it."""

from pathlib import Path

import click

from training.options import one_sentence

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_VALIDATION = "-val.csv"


@click.command()
@click.option(
    "--splits", type=_FOLDER, required=True, help="Folder that training.splits wrote: NAME-val.csv of each."
)
@click.option(
    "--bundles",
    type=_FOLDER,
    required=True,
    help="Folder with NAME/bundle or NAME of each, the bundle trained on NAME-train.csv.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Report folder.")
@click.option("--backend", default="auto", show_default=True, help="Inference engine.")
@click.option("--precision", default="auto", show_default=True, help="Precision of the inference engine.")
@one_sentence
def main(splits: Path, bundles: Path, out: Path, backend: str, precision: str) -> None:
    """Measure the bundles of folds, or of sources left out, together, as training.evaluate does one.

    The report is of all images of all NAME-val.csv; with sources left out its figures per source are those
    of a station that the model never saw.
    """
    from rich.console import Console

    from edge.bundle import Bundle
    from edge.cells import Finding
    from edge.pipeline import open_pipeline
    from training.annotations import AnnotatedImage, AnnotationError, read_beside
    from training.evaluate import CURVE_THRESHOLDS, evaluate, read_with, require_distinct_names, save

    files = sorted(splits.glob(f"*{_VALIDATION}"))
    if not files:
        raise AnnotationError(
            f"{splits} has no file *{_VALIDATION}; give a folder that training.splits wrote."
        )
    names = [path.name.removesuffix(_VALIDATION) for path in files]
    opened = {name: Bundle.load(_bundle_folder(bundles, name)) for name in names}
    thresholds = {name: one.manifest.thresholds.detection for name, one in opened.items()}
    if len(set(thresholds.values())) > 1:
        told = ", ".join(f"{name} {threshold:g}" for name, threshold in thresholds.items())
        raise AnnotationError(
            f"The bundles differ in their detection threshold ({told}), so that their findings cannot be "
            "counted together; build them with one --threshold."
        )
    threshold = thresholds[names[0]]
    images: list[AnnotatedImage] = []
    findings: dict[str, list[Finding]] = {}
    rejected: dict[str, str] = {}
    console, engines = Console(stderr=True), {}
    for name, path in zip(names, files, strict=True):
        own = read_beside([path])
        images += own
        require_distinct_names(images)
        console.print(f"{name}: {len(own)} images, {opened[name].id}", markup=False, highlight=False)
        with open_pipeline(opened[name], backend=backend, precision=precision) as pipeline:
            engines[name] = pipeline.engine_id
            found = read_with(pipeline, own, min(CURVE_THRESHOLDS[0], threshold), console)
        findings |= found[0]
        rejected |= found[1]
    about = {
        "bundle": f"{len(names)} bundles of {splits.name}",
        "bundle id": ", ".join(one.id for one in opened.values()),
        "engine": ", ".join(dict.fromkeys(engines.values())),
        "annotations": ", ".join(path.name for path in files),
        "sources": "all, each image read by the bundle of its own file",
    }
    save(evaluate(images, findings, working_threshold=threshold), about, images, findings, rejected, out)


def _bundle_folder(bundles: Path, name: str) -> Path:
    inside = bundles / name / "bundle"
    return inside if inside.is_dir() else bundles / name


if __name__ == "__main__":
    main(prog_name="python -m training.cross_evaluate")
