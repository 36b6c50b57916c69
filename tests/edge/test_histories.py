"""Whatever happened before: every picture has its rows once, and every version of a file its answer.

Histories are drawn at random, the same ones in each run: files appear, change, come back, are cut off,
touched, swapped and removed, cannot be read for a while, CSV files are torn and taken away, the disk fills
up, the engine fails, the process dies.
"""

import contextlib
import csv
import io
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edge import opening
from edge.errors import BackendError
from edge.journal import Journal
from edge.journal_tool.reader import JournalReader
from edge.journal_tool.verify import verify
from edge.locks import OutputFullError
from edge.outputs import open_desk
from edge.projection import CsvFile, part_number
from edge.records import FileStamp
from edge.tasks import Arrival
from tests.edge.pipeline_doubles import OneCell

NAMES = ("a.png", "b.png", "c.png")
STEPS = 40
EVENTS = (
    *("write", "write", "replace", "touch", "remove", "swap", "copy"),
    *("tear", "take away"),
)


class Died(BaseException):
    """Stands for SIGKILL."""


def picture(grey: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (grey, grey, grey)).save(data, "PNG")
    return data.getvalue()


WHOLE = [picture(grey) for grey in (0, 50, 100)]
CONTENTS = [*WHOLE, WHOLE[1][:40], b"no image"]


class History:
    """A folder of files, a station on it, and what happens to both."""

    def __init__(self, folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = random.Random(seed)
        self.inbox, self.out = folder / "in", folder / "out"
        self.inbox.mkdir()
        self.pipeline = OneCell()
        self.monkeypatch = monkeypatch
        self.told: list[str] = []

    def happen(self) -> None:
        """One more thing happens to the files."""
        names = self.random.sample(NAMES, 2)
        path, other = (self.inbox / name for name in names)
        rows = self.out / self.random.choice(("results.csv", "images.csv"))
        what = self.random.choice(EVENTS)
        self.told.append(f"{what} {path.name} {other.name} {rows.name}")
        if rows.exists() and what == "tear":
            os.truncate(rows, max(rows.stat().st_size - self.random.randrange(300), 0))
        elif rows.exists() and what == "take away":
            rows.unlink()
        elif what == "write":
            path.write_bytes(self.random.choice(CONTENTS))
        elif what == "replace":
            (self.inbox / ".new").write_bytes(self.random.choice(CONTENTS))
            (self.inbox / ".new").replace(path)
        elif path.exists() and what == "touch":
            os.utime(path, ns=(0, self.random.randrange(10**9)))
        elif path.exists() and what == "remove":
            path.unlink()
        elif path.exists() and what == "copy":
            shutil.copy(path, other)
        elif path.exists() and other.exists() and what == "swap":
            path.rename(self.inbox / ".swap")
            other.rename(path)
            (self.inbox / ".swap").rename(other)

    def work(self, fault: str | None) -> None:
        """The station reads what there is, once; it may meet a fault."""
        paths = [self.inbox / name for name in NAMES if self.random.random() < 0.8]
        self.told.append(f"read {[path.name for path in paths]}, {fault}")
        with self.monkeypatch.context() as patch, contextlib.suppress(Died, BackendError, OutputFullError):
            self._meet(fault, patch)
            with open_desk(self.pipeline, self.out) as (desk, journal):
                unknown = [path for path in paths if not self.is_known(journal, path)]
                list(desk.process_all(Arrival(path, was_there=path.exists()) for path in unknown))

    def _meet(self, fault: str | None, patch: pytest.MonkeyPatch) -> None:
        after = self.random.randrange(3)
        errors: dict[str, tuple[object, str, BaseException]] = {
            "unreadable": (opening, "_read_regular", OSError(self.random.choice((5, 16, 13)), "x")),
            "full": (Journal, "finish", OutputFullError("no space")),
            "full of rows": (CsvFile, "apply", OutputFullError("no space")),
            "engine": (OneCell, "read", BackendError("Xid")),
            "death before the claim": (Journal, "claim", Died()),
            "death before the answer": (Journal, "finish", Died()),
            "death before the rows": (CsvFile, "apply", Died()),
        }
        if fault is not None:
            owner, name, error = errors[fault]
            patch.setattr(owner, name, failing_after(after, getattr(owner, name), error))

    @staticmethod
    def is_known(journal: Journal, path: Path) -> bool:
        return path.exists() and journal.knows(path, FileStamp.of(path.lstat()))

    def rows(self, output: str) -> list[dict[str, str]]:
        found = []
        for path in sorted(self.out.glob(f"{output}*.csv"), key=lambda path: part_number(path.name)):
            with path.open(newline="", encoding="utf-8") as file:
                found += list(csv.DictReader(file))
        return found


def failing_after(count: int, real: Callable[..., object], error: BaseException) -> Callable[..., object]:
    left = iter(range(count))

    def call(*args: object, **options: object) -> object:
        if next(left, None) is None:
            raise error
        return real(*args, **options)

    return call


FAULTS = (
    *(None, None, "unreadable", "full", "full of rows", "engine"),
    *("death before the claim", "death before the answer", "death before the rows"),
)


@pytest.mark.parametrize("seed", range(30))
def test_promise_01_every_picture_has_its_rows_once_and_every_version_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    history = History(tmp_path, seed, monkeypatch)
    for _ in range(STEPS):
        for _ in range(history.random.randrange(3)):
            history.happen()
        history.work(history.random.choice(FAULTS))
    for _ in range(3):  # nothing happens any more
        history.work(None)
    history.random.random = lambda: 0.0  # type: ignore[method-assign]
    history.work(None)
    told = "\n".join(history.told)

    cells = Counter(row["image_sha256"] for row in history.rows("results"))
    assert set(cells.values()) <= {1}, told
    last = {row["NAME"]: row for row in history.rows("images")}
    with open_desk(history.pipeline, history.out) as (_, journal):
        for name in NAMES:
            path = history.inbox / name
            if path.exists():
                assert history.is_known(journal, path), f"{name} has no answer\n{told}"
                data, status = path.read_bytes(), last[name]["status"]
                assert (status == "rejected") == (data not in WHOLE) or status == "failed", told
    before = history.rows("images")
    history.work(None)
    assert history.rows("images") == before, told
    differences: list[str] = []
    with contextlib.closing(JournalReader(history.out / ".edge")) as reader:
        list(verify(reader, history.out, differences.append, images=True))
    assert differences == [], told
