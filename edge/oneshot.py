"""`edge-run`: files and folders once, through the same desk as the daemon."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edge.desk import Desk, Reader
from edge.errors import StationError
from edge.opening import MAX_TRIES
from edge.outputs import open_desk
from edge.overlay import save_overlay
from edge.records import State
from edge.tasks import Arrival, ImageResult
from edge.walking import is_ignored

log = logging.getLogger(__name__)

_OWN_NAMES = ("results*.csv*", "images*.csv*", "annotated")
"""What a run itself writes into its output folder; the rest of it begins with a dot."""


def run_once(
    images: Sequence[Path], out: Path, pipeline: Reader, *, overlays: bool = False
) -> list[ImageResult]:
    """Give every file an answer; show a bar on a terminal.

    Args:
        images: files, and folders whose files are taken with all sub-folders; those are the samples. Links,
            pipes and devices are not opened; the log names them.
        out: gets the CSV files, the journal in `.edge`, and the annotated copies in `annotated`.
        pipeline: what reads the images.
        overlays: save annotated copies.

    Returns:
        The answers, without the pixels.

    Raises:
        StationError: there is no file, or a folder may not be read.
        BackendError: the engine failed; another run goes on behind the last answer.
    """
    targets = list(find_files(images, out))
    if not targets:
        raise StationError(f"{', '.join(map(str, images))} holds no file; name files or a folder with files.")
    console = Console(stderr=True)
    results = []
    with (
        open_desk(pipeline, out, keep_pixels=overlays) as (desk, _),
        Progress(console=console, disable=not console.is_terminal, transient=True) as bar,
    ):
        reading = bar.add_task("reading", total=len(targets))
        for result in desk.process_all(targets):
            if result.status is State.PENDING:
                result = _try_again(desk, result)
            if overlays:
                save_overlay(out / "annotated", result)
            results.append(replace(result, rgb=None))
            bar.advance(reading)
    return results


def _try_again(desk: Desk, result: ImageResult) -> ImageResult:
    """A fault that can pass is tried again at once: there is no later in a run that ends."""
    for _ in range(MAX_TRIES - 1):
        if result.status is State.PENDING:
            result = desk.process(result.path, result.sample)
    return result


def find_files(images: Sequence[Path], out: Path) -> Iterator[Arrival]:
    """Files in the order of their names, each once; not what a run wrote to `out`."""
    seen: set[Path] = set()
    for given in images:
        for path in sorted(_files(given, out.resolve())) if given.is_dir() else [given]:
            place = path.parent.resolve() / path.name  # a link is not the file that it leads to
            if place in seen:
                continue
            seen.add(place)
            if path.is_symlink() or not path.is_file():
                log.error("%r is no regular file and was not opened.", str(path))
                continue
            sample = path.parent.relative_to(given).as_posix() if given.is_dir() else ""
            yield Arrival(path, "" if sample == "." else sample)


def _files(folder: Path, out: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        own = Path(parent).resolve() == out
        folders[:] = [name for name in folders if not (is_ignored(name) or (own and _is_own(name)))]
        yield from (Path(parent, n) for n in names if not (is_ignored(n) or (own and _is_own(n))))


def _is_own(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in _OWN_NAMES)


def _refuse_folder(error: OSError) -> None:
    raise StationError(
        f"{error.filename} cannot be read ({error.strerror}); correct its rights, or leave it out."
    ) from error


def print_summary(results: Sequence[ImageResult], out: Path) -> None:
    """Counts by status and by class, and where the rows are."""
    by_status = Counter(result.status.value for result in results)
    cells = Counter(finding.label for result in results for finding in result.findings)
    known = sum(not result.is_new and result.status is not State.PENDING for result in results)
    table = Table(title=f"{len(results)} files, {cells.total()} leukocytes")
    table.add_column("status")
    table.add_column("files", justify="right")
    for status, count in by_status.most_common():
        table.add_row(status, str(count))
    if known:
        table.add_row("of these answered before", str(known))
    console = Console()
    console.print(table)
    if unlike := sum(r.unlikeness is not None and r.unlikeness.is_marked for r in results):
        console.print(f"{unlike} unlike the training images: unlike_because in images.csv says in what.")
    if cells:
        console.print(", ".join(f"{label} {count}" for label, count in cells.most_common()))
    console.print(f"rows: {out / 'results.csv'}, {out / 'images.csv'}", markup=False, highlight=False)
