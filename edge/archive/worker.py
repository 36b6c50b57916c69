"""What runs on the cluster: one engine a worker, and one part after the other through the station's desk.

A part is a run of its own over its files, with a journal and CSV files in a scratch folder on the worker's
machine. So every rule of the desk holds here, too: what is rejected and why, what is a duplicate, how often
an image may stop the engine. When the last file has its answer the part is published; a worker that is
started again on the same machine goes on behind the last answer.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.archive.listing import Part
from edge.archive.store import ArchiveStore, PartName
from edge.archive.tables import Answered, images_table, results_table
from edge.backends.base import CPU_THREADS_VARIABLE
from edge.bundle import Bundle, embedded_bundle
from edge.cells import Finding
from edge.desk import Desk
from edge.errors import ArchiveError, BackendError, EdgeError, StationError
from edge.journal import Journal
from edge.journal_tool.reader import JournalReader
from edge.likeness import Likeness
from edge.locks import output_error
from edge.opening import MAX_TRIES
from edge.outputs import open_desk
from edge.pipeline import Pipeline, open_pipeline
from edge.records import Answer, State
from edge.results import image_cells, unescape
from edge.stopwatch import Stopwatch

_SHARED_MEMORY = Path("/dev/shm")
_MOST_STARTS = 100
"""Of workers with one part on one machine. Ray starts a dead one again for ever, also where an engine crashes
when it is opened; an image takes no more than three with it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker is told.

    Attributes:
        out: the output folder, at the same place on every machine.
        archive_id: of the manifest.
        bundle: folder of the bundle, at the same place on every machine; None: the embedded one.
        bundle_id: that it must have there.
        backend, precision, server_url: as `open_pipeline` takes them.
        cpus: threads of a worker.
    """

    out: Path
    archive_id: str
    bundle: Path | None
    bundle_id: str
    backend: str
    precision: str
    server_url: str | None
    cpus: int


class Engine:
    """A pipeline that is opened anew after a fault; an `edge.desk.Reader` of one lane."""

    crowd = None

    def __init__(self, order: Order) -> None:
        self._order = order
        self._pipeline = self._open()

    @property
    def likeness(self) -> Likeness | None:
        """As `Pipeline.likeness`."""
        return self._pipeline.likeness

    @property
    def bundle_id(self) -> str:
        return self._pipeline.bundle_id

    @property
    def engine_id(self) -> str:
        return self._pipeline.engine_id

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self._pipeline.bundle.manifest.classes

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        """As `Pipeline.read`."""
        return self._pipeline.read(rgb, watch, detection_threshold)

    def reopen(self) -> None:
        """Begin with a new engine, which is tested first.

        Raises:
            BackendError: there is none that gives the known answers.
        """
        self._pipeline.close()
        self._pipeline = self._open()

    def _open(self) -> Pipeline:
        order = self._order
        bundle = Bundle.load(order.bundle or embedded_bundle())
        if bundle.id != order.bundle_id:
            raise StationError(
                f"the bundle on {os.uname().nodename} is {bundle.id}, not {order.bundle_id}; install the "
                "same version and bundle on every machine."
            )
        return open_pipeline(bundle, order.backend, order.precision, server_url=order.server_url)


class PartReader:
    """The actor: reads parts. Its engine is opened for the first one."""

    def __init__(self, order: Order) -> None:
        import cv2

        logging.basicConfig(level=logging.ERROR)  # every file has its row and reason in images.csv
        os.environ[CPU_THREADS_VARIABLE] = str(order.cpus)
        cv2.setNumThreads(order.cpus)
        self._order = order
        self._store = ArchiveStore(order.out)
        self._engine: Engine | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Read one part and publish it.

        Args:
            row: `part`, its name; `paths` and `samples`, lists of bytes; as `as_row` makes it.

        Returns:
            `part`; `files`, how many it has; `pending`, how many have no answer; `error`, the sentence that
            ends the run, or "".
        """
        name = PartName.of(row["part"])
        assert name is not None
        part = Part(name, tuple(zip(row["paths"], row["samples"], strict=True)))
        pending, sentence = 0, ""
        try:
            if not self._store.has(name):
                scratch = scratch_of(self._order.archive_id)
                count_start(scratch / f"{name}.starts")
                self._engine = self._engine or Engine(self._order)
                pending = read_part(self._engine, self._store, part, scratch)
        except EdgeError as error:
            sentence = str(error)
        except OSError as error:  # of the scratch folder: Ray would tell a piece of its traceback
            sentence = str(output_error(error, Path(error.filename or _SHARED_MEMORY)))
        return {"part": row["part"], "files": len(part.files), "pending": pending, "error": sentence}


def as_row(part: Part) -> dict[str, Any]:
    """A part as `PartReader` takes it."""
    return {
        "part": str(part.name),
        "paths": [path for path, _ in part.files],
        "samples": [sample for _, sample in part.files],
    }


def scratch_of(archive_id: str) -> Path:
    """This machine's scratch folder for an archive, in memory where there is memory for it.

    Raises:
        StationError: somebody else has made it.
    """
    parent = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    folder = parent / f"edge-archive-{archive_id}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise StationError(f"{str(folder)!r} is another user's; remove it, or read the archive as that user.")
    return folder


def count_start(counter: Path) -> None:
    """Count in a file that a worker begins a part.

    Raises:
        ArchiveError: too many have; the next run counts from the beginning.
    """
    with counter.open("ab") as file:
        file.write(b".")
        count = file.tell()
    if count > _MOST_STARTS:
        counter.unlink()
        raise ArchiveError(
            f"workers on {os.uname().nodename} ended {_MOST_STARTS} times in the part {counter.stem}; try "
            "the engine with edge-bench there, mend what ends it, then start again."
        )


def read_part(engine: Engine, store: ArchiveStore, part: Part, scratch: Path) -> int:
    """Give every file of a part its answer and publish them.

    Returns:
        How many files have no answer yet: they change, or are no regular files.

    Raises:
        EdgeError: no engine, or no place for the answers.
    """
    folder = scratch / str(part.name)
    pending = 0
    with open_desk(engine, folder) as (desk, journal):
        _adopt(journal, store, part.name)
        for path, sample in part.files:
            state = _answer(desk, engine, Path(os.fsdecode(path)), os.fsdecode(sample))
            pending += state is State.PENDING
    answered = _answered(folder)
    if answered:
        tables = images_table(answered), results_table(answered, engine.classes)
        store.publish(part.name, *tables, sorted(folder.glob("*.csv")))
    shutil.rmtree(folder, ignore_errors=True)
    (scratch / f"{part.name}.starts").unlink(missing_ok=True)
    return pending


def _answer(desk: Desk, engine: Engine, path: Path, sample: str) -> State:
    """A fault that can pass is tried again at once, with a new engine if it was the engine's."""
    state = State.PENDING
    for _ in range(MAX_TRIES + 1):  # the journal answers for one that stopped the engine too often
        try:
            state = desk.process(path, sample).status
        except BackendError:
            engine.reopen()
            continue
        if state is not State.PENDING:
            break
    return state


def _adopt(journal: Journal, store: ArchiveStore, name: PartName) -> None:
    """Let the journal know what earlier parts of the partition say."""
    numbers = (PartName(name.partition, number) for number in range(name.number))
    earlier = [part for part in numbers if store.has(part)]  # all parts of an archive are tens of thousands
    columns = ["path", "image_sha256", "status", "reason", "bundle", "engine"]
    rows = [row for part in earlier for row in store.images(part, columns).to_pylist()]
    if rows and not journal.counts():
        journal.adopt(
            (
                Path(os.fsdecode(unescape(row["path"]))),
                bytes.fromhex(row["image_sha256"]) if row["image_sha256"] else None,
                Answer(State(row["status"]), row["reason"], (), None, 0.0, row["bundle"], row["engine"], ""),
                [],
            )
            for row in rows
        )


def _answered(folder: Path) -> Sequence[Answered]:
    """What the run in the scratch folder has answered, in the order of its rows; what it adopted has none."""
    with closing(JournalReader(folder / ".edge")) as reader:
        entries = {entry.image_id: entry for entry in reader.images()}
        return [
            (entries[row.image_id], image_cells(row.write.data), reader.findings(row.image_id))
            for row in reader.writes()
            if row.image_id is not None and row.write.output == "images"
        ]
