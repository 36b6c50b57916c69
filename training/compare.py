"""`python -m training.compare A B`: whether B is better than A, from the reports of both."""

import json
from pathlib import Path

import click

from edge.cli import one_sentence
from edge.names import name_of

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("a", type=_FOLDER)
@click.argument("b", type=_FOLDER)
@click.option(
    "--resamples", type=click.IntRange(100), default=2000, show_default=True, help="Samples of the images."
)
@click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write it here."
)
@one_sentence
def main(a: Path, b: Path, resamples: int, json_path: Path | None) -> None:
    """Compare two systems that training.evaluate measured on the same annotations; A and B are its folders.

    Intervals are of the paired bootstrap by image, p of approximate randomisation by image.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from training.comparison import System, compare, rows, verdict
    from training.out_folder import writing
    from training.report import interval_text, plain
    from training.tally import SCORE

    found = compare(System.read(a), System.read(b), resamples)
    console = Console()
    for title, differences in rows(found):
        table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
        for place, column in enumerate(("", "A", "B", "B - A", "95 % CI", "p")):
            table.add_column(column, justify="right" if place else "left")
        for name, one in differences.items():
            if one.a != one.a and one.b != one.b:  # neither has such cells
                continue
            numbers = (f"{one.a:.4f}", f"{one.b:.4f}", f"{one.difference:+.4f}", interval_text(one.interval))
            table.add_row(escape(name), *numbers, f"{one.p:.3f}")
        if table.row_count:
            console.print(table)
    console.print(
        f"Of {found.n_cells} cells with a class only A names {found.only_a} rightly, only B {found.only_b} "
        f"(McNemar, exact: p = {found.p_agreement:.2g}).",
        highlight=False,
    )
    sentence = verdict(found.measures[SCORE], f"A ({name_of(a)})", f"B ({name_of(b)})")
    console.print(f"Score: {sentence}", markup=False, highlight=False)
    if json_path is not None:
        with writing(json_path.parent):
            figures = {"a": name_of(a), "b": name_of(b), "verdict": sentence, **plain(found)}
            json_path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="python -m training.compare")
