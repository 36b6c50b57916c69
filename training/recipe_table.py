"""`python -m training.recipe_table`: the runs of several recipes in one table."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from build_engines.markdown_text import table_line
from edge.cli import one_sentence
from edge.names import name_of

if TYPE_CHECKING:
    from training.leaderboard_page import Entry, Value

_HEAD = """\
# Recipes

Written by `python -m training.recipe_table`; [training.md](training.md) tells how to train them.
{n_boxes} cells on {n_images} images that no network was trained on, though some chose their epoch by
them; 95 % intervals. Behind the first: the difference of the score on the same images. Unseen: all images,
each read by a bundle that was trained without its source. Networks: detectors and classifiers. Time: of
an image from file to durable row, median, in milliseconds.

"""
_COLUMNS = (
    "run", "score", "behind the first", "macro F1, covered classes", "GIoU term",
    "unseen: score", "unseen: macro F1, covered classes", "networks", "ms",
)  # fmt: skip

_UNSEEN = """
## Sources that a bundle never saw

Each source read by the bundle of its recipe that was trained without it: macro F1 over the classes that
it has, and in brackets the part of its cells that got their class.

"""


@click.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Markdown file.")
@one_sentence
def main(runs: Path, out: Path) -> None:
    """Rank the runs of training.recipe in the folder RUNS by their score on the validation images."""
    from training.errors import AnnotationError
    from training.leaderboard_page import find_entries
    from training.out_folder import writing

    entries, notes = find_entries([runs])
    of_folder = {entry.folder: entry for entry in entries}
    folders = sorted(path for path in runs.resolve().iterdir() if path / "report" in of_folder)
    seen = {folder: of_folder[folder / "report"] for folder in folders}
    if not seen:
        raise AnnotationError(
            f"{runs} has no run with a report of this version; give the folder that holds the --out of "
            "python -m training.recipe."
        )
    if len({entry.report.annotations_sha256 for entry in seen.values()}) > 1:
        raise AnnotationError(
            f"The runs in {runs} ({', '.join(folder.name for folder in seen)}) were judged by different "
            "annotations; give all the same --validation-csv."
        )
    ranked = sorted(seen.items(), key=lambda one: -(one[1].report.score.score or 0.0))
    first = ranked[0][1]
    lines = [table_line(_COLUMNS), table_line(["---", *["---:"] * (len(_COLUMNS) - 1)])]
    lines += [
        table_line(_row(folder, entry, first, of_folder.get(folder / "unseen"))) for folder, entry in ranked
    ]
    head = _HEAD.format(n_boxes=first.report.n_boxes, n_images=first.report.n_images)
    with writing(out.parent):
        partial = out.with_name(f".{out.name}.part")
        partial.write_text(head + "\n".join(lines) + "\n" + _of_unseen(ranked, of_folder), "utf-8")
        partial.replace(out)
    for note in notes:
        click.echo(note, err=True)
    click.echo(f"{len(ranked)} runs, first {ranked[0][0].name}: {out}")


def _row(folder: Path, entry: "Entry", first: "Entry", unseen: "Entry | None") -> list[str]:
    from training.bootstrap import MACRO_F1_COVERED
    from training.leaderboard_page import behind
    from training.tally import GIOU_TERM, SCORE

    return [
        name_of(folder),
        _figure(entry, SCORE),
        "" if entry is first else _text(behind(first, entry)),
        _figure(entry, MACRO_F1_COVERED),
        _figure(entry, GIOU_TERM),
        _figure(unseen, SCORE),
        _figure(unseen, MACRO_F1_COVERED),
        _networks(folder / "bundle"),
        "-" if entry.median_ms is None else f"{entry.median_ms:.1f}",
    ]


def _of_unseen(ranked: "list[tuple[Path, Entry]]", of_folder: "dict[Path, Entry]") -> str:
    """A line for each run whose recipe was also trained without each source; "" if there is none."""
    unseen = {
        name_of(folder): of_folder[folder / "unseen"]
        for folder, _ in ranked
        if folder / "unseen" in of_folder
    }
    if not unseen:
        return ""
    found = {
        run: {
            one.source: (one.n_images, f"{_share(one.macro_f1)} ({_share(one.accuracy)})")
            for one in entry.report.sources
        }
        for run, entry in unseen.items()
    }
    images = {source: count for of_source in found.values() for source, (count, _) in of_source.items()}
    rows = [
        ["run", *(f"{source}, {count} images" for source, count in images.items())],
        ["---", *["---:"] * len(images)],
        *(
            [run, *(of_source.get(source, (0, "-"))[1] for source in images)]
            for run, of_source in found.items()
        ),
    ]
    return _UNSEEN + "".join(f"{table_line(row)}\n" for row in rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _figure(entry: "Entry | None", name: str) -> str:
    value = None if entry is None else entry.report.measure(name)
    if entry is None or value is None:
        return "-"
    within = entry.report.intervals.measures.get(name)
    return f"{value:.3f}" + (f" ({within.low:.3f} to {within.high:.3f})" if within else "")


def _text(value: "Value") -> str:
    return f"{value.text} ({value.interval})" if value.interval else value.text


def _networks(bundle: Path) -> str:
    from edge.bundle import Bundle

    manifest = Bundle.load(bundle).manifest
    return f"{len(manifest.detectors)} and {len(manifest.classifiers)}"


if __name__ == "__main__":
    main(prog_name="python -m training.recipe_table")
