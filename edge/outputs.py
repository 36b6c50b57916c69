"""Journal, CSV files and the desk that writes them: locked, in agreement, and closed again."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from edge.desk import Desk, Reader
from edge.images import ImageLimits
from edge.journal import Journal
from edge.locks import RESULTS_LOCK, locked_folder
from edge.restore import open_journal
from edge.results import Results


@contextlib.contextmanager
def open_desk(
    pipeline: Reader,
    out: Path,
    state: Path | None = None,
    *,
    inbox: Path | None = None,
    limits: ImageLimits | None = None,
    duplicates: Literal["skip", "again"] = "skip",
    detection_threshold: float | None = None,
    keep_pixels: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Desk, Journal]]:
    """A desk, its journal and its CSV files, locked and whole again; for the daemon and for a single run.

    Args:
        out: the folder of the CSV files.
        state: the folder of the journal; None: `.edge` in `out`.
        inbox: the watched folder, without which a damaged journal is not made anew.
        limits, duplicates, detection_threshold, keep_pixels: as `Desk` takes them.
        alive: called for each image of a journal that is made anew, which may take minutes.

    Raises:
        EdgeError: they cannot be used; `exit_code_of` tells the exit code.
    """
    with contextlib.ExitStack() as closing:
        state = state or out / ".edge"
        closing.enter_context(locked_folder(state, "journal.lock"))
        closing.enter_context(locked_folder(out, RESULTS_LOCK))
        journal = closing.enter_context(contextlib.closing(open_journal(state, out, inbox, alive)))
        results = Results(out, journal)
        desk = Desk(
            pipeline,
            journal,
            results,
            limits=limits,
            duplicates=duplicates,
            detection_threshold=detection_threshold,
            keep_pixels=keep_pixels,
        )
        closing.callback(desk.close)
        desk.recover()
        results.tell_of_missing_parts()
        yield desk, journal
        desk.settle()
