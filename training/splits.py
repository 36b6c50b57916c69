"""`python -m training.splits`: annotation files into training and validation, for the trainers to read."""

from pathlib import Path

import click

from edge.cli import one_sentence
from edge.names import name_of

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("csvs", metavar="CSV...", type=_FILE, nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the pairs."
)
@click.option("--folds", type=click.IntRange(2), help="How many folds; 5 without it.")
@click.option(
    "--leave-one-source-out",
    "by_source",
    is_flag=True,
    help="In place of folds one pair a source, which is judged by and not trained on.",
)
@click.option(
    "--group-by",
    "marks",
    multiple=True,
    help="Column of provenance.csv whose images stay together, too (repeatable), beside patient and"
    " duplicate_group, which always do.",
)
@click.option(
    "--provenance",
    "given",
    type=_FILE,
    help="CSV with NAME, source and what to group by; provenance.csv beside each CSV without it.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@one_sentence
def main(
    csvs: tuple[Path, ...],
    out: Path,
    folds: int | None,
    by_source: bool,
    marks: tuple[str, ...],
    given: Path | None,
    seed: int,
) -> None:
    """Split annotations into pairs of files, stratified by class and source, an image never parted.

    All images of one patient of a source stay together, and so do near-duplicates of all sources, if
    provenance.csv tells which they are: that of the cleaned files of training.audit tells near-duplicates.
    """
    from training.audit.tables import labels_of, read_table
    from training.errors import AnnotationError
    from training.folds import SplitError, k_folds, leave_one_source_out
    from training.out_folder import require_own, writing
    from training.provenance import MARKS, provenance_of
    from training.split_files import SUMMARY, read_rows, summary, write_pairs

    if folds is not None and by_source:
        raise SplitError("--folds and --leave-one-source-out are two ways to split; give one of them.")
    if clash := [path for path in csvs if path.resolve().parent == out.resolve()]:
        raise AnnotationError(f"{clash[0]} lies where the pairs go; give another folder as --out.")
    require_own(out, SUMMARY)
    tables = [
        read_table(path, label, [path.parent / "images"])
        for path, label in zip(csvs, labels_of(csvs), strict=True)
    ]
    known = {table.path: provenance_of(table.path, given) for table in tables}
    columns = {column for one in known.values() for cells in one.values() for column in cells}
    if unknown := [mark for mark in marks if mark not in columns]:
        raise SplitError(
            f"provenance.csv has no column {', '.join(unknown)} to group by, only "
            f"{', '.join(sorted(columns)) or 'none at all'}; name one of these."
        )
    used = tuple(mark for mark in dict.fromkeys((*MARKS, *marks)) if mark in columns)
    rows = [row for table in tables for row in read_rows(table, known[table.path], used)]
    pairs = leave_one_source_out(rows) if by_source else k_folds(rows, folds or 5, seed)
    prefix = "without-" if by_source else ""
    text = summary(rows, pairs, [*map(name_of, csvs)], used, by_source, seed)
    with writing(out):
        write_pairs(pairs, prefix, tables, known, text, out)
    click.echo(text.rstrip())


if __name__ == "__main__":
    main(prog_name="python -m training.splits")
