"""A journal and its CSV files without a station."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.cells import Finding
from edge.journal import Journal
from edge.records import Answer, FileStamp, State
from edge.results import Results

ANSWER = Answer(State.EMPTY, "", (), (4, 5), 6.0, "b", "e", "t")
CELLS = tuple(Finding((x, 0, x + 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2}) for x in range(9))


real_pwrite = os.pwrite


class PowerCut(BaseException):
    """The process is gone: nothing after this runs."""


@dataclass
class Bench:
    """A journal and its results in a folder; `restart` opens both anew, as after a crash."""

    folder: Path
    journal: Journal = field(init=False)
    results: Results = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        (self.folder / "state").mkdir(exist_ok=True)
        self.journal = Journal(self.folder / "state")
        self.results = Results(self.folder, self.journal)
        self.results.mend()

    def close(self) -> None:
        self.journal.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def answer(
        self,
        name: str,
        sha256: bytes | None = b"",
        finished_at: str = "t",
        meanwhile: Callable[[], object] = lambda: None,
        cells: int = 0,
    ) -> None:
        """Record an image; `meanwhile` is called after its commit, before it is written."""
        sha256 = name.encode().ljust(32) if sha256 == b"" else sha256
        answer = replace(ANSWER, finished_at=finished_at, findings=CELLS[:cells])
        claim = self.journal.claim(Path("/in") / name, FileStamp(1, 2, 3), sha256)
        self.results.look()
        writes = self.results.plan(name.encode(), b"", sha256, answer)
        self.journal.finish(claim, answer, writes)
        meanwhile()
        self.results.apply(writes)

    @property
    def csv(self) -> Path:
        return self.folder / "images.csv"

    def names(self, file: str = "images.csv") -> list[str]:
        return [line.split(",")[0] for line in (self.folder / file).read_text().splitlines()]


def dies_after(count: int) -> Callable[[int, bytes, int], int]:
    def pwrite(handle: int, data: bytes, at: int) -> int:
        if count:
            real_pwrite(handle, data[:count], at)
        raise PowerCut

    return pwrite


def edit(path: Path, old: str, new: str) -> None:
    """As `sed -i`: another file takes the place."""
    text = path.read_text()
    assert text.count(old) == 1
    path.with_name("edited").write_text(text.replace(old, new))
    path.with_name("edited").replace(path)
