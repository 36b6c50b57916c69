"""`edge-run`: files and folders once, through the same desk as the daemon."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge.desk import MAX_TRIES, Desk, ImageResult, Reader
from edge.errors import StationError
from edge.inbox import is_ignored
from edge.overlay import save_overlay
from edge.records import State
from edge.station import open_desk


def run_once(
    images: Sequence[Path], out: Path, pipeline: Reader, *, overlays: bool = False
) -> list[ImageResult]:
    """Give every file an answer; show a bar on a terminal.

    Args:
        images: files, and folders whose files are taken with all sub-folders; those are the samples.
        out: gets the CSV files, the journal in `.edge`, and the annotated copies in `annotated`.
        pipeline: what reads the images.
        overlays: save annotated copies.

    Raises:
        StationError: there is no file.
        BackendError: the engine failed; another run goes on behind the last answer.
    """
    targets = list(find_files(images, out))
    if not targets:
        raise StationError(f"{', '.join(map(str, images))} holds no file; name files or a folder with files.")
    console = Console(stderr=True)
    results = []
    with open_desk(pipeline, out) as (desk, _):
        for path, sample in track(
            targets, "reading", console=console, disable=not console.is_terminal, transient=True
        ):
            results.append(_answer(desk, path, sample))
            if overlays:
                save_overlay(out / "annotated", results[-1])
    return results


def _answer(desk: Desk, path: Path, sample: str) -> ImageResult:
    """A fault that can pass is tried again at once: there is no later in a run that ends."""
    for _ in range(MAX_TRIES):
        result = desk.process(path, sample)
        if result.status is not State.PENDING:
            break
    return result


def find_files(images: Sequence[Path], out: Path) -> Iterator[tuple[Path, str]]:
    """Files with their samples, in the order of their names, each once; not what a run wrote to `out`."""
    seen: set[Path] = set()
    written = out.resolve()
    for given in images:
        for path in sorted(_files(given)) if given.is_dir() else [given]:
            resolved = path.resolve()
            if resolved in seen or resolved.is_relative_to(written):
                continue
            seen.add(resolved)
            sample = path.parent.relative_to(given).as_posix() if given.is_dir() else ""
            yield path, "" if sample == "." else sample


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_ignored(name)]
        yield from (Path(parent, name) for name in names if not is_ignored(name))


def print_summary(results: Sequence[ImageResult], out: Path) -> None:
    """Counts by status and by class, and where the rows are."""
    by_status = Counter(result.status.value for result in results)
    cells = Counter(finding.label for result in results for finding in result.findings)
    known = sum(not result.is_new for result in results)
    table = Table(title=f"{len(results)} files, {cells.total()} leukocytes")
    table.add_column("status")
    table.add_column("files", justify="right")
    for status, count in by_status.most_common():
        table.add_row(status, str(count))
    if known:
        table.add_row("of these answered before", str(known))
    console = Console()
    console.print(table)
    if cells:
        console.print(", ".join(f"{label} {count}" for label, count in cells.most_common()))
    console.print(f"rows: {out / 'results.csv'}, {out / 'images.csv'}", markup=False, highlight=False)
