"""Two stations on one machine, each the real `edge-watch` with a backlog of its own: what each gets of it."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from edge.errors import StationError
from tests.chaos.books import Answers, rows
from tests.chaos.daemon import Daemon

log = logging.getLogger(__name__)

ALONE, TWO, PINNED = "one alone", "two", "two, half of the cores each"
"""Ways to run them; the last is what `CPUAffinity=` in a drop-in of each unit does."""

_PATIENCE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Shared:
    """One run of one way.

    Attributes:
        answered_s: when each station gave its answers, in seconds since the first of all; ascending.
    """

    answered_s: tuple[tuple[float, ...], ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Images per second of each station while all of them were at work.

        Raises:
            StationError: at no time were they.
        """
        begin = max(times[0] for times in self.answered_s)
        end = min(times[-1] for times in self.answered_s)
        if begin >= end:
            raise StationError(
                f"The stations were never at work at the same time: the last began after {begin:.1f} s and "
                f"the first ended after {end:.1f} s; give them a longer --backlog."
            )
        inside = [sum(begin < time <= end for time in times) for times in self.answered_s]
        return tuple(count / (end - begin) for count in inside)

    @property
    def together(self) -> float:
        """Images per second of all."""
        return sum(self.rates)

    @property
    def ratio(self) -> float:
        """The slowest station's rate by the fastest one's."""
        return min(self.rates) / max(self.rates)

    @property
    def jain(self) -> float:
        """Jain's index of fairness, (sum x)^2 / (n sum x^2): 1 where all have as much, 1/n where one has all.

        Jain, Chiu and Hawe, A quantitative measure of fairness and discrimination, DEC TR-301, 1984.
        """
        rates = np.array(self.rates)
        return float(rates.sum() ** 2 / (len(rates) * (rates**2).sum()))

    def by_second(self) -> list[list[int]]:
        """Images of each station in each whole second."""
        seconds = int(max(times[-1] for times in self.answered_s)) + 1
        return [
            np.histogram(times, bins=seconds, range=(0, seconds))[0].tolist() for times in self.answered_s
        ]


def share(images: Sequence[bytes], suffix: str, rounds: int, scratch: Path) -> dict[str, list[Shared]]:
    """Each way once a round, in an order that rotates.

    Args:
        images: the backlog of each station.
    """
    cores = sorted(os.sched_getaffinity(0))
    ways: dict[str, list[set[int]]] = {ALONE: [set(cores)], TWO: [set(cores)] * 2}
    if len(cores) > 1:
        half = len(cores) // 2
        ways[PINNED] = [set(cores[:half]), set(cores[half : 2 * half])]
    found: dict[str, list[Shared]] = {way: [] for way in ways}
    names = list(ways)
    for number in range(rounds):
        for place in range(len(names)):
            way = names[(place + number) % len(names)]
            run = _run(ways[way], images, suffix, scratch / "shared")
            rates = " and ".join(f"{rate:.1f}" for rate in run.rates)
            log.info("round %d of %d, %s: %s images a second", number + 1, rounds, way, rates)
            found[way].append(run)
    return found


def _run(cores: Sequence[set[int]], images: Sequence[bytes], suffix: str, scratch: Path) -> Shared:
    homes = [scratch / str(number) for number in range(len(cores))]
    for home in homes:
        (home / "inbox").mkdir(parents=True)
        for number, data in enumerate(images):
            (home / "inbox" / f"{number:05}{suffix}").write_bytes(data)
    with contextlib.ExitStack() as ends:
        daemons = []
        for home, own in zip(homes, cores, strict=True):
            with _on(own):
                daemons.append(Daemon(home))
            ends.callback(daemons[-1].close)
        for daemon, home in zip(daemons, homes, strict=True):
            answers = Answers(home / "out")
            daemon.wait_for("all answers", partial(_have_come, answers, len(images)), _PATIENCE_S)
        for daemon in daemons:
            daemon.stop()
    finished = [sorted(_finished_s(home / "out")) for home in homes]
    first_s = min(times[0] for times in finished)
    shutil.rmtree(scratch)
    return Shared(tuple(tuple(time - first_s for time in times) for times in finished))


def _have_come(answers: Answers, wanted: int) -> bool:
    return len(answers.look()) >= wanted


def _finished_s(out: Path) -> Iterator[float]:
    for row in rows(out, "images"):
        yield datetime.fromisoformat(row["finished_at"]).timestamp()


@contextlib.contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Processes that are started meanwhile run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
