"""How long a start takes: of the journal and the CSV files alone, and of the real `edge-watch`."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.journal_file import JOURNAL_NAME
from edge.outputs import open_desk
from tests.chaos.books import Answers
from tests.chaos.daemon import Daemon
from tests.chaos.tiny import OneCell, tiny_image

_TIMES = 3
_NEW = 10_000_000
"""Number of the first image that is new: larger than any that the journal knows."""


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds, each start in turn.

    Attributes:
        known_files: how many answered files lay in the inbox.
        opened_s: of journal and CSV files, which are opened, looked through and made to agree.
        opened_cold_s: the same when memory no longer held the journal's file.
        ready_s: from the start of `edge-watch` to READY; the inbox is empty.
        ready_known_s: the same with the known files in the inbox.
        found_s: from READY until the answer of a new file, which a scan comes to after all known ones.
        ready_begun_s: from start to READY with an empty journal and an empty inbox.
    """

    known_files: int
    opened_s: tuple[float, ...]
    opened_cold_s: tuple[float, ...]
    ready_s: tuple[float, ...]
    ready_known_s: tuple[float, ...]
    found_s: tuple[float, ...]
    ready_begun_s: tuple[float, ...]


def measure_starts(home: Path) -> Starts:
    """Start the station of `home` again and again; its inbox is full of files that have their answer."""
    journal, inbox, full = home / "out" / ".edge" / JOURNAL_NAME, home / "inbox", home / "full"
    known_files = sum(1 for _ in inbox.iterdir())
    opened = [_opened_s(home) for _ in range(_TIMES)]
    cold = []
    for _ in range(_TIMES):
        _forget(journal)
        cold.append(_opened_s(home))
    begun = home.with_name("begun")
    (begun / "inbox").mkdir(parents=True)
    ready_begun = [_ready(begun) for _ in range(_TIMES)]
    inbox.rename(full)
    inbox.mkdir()
    ready = [_ready(home) for _ in range(_TIMES)]
    inbox.rmdir()
    full.rename(inbox)
    # Sub-folders are looked through last.
    (inbox / "last").mkdir()
    answers = Answers(home / "out")
    answered = len(answers.look())
    found, ready_known = [], []
    for number in range(_TIMES):
        new = inbox / "last" / f"{number}.png"
        new.write_bytes(tiny_image().copy(_NEW + number))
        wanted = answered + number + 1

        def is_answered(wanted: int = wanted) -> bool:
            return len(answers.look()) >= wanted

        with _watching(home) as daemon:
            ready_known.append(daemon.wait_ready())
            found.append(daemon.wait_for("the new file's answer", is_answered))
    figures = (opened, cold, ready, ready_known, found, ready_begun)
    return Starts(known_files, *map(tuple, figures))


def _opened_s(home: Path) -> float:
    began_s = time.perf_counter()
    with open_desk(OneCell(), home / "out"):
        return time.perf_counter() - began_s


def _ready(home: Path) -> float:
    with _watching(home) as daemon:
        return daemon.wait_ready()


@contextlib.contextmanager
def _watching(home: Path) -> Iterator[Daemon]:
    daemon = Daemon(home)
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.close()


def _forget(path: Path) -> None:
    """Ask the kernel to drop what memory holds of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
