"""`python -m training.soft_labels`: what a bundle says of every true box, for a smaller network to learn."""

from pathlib import Path

import click

from edge.cli import one_sentence
from training.options import engine_options

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--bundle", "bundle_dir", type=_FOLDER, help="Folder of the teacher.")
@click.option(
    "--csv",
    "csvs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Annotations (repeatable); images lie in images/ beside the file.",
)
@click.option(
    "--splits",
    type=_FOLDER,
    help="In place of --csv: folder that training.splits wrote, NAME-val.csv of each.",
)
@click.option(
    "--bundles",
    type=_FOLDER,
    help="In place of --bundle: folder with NAME/bundle or NAME of each, the teacher trained on"
    " NAME-train.csv.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@engine_options
@one_sentence
def main(
    bundle_dir: Path | None,
    csvs: tuple[Path, ...],
    splits: Path | None,
    bundles: Path | None,
    out: Path,
    backend: str,
    precision: str,
) -> None:
    """Write a teacher's probabilities of every true box: NAME,x1,y1,x2,y2 and a column for each class.

    Classifiers are shown the true box, those of whole images where they would be asked; a detector that names
    classes speaks through its detection nearest to the box. With --splits and --bundles each image is read by
    the bundle that was trained without it: of images that it was trained on, a teacher knows the labels by
    heart.
    """
    from rich.console import Console

    from edge.bundle import Bundle
    from training.annotations import read_beside
    from training.errors import AnnotationError
    from training.evaluate import require_distinct_names
    from training.out_folder import require_writable, writing
    from training.out_of_fold import Fold, folds_of, pipelines_of
    from training.targets import SoftLabels
    from training.teaching import joined, taught_by

    if bundle_dir and csvs and not (splits or bundles):
        folds = [Fold(bundle_dir.name, csvs, Bundle.load(bundle_dir))]
    elif splits and bundles and not (bundle_dir or csvs):
        folds = folds_of(splits, bundles)
    else:
        raise click.UsageError("give --bundle and --csv, or --splits and --bundles.")
    if clash := [path for fold in folds for path in fold.csvs if path.resolve() == out.resolve()]:
        raise AnnotationError(f"{clash[0]} is to be read and written; give another file as --out.")
    images = [read_beside(fold.csvs) for fold in folds]
    require_distinct_names([image for own in images for image in own])
    require_writable(out.parent)
    console, taught, silent = Console(stderr=True), [], 0
    own_of = {fold.name: own for fold, own in zip(folds, images, strict=True)}
    for fold, pipeline in pipelines_of(folds, list(map(len, images)), backend, precision, console):
        soft, n_silent = taught_by(pipeline, own_of[fold.name], console)
        taught.append(soft)
        silent += n_silent
    every: SoftLabels = joined(taught)
    with writing(out.parent):
        every.write(out)
    click.echo(f"{len(every.rows)} boxes, {len(every.classes)} classes in {out}")
    if silent:
        click.echo(
            f"{silent} boxes of which no network said anything, or whose image cannot be read: left out"
        )


if __name__ == "__main__":
    main(prog_name="python -m training.soft_labels")
