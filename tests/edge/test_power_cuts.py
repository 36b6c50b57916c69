"""Power cuts, imitated: of what was not fsynced any pages are lost, and a start writes them again.

The journal is taken as SQLite promises it: what is committed stays.
"""

import contextlib
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge import projection
from edge.cells import Finding
from edge.journal import Journal
from edge.journal_tool.reader import JournalReader
from edge.records import LARGEST_BATCH, Answer, FileStamp, State
from edge.results import Results

PAGE_BYTES = 4096
CELLS = tuple(Finding((x, 0, x + 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2}) for x in range(9))
ANSWER = Answer(State.DONE, "", (), (4, 5), 6.0, "b", "e", "t")


class PowerCut(BaseException):
    """The process is gone: nothing after this runs."""


class Disk:
    """What the CSV files of a folder have on the disk; the power is cut at a call that changes one."""

    def __init__(self, folder: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._random = chance
        self._synced: dict[int, bytes] = {}
        self._calls_left = 0
        for name in ("pwrite", "ftruncate", "fsync"):
            monkeypatch.setattr(projection.os, name, self._counted(getattr(os, name)))

    def _counted(self, real):  # type: ignore[no-untyped-def]
        def call(handle, *args):  # type: ignore[no-untyped-def]
            self._calls_left -= 1
            if self._calls_left == 0:
                raise PowerCut
            answer = real(handle, *args)
            status = os.fstat(handle)
            if real.__name__ == "fsync" and stat.S_ISREG(status.st_mode):
                self._synced[status.st_ino] = os.pread(handle, status.st_size, 0)
            return answer

        return call

    @contextlib.contextmanager
    def on(self, calls: int) -> Iterator[None]:
        """Give power for so many calls at most."""
        self._calls_left = calls
        try:
            with contextlib.suppress(PowerCut):
                yield
        finally:
            self._calls_left = 0
        for path in sorted(self._folder.glob("*.csv")):
            self._lose(path)

    def touched_by_hand(self, path: Path) -> None:
        """Whatever somebody else did to a file is on the disk."""
        self._synced[path.stat().st_ino] = path.read_bytes()

    def _lose(self, path: Path) -> None:
        written, synced = path.read_bytes(), self._synced.get(path.stat().st_ino, b"")
        least, most = sorted((len(written), len(synced)))
        size = self._random.choice([least, most, self._random.randint(least, most)])
        kept, share = b"", self._random.random()
        for place in range(0, size, PAGE_BYTES):
            source = written if self._random.random() < share else synced
            kept += source[place : place + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
        path.write_bytes(kept[:size])
        self.touched_by_hand(path)


class Station:
    """A journal and its results, in lives that power cuts end."""

    def __init__(self, folder: Path, chance: random.Random, disk: Disk) -> None:
        self.folder = folder
        self._random = chance
        self._disk = disk
        self._count = 0
        (folder / "state").mkdir()

    def live(self) -> None:
        with contextlib.closing(Journal(self.folder / "state")) as journal:
            results = Results(self.folder, journal)
            with self._disk.on(calls=self._random.choice([10**6, self._random.randint(1, 400)])):
                results.mend()
                for _ in range(self._random.randint(1, 30)):
                    self._answer_batch(journal, results)
                    if self._random.random() < 0.2:
                        results.sync()
                    if self._random.random() < 0.05:
                        self._take_away()

    def _answer_batch(self, journal: Journal, results: Results) -> None:
        results.look()
        writes = []
        with journal.together():
            for _ in range(self._random.randint(1, LARGEST_BATCH)):
                self._count += 1
                name, sha256 = b"%d" % self._count, b"%032d" % self._count
                answer = replace(ANSWER, findings=CELLS[: self._random.randint(0, 9)])
                claim = journal.claim(Path(f"/in/{self._count}"), FileStamp(1, 2, 3), sha256)
                rows = results.plan(name, b"", sha256, answer)
                journal.finish(claim, answer, rows)
                writes += rows
        results.apply(writes)

    def _take_away(self) -> None:
        path = self.folder / self._random.choice(("results.csv", "images.csv"))
        if path.exists():
            os.truncate(path, self._random.choice([0, self._random.randint(0, path.stat().st_size)]))
            self._disk.touched_by_hand(path)
            if path.stat().st_size == 0:
                path.unlink()

    def start(self) -> None:
        with contextlib.closing(Journal(self.folder / "state")) as journal:
            Results(self.folder, journal).mend()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.glob("*.csv")}

    def files_of_the_journal(self) -> dict[str, bytes]:
        with contextlib.closing(JournalReader(self.folder / "state")) as reader:
            files = [part.file for part in reader.parts()]
            return {file: b"".join(row.write.data for row in reader.writes_in(file)) for file in files}


@pytest.mark.parametrize("seed", range(20))
def test_promise_03_after_power_cuts_a_start_finds_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    station = Station(tmp_path, chance, Disk(tmp_path, chance, monkeypatch))
    for _ in range(6):
        station.live()
    station.start()
    assert station.files() == station.files_of_the_journal()
    assert set(station.files()) == {"results.csv", "images.csv"}
