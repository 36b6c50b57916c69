"""A small archive with all that goes wrong in it, an engine of a few lines, and rows to compare."""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge.archive.listing import list_files, plan
from edge.archive.store import ArchiveStore
from edge.archive.worker import read_part
from edge.cells import Finding
from edge.errors import BackendError
from edge.oneshot import run_once
from edge.stopwatch import Stopwatch

OF_THE_MOMENT = {"latency_ms", "finished_at"}

Rows = Counter[tuple[str, ...]]


class EngineDouble:
    """Finds as many neutrophils as the image's grey level, tells what it was shown, and fails as it is told.

    Attributes:
        shown: grey level of every image that it was given, in order.
        on_read: called with the grey level, before the answer.
        opened: how often it was opened.
    """

    crowd = None
    likeness = None

    bundle_id = "demo-1a2b3c4d5e6f"
    engine_id = "double:fp32"
    classes = ("EO", "PNN")

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.on_read: Callable[[int], None] = lambda grey: None
        self.opened = 1

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        grey = int(rgb[0, 0, 0])
        self.shown.append(grey)
        self.on_read(grey)
        return [Finding((0.25, 0, 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})] * grey

    def reopen(self) -> None:
        self.opened += 1


def fault_at(*greys: int) -> Callable[[int], None]:
    """For `on_read`: the engine fails at these images."""

    def fail(grey: int) -> None:
        if grey in greys:
            raise BackendError("the double failed as it was told; restart it.")

    return fail


def png(grey: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (grey, grey, grey)).save(data, "PNG")
    return data.getvalue()


def write_archive(folder: Path) -> Path:
    """Two samples and their duplicates, and bad files of several kinds, some of them twice."""
    for name, data in {
        b"first.png": png(1),
        b"none.png": png(0),
        b"smear-1/a.png": png(2),
        b"smear-1/=b,\n.png": png(3),
        b"smear-1/latin-\xe9.png": png(4),
        b"smear-2/again.png": png(2),
        b"smear-2/z/again.png": png(1),
        b"smear-2/none.png": png(0),
        b"empty.jpg": b"",
        b"smear-2/empty.jpg": b"",
        b"notes.txt": b"no image\n",
        b"cut.png": png(5)[:40],
        b"smear-2/cut.png": png(5)[:40],
        b"half.png.part": png(6),
    }.items():
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "link.png").symlink_to(folder / "first.png")
    return folder


def rows_of(files: Iterable[Path]) -> Rows:
    """All rows of CSV files, but for what depends on the moment."""
    found: Rows = Counter()
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found[tuple(cell for column, cell in row.items() if column not in OF_THE_MOMENT)] += 1
    return found


def rows_of_archive(out: Path) -> tuple[Rows, Rows]:
    """Of results.csv and of images.csv, all parts together."""
    return rows_of(out.glob("parts/*/results.csv")), rows_of(out.glob("parts/*/images.csv"))


def rows_of_one_run(images: Path, out: Path) -> tuple[Rows, Rows]:
    """What `edge-run` gives with the double."""
    run_once([images], out, EngineDouble())
    return rows_of([out / "results.csv"]), rows_of([out / "images.csv"])


def read_all(engine: EngineDouble, images: Path, out: Path, scratch: Path, partitions: int = 3) -> int:
    """One run without Ray: what `edge.archive.run` has the cluster do, one part after the other."""
    store = ArchiveStore(out)
    manifest = store.manifest(engine.bundle_id, partitions, samples_have_folders=False)
    parts = plan(list_files([images], out), manifest.partitions, store.settled(), store.parts())
    return sum(read_part(engine, store, part, scratch) for part in parts)  # type: ignore[arg-type]
