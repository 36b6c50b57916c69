"""`edge-archive`: plan the parts, and let the cluster read them."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from edge.archive.cluster import ray_cluster
from edge.archive.listing import Part, list_files, partition_count, plan
from edge.archive.store import ArchiveStore
from edge.archive.worker import Order, PartReader, as_row, scratch_of
from edge.bundle import Bundle, embedded_bundle
from edge.errors import ArchiveError
from edge.locks import locked_folder
from edge.oneshot import samples_have_folders

_LINE_EVERY_S = 30.0
_CARD_BACKENDS = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True, slots=True)
class Engines:
    """What reads, and on how much of the cluster.

    Attributes:
        bundle: folder; None: the embedded one.
        backend, precision, server_url: as `edge.pipeline.open_pipeline` takes them.
        workers: how many; None: as many as the cluster has room for.
        cpus: processor cores, and threads, of each.
    """

    bundle: Path | None = None
    backend: str = "auto"
    precision: str = "auto"
    server_url: str | None = None
    workers: int | None = None
    cpus: int = 1

    @property
    def gpus(self) -> int:
        """Cards of each worker."""
        return int(self.backend in _CARD_BACKENDS)


def read_archive(images: Sequence[Path], out: Path, engines: Engines, address: str | None = None) -> int:
    """Give every file an answer; show a bar on a terminal, and plain lines elsewhere.

    Args:
        images: files, and folders whose files are taken with all sub-folders; see `edge.oneshot.find_files`.
        out: see `edge.archive.store`.
        address: of a Ray cluster; None starts one on this machine.

    Returns:
        How many files have no answer yet: they change, or are no regular files.

    Raises:
        EdgeError: nothing can be read, or nothing written. Parts that are published stay.
    """
    bundle = Bundle.load(engines.bundle or embedded_bundle())
    with locked_folder(out, ".archive.lock"):
        files = list_files(images, out)
        store = ArchiveStore(out)
        manifest = store.manifest(bundle.id, partition_count(len(files)), samples_have_folders(images))
        with _Bar("looking", len(files)) as bar:
            parts = plan(files, manifest.partitions, store.settled(), store.parts(), bar.advance)
        if not parts:
            return 0
        order = Order(
            *(out.absolute(), manifest.archive_id, engines.bundle and engines.bundle.absolute(), bundle.id),
            *(engines.backend, engines.precision, engines.server_url, engines.cpus),
        )
        with ray_cluster(address):
            pending = _read(parts, order, engines)
        store.sweep()
        shutil.rmtree(scratch_of(manifest.archive_id), ignore_errors=True)
    return pending


def _read(parts: Sequence[Part], order: Order, engines: Engines) -> int:
    pending = 0
    with _Bar("reading", sum(len(part.files) for part in parts)) as bar:
        for row in _rows(parts, order, engines):
            if row["error"]:
                raise ArchiveError(row["error"])
            pending += row["pending"]
            bar.advance(row["files"])
    return pending


def _rows(parts: Sequence[Part], order: Order, engines: Engines) -> Iterator[dict[str, Any]]:
    """What `PartReader` says of each part, as they are published."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    workers = min(_workers(engines), len(parts))
    # The largest first, so that the last ones to end are small.
    rows = [as_row(part) for part in sorted(parts, key=lambda part: -len(part.files))]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        PartReader,
        fn_constructor_args=[order],
        compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=engines.cpus,
        num_gpus=engines.gpus,
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise ArchiveError(
            f"the cluster stopped reading ({' '.join(str(error).split())[:300]}); start again, it goes on "
            "behind the last part."
        ) from error


def _workers(engines: Engines) -> int:
    import ray

    has = ray.cluster_resources()
    room = int(has.get("CPU", 0)) // engines.cpus
    if engines.gpus:
        room = min(room, int(has.get("GPU", 0)) // engines.gpus)
    wanted = engines.workers or max(1, room)
    if wanted > room:
        cards = f" and {engines.gpus} card" if engines.gpus else ""
        raise ArchiveError(
            f"the cluster has {has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} cards, room for {room} "
            f"workers of {engines.cpus} cores{cards}, not for {wanted}; ask for fewer, or add machines."
        )
    return wanted


class _Bar:
    """How far it is: a bar on a terminal, else a line every half minute."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._console = Console(stderr=True)
        self._last_line = time.monotonic()
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, count: int) -> None:
        """So many more files are done."""
        self._done += count
        self._bar.advance(self._task, count)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(f"{self._what}: {self._done} of {self._total} files", highlight=False)
