"""`python -m training.curate`: annotations curated by bundles that were trained without them."""

from pathlib import Path

import click

from edge.cli import NumberRange, one_sentence
from training.options import fold_options

DISAGREEMENTS = "disagreements.png"
"""By which a folder is known as that of a former curation; changes.csv is in one of training.audit, too."""


@click.command()
@fold_options
@click.option(
    "--csv",
    "csvs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="Annotations to curate, those that were split (repeatable); images lie in images/ beside the file.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="New folder.")
@click.option(
    "--unmatched",
    type=click.Choice(["paint", "keep"]),
    default="paint",
    show_default=True,
    help="Paint regions black on which bundle and annotations disagree and take out their boxes, or leave"
    " both as they are.",
)
@click.option(
    "--threshold",
    type=NumberRange(0, 1),
    help="Least detection score of a finding; that of the bundle without it.",
)
@one_sentence
def main(
    splits: Path,
    bundles: Path,
    csvs: tuple[Path, ...],
    out: Path,
    unmatched: str,
    threshold: float | None,
    backend: str,
    precision: str,
) -> None:
    """Let each fold's bundle read the images that it was trained without, and curate their annotations.

    A box that is found takes the geometry of the finding and keeps its class. A box that is not found is
    taken out, a finding without a box gets none, and both are painted black in a copy of the image. Labels
    that the bundle disagrees with stay, with a line in changes.csv. What was given is never changed.
    """
    from collections import Counter

    from rich.console import Console

    from edge.cells import Finding
    from training.annotations import read_pixels
    from training.audit.tables import labels_of
    from training.audit.writing import write_changes, write_folder
    from training.curated_files import GivenFile
    from training.curation import Curated
    from training.errors import AnnotationError
    from training.evaluate import read_with, require_distinct_names
    from training.mistakes import draw_mistakes
    from training.out_folder import require_no_other_csvs, require_own, require_writable, writing
    from training.out_of_fold import folds_of, names_of, pipelines_of
    from training.provenance import FILE_NAME

    if clash := [path for path in csvs if path.resolve().parent == out.resolve()]:
        raise AnnotationError(f"{clash[0]} lies where the curated files go; give another folder as --out.")
    require_own(out, DISAGREEMENTS)
    require_no_other_csvs(out, {*labels_of(csvs), FILE_NAME, "changes.csv"})
    folds = folds_of(splits, bundles)
    given = [GivenFile.read(path, label) for path, label in zip(csvs, labels_of(csvs), strict=True)]
    images = [image for one in given for image in one.images]
    require_distinct_names(images)
    fold_of = {name: fold for fold in folds for name in names_of(fold)}
    if unknown := [image.name for image in images if image.name not in fold_of]:
        raise AnnotationError(
            f"{len(unknown)} of {len(images)} images are in no *-val.csv of {splits} (first {unknown[0]}), "
            "so that no bundle was trained without them; split the files that are to be curated."
        )
    own = {fold.name: [image for image in images if fold_of[image.name] is fold] for fold in folds}
    require_writable(out)
    findings: dict[str, list[Finding]] = {}
    console = Console(stderr=True)
    for fold, pipeline in pipelines_of(folds, list(map(len, own.values())), backend, precision, console):
        least = fold.bundle.manifest.thresholds.detection if threshold is None else threshold
        found, rejected = read_with(pipeline, own[fold.name], least, console)
        if rejected:
            name, reason = next(iter(rejected.items()))
            raise AnnotationError(
                f"{len(rejected)} images cannot be read (first {name}: {reason}); clean the files with "
                "python -m training.audit first."
            )
        findings |= found
    names_classes = all(len(fold.bundle.manifest.classes) > 1 for fold in folds)
    curated = [
        one.curated(findings, may_paint=unmatched == "paint", compare_classes=names_classes) for one in given
    ]
    shown = [mistake for one in curated for mistake in one.shown]
    shown.sort(key=lambda mistake: -(mistake.confidence or 0))
    image_of = {image.name: image for image in images}
    with writing(out):
        draw_mistakes(shown, lambda name: read_pixels(image_of[name]), out / DISAGREEMENTS)
        write_changes([change for one in curated for change in one.table.changes], out / "changes.csv")
        for name in image_of:  # of a former run
            (out / "images" / name).unlink(missing_ok=True)
        write_folder(
            [one.table for one in curated],
            [row for one in curated for row in one.provenance],
            {name: path for one in curated for name, path in one.links().items()},
            (copy for one in curated for copy in one.copies()),
            out,
        )
    counts = Counter(change.fault for one in curated for change in one.table.changes)
    for fault in Curated:
        click.echo(f"{fault.value}: {counts[fault]}")
    boxes = sum(len(one.table.rows) for one in curated), sum(len(one.table.rows) for one in given)
    stay = sum(len(one.images) for one in curated)
    n_painted = sum(len(one.black) for one in curated)
    click.echo(
        f"{boxes[0]} of {boxes[1]} boxes and {stay} of {len(images)} images stay, {n_painted} of them "
        f"painted: {out}"
    )


if __name__ == "__main__":
    main(prog_name="python -m training.curate")
