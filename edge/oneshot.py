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

from edge.cells import leukocytes_in_words
from edge.desk import Reader
from edge.errors import StationError
from edge.journal import Journal
from edge.opening import MAX_TRIES
from edge.outputs import open_desk
from edge.overlay import save_overlay
from edge.records import State
from edge.results import escape, image_cells
from edge.tasks import Arrival, ImageResult
from edge.walking import is_ignored, refuse_folder, require_entry

log = logging.getLogger(__name__)

_OWN_NAMES = ("results*.csv*", "images*.csv*", "annotated")
"""What a run itself writes into its output folder; the rest of it begins with a dot."""
_READ = (State.DONE, State.EMPTY, State.DUPLICATE)
"""Of images; what never was one may have the same name in every folder."""


def run_once(
    images: Sequence[Path], out: Path, pipeline: Reader, *, overlays: bool = False
) -> list[ImageResult]:
    """Give every file an answer; show a bar on a terminal.

    Args:
        images: files, and folders whose files are taken with all sub-folders; see `find_files`. Links, pipes
            and devices are not opened; the log names them.
        out: gets the CSV files, the journal in `.edge`, and the annotated copies in `annotated`.
        pipeline: what reads the images.
        overlays: save annotated copies.

    Returns:
        The answers, without the pixels.

    Raises:
        StationError: there is no file, two would have the same name and sample, also one that an earlier run
            read into `out`, or a folder may not be read.
        BackendError: the engine failed; another run goes on behind the last answer.
    """
    waiting = list(find_files(images, out))
    if not waiting:
        raise StationError(f"{', '.join(map(str, images))} holds no file; name files or a folder with files.")
    console = Console(stderr=True)
    results: dict[Path, ImageResult] = {}
    with (
        open_desk(pipeline, out, keep_pixels=overlays) as (desk, journal),
        Progress(console=console, disable=not console.is_terminal, transient=True) as bar,
    ):
        _require_own_names(waiting, journal)
        reading = bar.add_task("reading", total=len(waiting))
        for _ in range(MAX_TRIES):  # there is no later in a run that ends
            for result in desk.process_all(waiting):
                if overlays:
                    save_overlay(out / "annotated", result)
                results[result.path] = replace(result, rgb=None)
                bar.update(reading, completed=len(results))
            waiting = [Arrival(r.path, r.sample) for r in results.values() if r.status is State.PENDING]
    return list(results.values())


def samples_have_folders(images: Sequence[Path]) -> bool:
    """Whether samples begin with the name of the folder given: it is not the only one, or not alone."""
    return len(images) > 1 and any(given.is_dir() for given in images)


def find_files(images: Sequence[Path], out: Path) -> Iterator[Arrival]:
    """Files in the order of their names, each once; not what a run wrote to `out`.

    The sample is the folder of a file relative to the folder given; see `samples_have_folders`. Name and
    sample tell a file from all others.

    Raises:
        StationError: two files would have the same name and sample; a folder may not be read.
    """
    seen: set[Path] = set()
    named: dict[tuple[str, str], Path] = {}
    with_folders = samples_have_folders(images)
    for given in images:
        for path in sorted(_files(given, out.resolve())) if given.is_dir() else [given]:
            place = path.parent.resolve() / path.name  # a link is not the file that it leads to
            if place in seen:
                continue
            seen.add(place)
            if path.is_symlink() or not path.is_file():
                log.error("%r is no regular file and was not opened.", str(path))
                continue
            folder = path.parent.relative_to(given) if given.is_dir() else Path()
            if with_folders and given.is_dir():
                folder = Path(os.path.abspath(given)).name / folder  # noqa: PTH100, of a link its own
            sample = "" if folder == Path() else folder.as_posix()
            if len(images) > 1 and (first := named.setdefault((sample, path.name), path)) is not path:
                raise _same_name(first, path)
            yield Arrival(path, sample)


def _require_own_names(waiting: Sequence[Arrival], journal: Journal) -> None:
    """Name and sample must tell a file also from those that earlier runs read, but for one that was moved.

    Raises:
        StationError: they do not.
    """
    paths = {os.path.abspath(one.path): one for one in waiting}  # noqa: PTH100, as the desk has it
    asked = {
        (escape(os.fsencode(one.path.name)), escape(os.fsencode(one.sample))): path
        for path, one in paths.items()
    }
    answered: set[str] = set()
    alike: list[tuple[str, str]] = []
    for former, row in journal.image_rows():
        if former in paths:
            answered.add(former)
        cells = image_cells(row)
        path = asked.get((cells["NAME"], cells["sample"]))
        if path not in (None, former) and cells["status"] in _READ:
            alike.append((former, path))
    for former, path in alike:
        if path not in answered and _are_two(former, path):
            raise _same_name(former, path)


def _are_two(former: str, path: str) -> bool:
    try:
        return not Path(former).samefile(path)
    except OSError:
        return False  # it was moved


def _same_name(first: object, second: object) -> StationError:
    return StationError(
        f"{first} and {second} would have the same NAME and sample; give a folder that holds both, or read "
        "them into two output folders."
    )


def _files(folder: Path, out: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=refuse_folder):
        try:
            require_entry(Path(parent))
        except PermissionError as error:
            refuse_folder(error)
        own = Path(parent).resolve() == out
        folders[:] = [name for name in folders if not (is_ignored(name) or (own and _is_own(name)))]
        yield from (Path(parent, n) for n in names if not (is_ignored(n) or (own and _is_own(n))))


def _is_own(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in _OWN_NAMES)


def print_summary(results: Sequence[ImageResult], out: Path, *, overlays: bool = False) -> None:
    """Counts by status and by class, and where the rows are; of overlays, which images got none."""
    by_status = Counter(result.status.value for result in results)
    cells = Counter(finding.label for result in results for finding in result.findings)
    known = sum(not result.is_new and result.status is not State.PENDING for result in results)
    table = Table(title=f"{len(results)} files, {leukocytes_in_words(cells)}{' found now' if known else ''}")
    table.add_column("status")
    table.add_column("files", justify="right")
    for status, count in by_status.most_common():
        table.add_row(status, str(count))
    if known:
        table.add_row("of these answered before", str(known))
    console = Console()
    console.print(table)
    if known and overlays:
        console.print(f"{known} were answered before: no annotated copies were made of them now.")
    if unlike := sum(r.unlikeness is not None and r.unlikeness.is_marked for r in results):
        console.print(f"{unlike} unlike the training images: unlike_because in images.csv says in what.")
    if cells:
        console.print(", ".join(f"{label} {count}" for label, count in cells.most_common()))
    console.print(f"rows: {out / 'results.csv'}, {out / 'images.csv'}", markup=False, highlight=False)
