"""`python -m training.audit`: what is wrong with annotation files and their images, and clean ones."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli import NumberRange, one_sentence
from training.audit.cleaning import MIN_SIDE_PX

if TYPE_CHECKING:
    from training.provenance import Provenance

REPORT = "report.html"
"""By which a folder is known as that of a former audit."""

_PATH = click.Path(exists=True, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("paths", metavar="CSV... [IMAGES]...", type=_PATH, nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the findings."
)
@click.option(
    "--min-side",
    type=NumberRange(0),
    default=MIN_SIDE_PX,
    show_default=True,
    help="Boxes with a side shorter than this, in pixels, are dropped.",
)
@click.option(
    "--provenance",
    type=_FILE,
    help="CSV with NAME and source, and width and height for images that are not there; provenance.csv beside"
    " each CSV without it.",
)
@click.option("--without-images", is_flag=True, help="Read the CSV files only.")
@one_sentence
def main(
    paths: tuple[Path, ...], out: Path, min_side: float, provenance: Path | None, without_images: bool
) -> None:
    """Look for faults in annotations and images, and write cleaned files, a log of changes and a report.

    Files are annotations, folders hold images; without a folder, images/ beside each CSV is taken if it is
    there. Of two images with the same bytes the one that is named first stays: give the file first whose
    images should. What was given is never changed.
    """
    from rich.console import Console
    from rich.progress import track

    from edge.walking import images_below
    from training.audit.findings import example_of, findings_of
    from training.audit.looking import find_images, look_at_all
    from training.audit.page import print_faults, render
    from training.audit.run import audit
    from training.audit.tables import labels_of, read_table
    from training.audit.writing import (
        duplicate_groups,
        kept_images,
        write_changes,
        write_cleaned,
        write_images,
    )
    from training.errors import AnnotationError
    from training.out_folder import require_no_other_csvs, require_own, writing
    from training.provenance import FILE_NAME, provenance_of

    csvs, folders = (
        [path for path in paths if path.is_file()],
        [path.resolve() for path in paths if path.is_dir()],
    )
    if not csvs:
        raise AnnotationError(f"{', '.join(map(str, paths))} is no CSV file; name at least one.")
    if clash := [path for path in csvs if path.resolve().parent == (out / "cleaned").resolve()]:
        raise AnnotationError(f"{clash[0]} lies where the cleaned files go; give another folder as --out.")
    require_own(out, REPORT)
    require_no_other_csvs(out / "cleaned", {*labels_of(csvs), FILE_NAME})
    tables = [
        read_table(path, label, () if without_images else folders or _beside(path))
        for path, label in zip(csvs, labels_of(csvs), strict=True)
    ]
    known = {table.path: provenance_of(table.path, provenance) for table in tables}
    where = {table.path: find_images((row.name for row in table.rows), table.folders) for table in tables}
    every = [path for found in where.values() for path in found.values()]
    lying = [path for table in tables for folder in table.folders for path in images_below(folder)]
    every += [path for path in lying if not path.is_relative_to(out.resolve())]  # of a former run
    every = list(dict.fromkeys(every))
    console = Console(stderr=True)
    looking = track(
        look_at_all(every), "looking at images", len(every), console=console, disable=not console.is_terminal
    )
    images = {one.path: one for one in looking}
    sizes = {path: _sizes(rows) for path, rows in known.items()}
    found = audit(tables, where, images, sizes, min_side)
    findings = findings_of(found, known, sizes)
    groups = duplicate_groups(found, known)
    with writing(out):
        kept = kept_images(found, out / "cleaned")
        (out / REPORT).write_text(render(findings, partial(example_of, found)), encoding="utf-8")
        write_cleaned(found, known, groups, kept, out / "cleaned")
        write_changes(found.changes, out / "changes.csv")
        if images:
            write_images(found, groups, out / "images.csv")
    print_faults(findings, Console())
    click.echo(f"Report: {out / REPORT}\nCleaned files: {out / 'cleaned'}")


def _beside(csv_path: Path) -> tuple[Path, ...]:
    folder = csv_path.resolve().parent / "images"
    return (folder,) if folder.is_dir() else ()


def _sizes(provenance: "Provenance") -> dict[str, tuple[int, int]]:
    """Sizes that the columns width and height tell, where they are whole numbers."""
    return {
        name: (int(cells["width"]), int(cells["height"]))
        for name, cells in provenance.items()
        if cells.get("width", "").isdecimal() and cells.get("height", "").isdecimal()
    }
