"""`python -m training.leaderboard`: all evaluated bundles on one page."""

from pathlib import Path

import click

from edge.cli import one_sentence


@click.command()
@click.argument(
    "folders",
    metavar="FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="leaderboard.html",
    show_default=True,
    help="The page to write.",
)
@one_sentence
def main(folders: tuple[Path, ...], out: Path) -> None:
    """Rank the reports of training.evaluate in these folders and below; write one page that needs no other.

    A JSON file of edge-bench beside a report gives the time of an image.
    """
    from rich.console import Console
    from rich.progress import track

    from training.leaderboard_page import board, find_entries, render
    from training.out_folder import writing

    entries, notes = find_entries(folders)
    groups = {entry.report.annotations_sha256 for entry in entries}
    console = Console(stderr=True)
    boards = [
        board([entry for entry in entries if entry.report.annotations_sha256 == sha256])
        for sha256 in track(sorted(groups), "Comparing", console=console, disable=not console.is_terminal)
    ]
    boards.sort(key=lambda one: -one.n_images)
    partial = out.with_name(f".{out.name}.part")
    with writing(out.parent):
        partial.write_text(render(boards, notes), encoding="utf-8")
        partial.replace(out)
    for note in notes:
        click.echo(note, err=True)
    for one in boards:
        first = one.rows[0]
        click.echo(f"{one.title}: {len(one.rows)} systems, first {first.name}, score {first.cells[0].text}")
    click.echo(f"page: {out}")


if __name__ == "__main__":
    main(prog_name="python -m training.leaderboard")
