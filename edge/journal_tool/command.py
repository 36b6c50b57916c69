"""`edge-journal`: looking at the journal of a station, also while it works.

What is heavy is imported when a command runs, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.cli import FOLDER, one_sentence, show_any_name
from edge.journal_tool.folders import Folders
from edge.records import State

if TYPE_CHECKING:
    from edge.journal_tool.reader import JournalReader

_BATCH = 500
_MANY = 10_000


@contextmanager
def _reading(folders: Folders) -> "Iterator[JournalReader]":
    from edge.journal_tool.reader import JournalReader

    with closing(JournalReader(folders.of_journal())) as reader:
        yield reader


@click.group(context_settings={"max_content_width": 100})
@click.option("--state", type=FOLDER, help="Folder of the journal.")
@click.option(
    "--settings", type=click.Path(dir_okay=False, path_type=Path), help="The station's settings file."
)
@click.option("--out", type=FOLDER, help="Output folder; the journal is in its .edge.")
@click.pass_context
def journal(context: click.Context, state: Path | None, settings: Path | None, out: Path | None) -> None:
    """Look at what a station did with which image, also while it works.

    Times are UTC. In names and paths a backslash is doubled, a byte that is not UTF-8 is written \\xHH, and
    what does not print is written as Python writes it.
    """
    show_any_name()
    context.obj = Folders(state, settings, out)


@journal.command("list")
@click.option("--status", type=click.Choice([state.value for state in State]), help="Only these.")
@click.option("--since", help="Only those answered since this time, ISO 8601; UTC without an offset.")
@click.option("--limit", type=click.IntRange(1), help="Only so many, the last ones.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
@one_sentence
def list_images(
    folders: Folders, status: str | None, since: str | None, limit: int | None, as_json: bool
) -> None:
    """List images, the newest last.

    They are in the order in which they were begun.
    """
    from edge.journal_tool.printing import entry_json, entry_line, title_line

    state, time = State(status) if status else None, _as_time(since) if since else None
    with _reading(folders) as reader:
        if not as_json:
            click.echo(title_line())
        for entry in reader.images(state=state, since=time, newest=limit):
            click.echo(entry_json(entry) if as_json else entry_line(entry))


def _as_time(text: str) -> str:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no time; write it like 2025-03-31 or 2025-03-31T14:00.", param_hint="--since"
        ) from error
    time = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@journal.command()
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
@one_sentence
def show(folders: Folders, image: str, as_json: bool) -> None:
    """Tell all about an image.

    IMAGE is a path, else a file's name, else the first digits (4 or more) of a sha256.
    """
    from edge.journal_tool.printing import image_json, image_text

    with _reading(folders) as reader:
        paths = reader.paths_named(image)
        if not paths:
            raise click.ClickException(
                f"the journal {str(reader.path)!r} knows no path, name or sha256 {image!r}; "
                "`edge-journal list` tells what it knows."
            )
        for path in paths:
            click.echo(image_json(reader, path) if as_json else image_text(reader, path))


@journal.command()
@click.argument("paths", nargs=-1)
@click.option(
    "--status", type=click.Choice(("failed", "rejected", "vanished")), help="All images of this status."
)
@click.pass_obj
@one_sentence
def retry(folders: Folders, paths: tuple[str, ...], status: str | None) -> None:
    """Ask for another try.

    PATHS are images without a result: failed, rejected or vanished, or pending with tries already made. A
    station at work takes them at its next scan, another one at its start, and edge-run when it is run over
    them. A file that was rejected is read again even if it has not changed.
    """
    if bool(paths) == bool(status):
        raise click.UsageError("Give either paths or --status.")
    if status is None:
        # absolute() keeps the ".." of a path
        images = iter([os.fsencode(os.path.abspath(path)) for path in paths])  # noqa: PTH100
        asked, refused = _ask_for(folders.of_journal(), images)
    else:
        with _reading(folders) as reader:
            images = (entry.path for entry in reader.latest_images(State(status)))
            asked, refused = _ask_for(folders.of_journal(), images)
    click.echo(f"{asked} asked for again, {refused} not.")
    sys.exit(1 if refused else 0)


def _ask_for(folder: Path, images: Iterator[bytes]) -> tuple[int, int]:
    """Ask in batches, each a short transaction; say why an image is not asked for."""
    from edge.journal_tool.printing import printable
    from edge.journal_tool.retry import ask_again

    asked = refused = 0
    while batch := list(islice(images, _BATCH)):
        there = [path for path in batch if not _is_gone(path)]
        for one in ask_again(folder, there):
            asked += one.is_granted
            if one.found is None:
                _refuse(
                    f"{printable(one.path)} is not in the journal; put it into the inbox to have it read."
                )
            elif not one.is_granted:
                _refuse(
                    f"{printable(one.path)} is {one.found}: its rows are never doubled; to have "
                    "another model read it, use edge-run with another --out."
                )
            refused += not one.is_granted
        for path in set(batch) - set(there):
            _refuse(f"{printable(path)} is not there, so there is nothing to read; put it back first.")
            refused += 1
    return asked, refused


def _refuse(sentence: str) -> None:
    click.echo(f"Not asked for: {sentence}", err=True)


def _is_gone(path: bytes) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # not this user's to see
        return False
    return False


@journal.command()
@click.argument("folder", type=FOLDER)
@click.pass_obj
@one_sentence
def rebuild(folders: Folders, folder: Path) -> None:
    """Write the CSV files anew.

    FOLDER is empty or missing; it gets results.csv and images.csv from the journal alone, each row once.
    """
    from edge.journal_tool.rebuild import rebuild as rebuild_files

    with _reading(folders) as reader, _bar("writing", reader.write_count()) as advance:
        sizes = rebuild_files(reader, folder, advance)
    for name, size in sizes.items():
        click.echo(f"{folder / name}: {size} bytes")


@journal.command()
@click.option("--images", is_flag=True, help="Also read the image files that still exist.")
@click.pass_obj
@one_sentence
def verify(folders: Folders, images: bool) -> None:
    """Compare journal and CSV files.

    Each difference is told in one sentence. Ends with 1 if there is any, also while the station works.
    """
    from edge.journal_tool.verify import verify as checks

    out = folders.of_rows()
    with _reading(folders) as reader:
        done = list(checks(reader, out, click.echo, images=images))
        click.echo(f"{reader.path} and {out}")
    width = max(len(check.what) for check in done)
    for check in done:
        came = {None: "", 0: "agrees"}.get(check.differences, f"{check.differences} differ")
        click.echo(f"  {check.what:<{width}}  {came:<9}  {check.extent}".rstrip())
    differences = sum(check.differences or 0 for check in done)
    click.echo(f"Differences: {differences}." if differences else "All agree.")
    sys.exit(1 if differences else 0)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal when there is much to do; what it gives is called after each step."""
    if total < _MANY or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
