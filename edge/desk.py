"""Files from their path to durable rows: the same for the daemon and for a run over a folder.

    open (nothing followed) → sha256 → known? → claim → decode → pipeline → journal → CSV files

Every regular file gets an answer, whatever its name: a text file is `rejected: not an image`.

One file alone goes this way as fast as it can. While several wait they go it in batches: their claims are
one transaction and their answers another, and decoding and, on a processor, the networks run in as many lanes
as bring the most images a second, while the caller's thread opens the next batch and records the last one.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.cells import Finding
from edge.errors import BackendError, EdgeError, ImageRejected, JournalError, StationError
from edge.images import ImageLimits, decode
from edge.journal import Journal
from edge.likeness import Likeness
from edge.locks import OutputFullError
from edge.opening import MAX_TRIES, Opener
from edge.records import LARGEST_BATCH, Answer, Entry, State, Write
from edge.results import Results
from edge.stopwatch import Stopwatch
from edge.tasks import Arrival, ImageResult, Task, Verdict

log = logging.getLogger(__name__)

_BATCHES_IN_HAND = 2
_BATCH_BYTES = 32 << 20
"""A batch is closed when its files are so large together."""
_DECODED_AHEAD = 2
"""How many images may lie decoded where one is read after the other."""


class Lanes(Protocol):
    """A pipeline whose `read` may be called by several threads at once."""

    @property
    def lanes(self) -> int:
        """By how many."""

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        """As `Reader.read`."""


class Reader(Protocol):
    """What the desk needs of a pipeline."""

    @property
    def crowd(self) -> Lanes | None:
        """The same pipeline for images that wait for each other; None: it reads one after the other."""

    @property
    def likeness(self) -> Likeness | None:
        """What an image is compared with after it was read; None: with nothing."""

    @property
    def bundle_id(self) -> str: ...

    @property
    def engine_id(self) -> str: ...

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        """Findings of one image, uint8 [H, W, 3] RGB. BackendError: the engine cannot be trusted any more."""


class Desk:
    """Processes files for one output folder, to which the journal and the results belong. For one thread.

    Args:
        duplicates: what to do with bytes that have a result already: "skip" names its path, "again" reads
            them again.
        detection_threshold: in place of the bundle's.
        keep_pixels: give the decoded images with the results; then fewer are in hand.
    """

    def __init__(
        self,
        pipeline: Reader,
        journal: Journal,
        results: Results,
        *,
        limits: ImageLimits | None = None,
        duplicates: Literal["skip", "again"] = "skip",
        detection_threshold: float | None = None,
        keep_pixels: bool = False,
    ) -> None:
        self._pipeline = pipeline
        self._journal = journal
        self._results = results
        self._limits = limits or ImageLimits()
        self._opener = Opener(journal, self._limits, duplicates)
        self._detection_threshold = detection_threshold
        self._keep_pixels = keep_pixels
        self._unanswered: dict[int, Entry] = {}
        """Claims by their number. They lose the try that ends without their fault."""
        self._untold: dict[Path, ImageResult] = {}
        """Answers that the journal has, and that a full disk kept from the CSV files and from being given."""
        self._threads: ThreadPoolExecutor | None = None

    def recover(self) -> None:
        """Make the CSV files agree with the journal: at the start, and after `OutputFullError`.

        Raises:
            OutputFullError: there is still no space.
            OutputUnwritableError, JournalError: waiting does not help.
        """
        self._take_back_tries()
        self._results.mend()

    def settle(self) -> None:
        """Bring the CSV files to the disk, when nothing waits; a start writes what a power cut took before.

        Raises:
            OutputFullError, OutputUnwritableError: as `recover`.
        """
        self._results.sync()

    def close(self) -> None:
        """End the threads; files that were begun and have no answer are tried again as if they were not."""
        if self._threads is not None:
            self._threads.shutdown()
        with suppress(EdgeError):  # of which somebody has been told already
            self._take_back_tries()

    def _take_back_tries(self) -> None:
        if self._unanswered:
            with self._journal.together():
                for claim in self._unanswered.values():
                    self._journal.note(claim.image_id, claim.reason, claim.tries - 1)
            self._unanswered.clear()

    def process(self, path: Path, sample: str = "", *, was_there: bool = False) -> ImageResult:
        """`process_all` for one file."""
        first, *_ = self.process_all([Arrival(path, sample, was_there)])
        return first

    def process_all(
        self, arrivals: Iterable[Arrival], alive: Callable[[], None] = lambda: None
    ) -> Iterator[ImageResult]:
        """Give files their answers: durable in the journal and written to the CSV files when they are given.

        So are those that met a full disk after they were committed, whether their files come again or not.

        Args:
            arrivals: files as they come; the next are asked for while earlier ones are read.
            alive: called whenever one more file was opened, or a piece of a large one, or an image read.

        Raises:
            BackendError: the engine failed; images in hand are pending (`failed` at the third try) and the
                process should end.
            OutputFullError: no space for the answers that were not given; call `recover` until it succeeds,
                then call this again, with the same files.
            OutputUnwritableError, JournalError: no answer can be recorded at all.
        """
        waiting = iter(arrivals)
        in_hand: deque[list[Task]] = deque()
        apart: Arrival | None = None
        """A file that is opened again when nothing is in hand; nothing behind it is opened before."""
        try:
            while True:
                while not apart and len(in_hand) < _BATCHES_IN_HAND and (batch := self._open(waiting, alive)):
                    if batch[-1].is_apart:
                        apart = batch.pop().arrival
                    if batch:
                        in_hand.append(batch)
                    if len(in_hand) == len(batch) == 1:
                        break  # it is alone, and does not wait for more
                    self._read_ahead(in_hand)
                if not in_hand:
                    if apart is None:
                        break
                    in_hand.append(self._open(iter([apart]), alive, alone=True))
                    apart = None
                yield from self._conclude(in_hand, alive)
                in_hand.popleft()
        except (StationError, JournalError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException:  # any of those in hand may have brought it about
            self._unanswered.clear()
            raise
        finally:
            for task in chain.from_iterable(in_hand):
                self._opener.release(task)
                if task.reading is not None:
                    task.reading.cancel()
        while self._untold:
            yield self._untold.popitem()[1]

    def _open(
        self, waiting: Iterator[Arrival], alive: Callable[[], None], *, alone: bool = False
    ) -> list[Task]:
        """The next batch, opened and claimed; empty where nothing waits. Only its last one may be apart."""
        tasks: list[Task] = []
        first = next(waiting, None)
        if first is None:
            return tasks
        most, size_bytes = 2 if self._keep_pixels else LARGEST_BATCH, 0
        try:
            with self._journal.together(durable=False):
                for arrival in islice(chain([first], waiting), most):
                    tasks.append(self._opener.open(arrival, alive, alone=alone))
                    alive()
                    size_bytes += len(tasks[-1].data or b"")
                    if size_bytes > _BATCH_BYTES or tasks[-1].is_apart:
                        break
        except BaseException:  # then none of them is claimed
            for task in tasks:
                self._opener.release(task)
            raise
        self._unanswered |= {task.claim.image_id: task.claim for task in tasks if task.claim is not None}
        return tasks

    def _read_ahead(self, in_hand: Iterable[list[Task]]) -> None:
        """Begin to read all in the lanes; to decode the next ones, where the pipeline has but one."""
        crowd = self._pipeline.crowd
        if self._threads is None:
            self._threads = ThreadPoolExecutor(crowd.lanes if crowd else 1, "lane")
        waiting = (task for task in chain.from_iterable(in_hand) if task.is_to_be_read)
        for task in waiting if crowd else islice(waiting, _DECODED_AHEAD):
            if task.reading or task.decoding:
                continue
            if crowd is not None:
                task.reading = self._threads.submit(self._read, task, crowd)
            else:
                task.decoding = self._threads.submit(self._decode, task)

    def _conclude(self, in_hand: deque[list[Task]], alive: Callable[[], None]) -> Iterator[ImageResult]:
        """Wait for the findings of the first batch, record all its answers at once, and give them."""
        batch = in_hand[0]
        for task in batch:
            if task.is_to_be_read:
                if task.decoding is not None:
                    self._read_ahead(in_hand)
                try:
                    task.verdict = task.reading.result() if task.reading else self._read(task, self._pipeline)
                except BackendError as error:
                    self._count_fault(task, error)
                    raise
            alive()
        self._record([task for task in batch if task.verdict is not None])
        for task in batch:
            self._opener.release(task)
            if task.result is not None:
                untold = self._untold.pop(task.path, task.result)
                yield task.result if task.result.is_new or task.result.status is State.PENDING else untold

    def _decode(self, task: Task) -> NDArray[np.uint8]:
        task.watch.lap("wait")
        assert task.data is not None
        try:
            rgb = decode(task.data, self._limits)
        finally:
            task.data = None
            task.watch.lap("decode")
        task.size_wh = (rgb.shape[1], rgb.shape[0])
        return rgb

    def _read(self, task: Task, pipeline: Lanes | Reader) -> Verdict:
        """What the pipeline says of one image, in any thread. BackendError: the engine failed."""
        path = str(task.path)
        try:
            rgb = task.decoding.result() if task.decoding else self._decode(task)
            task.watch.lap("wait")
            findings = pipeline.read(rgb, task.watch, self._detection_threshold)
            unlikeness = None
            if (likeness := self._pipeline.likeness) is not None:
                unlikeness = likeness.compare(rgb, findings)
                task.watch.lap("compare")
        except ImageRejected as error:
            log.warning("%r is rejected: %s", path, error)
            return Verdict(State.REJECTED, error.reason)
        except BackendError:
            raise
        except Exception as error:
            log.exception("%r failed.", path)
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            # Unlike the surrogates of a path, those of any text need not stand for bytes.
            return Verdict(State.FAILED, text.encode("utf-8", "backslashreplace").decode("utf-8"))
        finally:
            task.decoding = None
        if self._keep_pixels:
            task.rgb = rgb
        return Verdict(State.DONE if findings else State.EMPTY, "", tuple(findings), unlikeness)

    def _count_fault(self, task: Task, error: BackendError) -> None:
        """Keep a fault of the engine; what then goes wrong with the outputs must not hide the fault."""
        claim, reason = task.claim, "engine fault"
        assert claim is not None
        said = (str(task.path), claim.tries, MAX_TRIES, error)
        log.error("The engine failed at %r, try %d of %d: %s", *said)
        try:
            if claim.tries >= MAX_TRIES:
                task.verdict = Verdict(State.FAILED, reason)
                self._record([task])
            else:
                self._journal.note(claim.image_id, reason, claim.tries)
        except EdgeError as another:
            log.error("%s", another)

    def _record(self, tasks: list[Task]) -> None:
        """Commit the answers of claimed tasks, then write them."""
        if not tasks:
            return
        for task in tasks:
            task.watch.lap("wait")  # for the others of its batch
        self._results.look()
        writes: list[Write] = []
        with self._journal.together():
            for task in tasks:
                writes += self._plan(task)
        for task in tasks:
            assert task.claim is not None
            self._unanswered.pop(task.claim.image_id, None)
            task.watch.lap("commit")
        try:
            self._results.apply(writes)
        except OutputFullError:
            self._untold |= {task.path: _result_of(task) for task in tasks}
            raise
        for task in tasks:
            task.watch.lap("csv")
            task.result = _result_of(task)

    def _plan(self, task: Task) -> list[Write]:
        """Store an answer and what is to be written for it."""
        verdict, claim = task.verdict, task.claim
        assert verdict is not None
        assert claim is not None
        finished_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        origin = (self._pipeline.bundle_id, self._pipeline.engine_id, finished_at)
        seen = (verdict.findings, task.size_wh, task.watch.elapsed_ms)
        answer = Answer(verdict.state, verdict.reason, *seen, *origin, verdict.unlikeness)
        name, sample = os.fsencode(task.path.name), os.fsencode(task.arrival.sample)
        writes = self._results.plan(name, sample, task.sha256, answer)
        self._journal.finish(claim, answer, writes)
        return writes


def _result_of(task: Task) -> ImageResult:
    verdict = task.verdict
    assert verdict is not None
    return ImageResult(
        *(task.path, task.arrival.sample, verdict.state, verdict.reason, True),
        *(verdict.findings, dict(task.watch.stage_ms), task.rgb, verdict.unlikeness, task.is_new_version),
    )
