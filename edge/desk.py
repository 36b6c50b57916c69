"""One file from its path to durable rows: the same for the daemon and for a run over a folder.

    open (nothing followed) → sha256 → known? → claim → decode → pipeline → journal → CSV files

Every regular file gets an answer, whatever its name: a text file is `rejected: not an image`.
"""

import errno
import hashlib
import logging
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.cells import Finding
from edge.errors import BackendError, EdgeError, ImageRejected
from edge.images import ImageLimits, decode
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.records import Answer, Entry, FileStamp, State
from edge.results import Results
from edge.stopwatch import Stopwatch

log = logging.getLogger(__name__)

MAX_TRIES = 3
"""How often an image may stop the engine or meet a passing fault before it is `failed`."""

GONE = "gone"
"""The reason of a pending image whose file was there a moment ago."""

_REMEMBERED = frozenset({State.DONE, State.EMPTY, State.DUPLICATE, State.REJECTED})
_PASSING = frozenset(
    {errno.EBUSY, errno.ESTALE, errno.EIO, errno.ENOSPC, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOMEM}
)
_NOT_REGULAR = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR})


class Reader(Protocol):
    """What the desk needs of a pipeline."""

    @property
    def bundle_id(self) -> str: ...

    @property
    def engine_id(self) -> str: ...

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        """Findings of one image, uint8 [H, W, 3] RGB. BackendError: the engine cannot be trusted any more."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one file.

    Attributes:
        status: PENDING if it is to be tried again: `reason` says why ("still changing", "EIO" ...).
        is_new: False if nothing was recorded now: the file was known, is pending, or is no regular file.
        stage_ms: milliseconds by stage.
        rgb: the decoded image, uint8 [H, W, 3]; None if it was not decoded.
    """

    path: Path
    sample: str
    status: State
    reason: str = ""
    is_new: bool = False
    findings: tuple[Finding, ...] = ()
    stage_ms: dict[str, float] = field(default_factory=dict)
    rgb: NDArray[np.uint8] | None = None


class Desk:
    """Processes one file after the other. The journal and the results belong to one output folder.

    Args:
        duplicates: what to do with bytes that have a result under another path: "skip" names that path,
            "again" reads them again.
        detection_threshold: in place of the bundle's.
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
    ) -> None:
        self._pipeline = pipeline
        self._journal = journal
        self._results = results
        self._limits = limits or ImageLimits()
        self._duplicates = duplicates
        self._detection_threshold = detection_threshold
        self._interrupted: Entry | None = None

    def recover(self) -> None:
        """Make the CSV files agree with the journal: at the start, and after `OutputFullError`.

        Raises:
            OutputFullError: there is still no space.
            OutputUnwritableError, JournalError: waiting does not help.
        """
        if self._interrupted is not None:  # a full disk is not the image's fault: the try does not count
            self._journal.note(self._interrupted.image_id, "", self._interrupted.tries - 1)
            self._interrupted = None
        self._results.mend()

    def process(self, path: Path, sample: str = "", *, was_there: bool = False) -> ImageResult:
        """Give one file its answer, durable in the journal and the CSV files when this returns.

        Args:
            path: the file.
            sample: POSIX path of its folder, relative to the inbox.
            was_there: it was seen a moment ago: if it is gone, its whole folder may be, and it is pending.

        Raises:
            BackendError: the engine failed; the image is pending (`failed` at the third try) and the
                process should end.
            OutputFullError: no space for the answer; call `recover` until it succeeds, then try again.
            OutputUnwritableError, JournalError: no answer can be recorded at all.
        """
        watch = Stopwatch()
        path = Path(os.path.abspath(path))  # noqa: PTH100, absolute() keeps the ".." of a path
        task = _Task(path, sample, watch, was_there)
        try:
            task.stamp = FileStamp.of(path.lstat())
            if self._journal.knows(path, task.stamp):
                return self._known(task)
            data, task.stamp = _read_regular(path, self._limits.max_bytes)
        except _ChangingError:
            return ImageResult(path, sample, State.PENDING, "still changing")
        except _NotRegularError:
            return ImageResult(path, sample, State.PENDING, "not a regular file")
        except OSError as error:
            return self._unreadable(task, error)
        watch.lap("read")
        task.sha256 = None if data is None else hashlib.sha256(data).digest()
        known = self._journal.latest(path)
        is_known = known is not None and known.sha256 == task.sha256 and known.state in _REMEMBERED
        # Without bytes to compare, only a journal made anew, which knows no stamps, is believed.
        if known is not None and is_known and (data is not None or known.stamp is None):
            self._journal.touch(known.image_id, task.stamp)
            return self._known(task)
        if data is None or task.sha256 is None:
            log.warning("%r has %d bytes, more than max_bytes.", str(path), task.stamp.size_bytes)
            return self._answer(
                task, self._journal.claim(path, task.stamp, None), State.REJECTED, "too large"
            )
        first = self._journal.first_path(task.sha256) if self._duplicates == "skip" else None
        claim = self._journal.claim(path, task.stamp, task.sha256)
        if first is not None and first != path:
            return self._answer(task, claim, State.DUPLICATE, str(first))
        if claim.tries > MAX_TRIES:
            reason = claim.reason or "the station ended while it read the image"
            return self._answer(task, claim, State.FAILED, f"{reason} ({MAX_TRIES} times)")
        watch.lap("journal")
        return self._read(task, claim, data)

    def _read(self, task: "_Task", claim: Entry, data: bytes) -> ImageResult:
        try:
            try:
                task.rgb = decode(data, self._limits)
            finally:
                task.watch.lap("decode")
            findings = self._pipeline.read(task.rgb, task.watch, self._detection_threshold)
        except ImageRejected as error:
            log.warning("%r is rejected: %s", str(task.path), error)
            return self._answer(task, claim, State.REJECTED, error.reason)
        except BackendError as error:
            log.error(
                "The engine failed at %r, try %d of %d: %s", str(task.path), claim.tries, MAX_TRIES, error
            )
            self._count_fault(task, claim, "engine fault")
            raise
        except Exception as error:
            log.exception("%r failed.", str(task.path))
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            # Unlike the surrogates of a path, those of any text need not stand for bytes.
            text = text.encode("utf-8", "backslashreplace").decode("utf-8")
            return self._answer(task, claim, State.FAILED, text)
        return self._answer(task, claim, State.DONE if findings else State.EMPTY, "", tuple(findings))

    def _unreadable(self, task: "_Task", error: OSError) -> ImageResult:
        path, known = task.path, self._journal.latest(task.path)
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if is_gone and task.was_there:
            return ImageResult(path, task.sample, State.PENDING, GONE)
        if known is not None and known.state in _REMEMBERED:
            # Perhaps the same bytes as before: a claim now would have them read, and written, twice.
            log.warning("%r has its answer and cannot be read again (%s).", str(path), error.strerror)
            if error.errno in _PASSING:
                return ImageResult(path, task.sample, State.PENDING, _name_of(error))
            return self._known(task)
        if is_gone:
            if known is not None and known.state is State.VANISHED:
                return self._known(task)
            log.info("%r has vanished before its turn.", str(path))
            return self._answer(task, self._journal.claim(path, task.stamp, None), State.VANISHED, "")
        if isinstance(error, PermissionError):
            if known is not None and known.reason == "permission":
                return self._known(task)
            log.warning("%r may not be read (%s).", str(path), _owner_and_mode(path))
            return self._answer(task, self._journal.claim(path, task.stamp, None), State.FAILED, "permission")
        reason = _name_of(error)
        claim = self._journal.claim(path, task.stamp, None, reason)
        if error.errno in _PASSING and claim.tries < MAX_TRIES:
            log.warning(
                "%r cannot be read (%s), try %d of %d.", str(path), error.strerror, claim.tries, MAX_TRIES
            )
            return ImageResult(path, task.sample, State.PENDING, reason)
        log.warning("%r cannot be read (%s).", str(path), error.strerror)
        return self._answer(task, claim, State.FAILED, reason)

    def _count_fault(self, task: "_Task", claim: Entry, reason: str) -> None:
        """Keep a fault of the engine; what then goes wrong with the outputs must not hide the fault."""
        try:
            if claim.tries >= MAX_TRIES:
                self._answer(task, claim, State.FAILED, reason)
            else:
                self._journal.note(claim.image_id, reason, claim.tries)
        except EdgeError as error:
            log.error("%s", error)

    def _answer(
        self, task: "_Task", claim: Entry, state: State, reason: str, findings: tuple[Finding, ...] = ()
    ) -> ImageResult:
        finished_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        size_wh = None if task.rgb is None else (task.rgb.shape[1], task.rgb.shape[0])
        origin = (self._pipeline.bundle_id, self._pipeline.engine_id, finished_at)
        answer = Answer(state, reason, findings, size_wh, task.watch.elapsed_ms, *origin)
        name, sample = os.fsencode(task.path.name), os.fsencode(task.sample)
        try:
            writes = self._results.plan(name, sample, task.sha256, answer)
            self._journal.finish(claim, answer, writes)
        except OutputFullError:
            self._interrupted = claim
            raise
        self._results.apply(writes)
        task.watch.lap("record")
        return ImageResult(
            task.path, task.sample, state, reason, True, findings, dict(task.watch.stage_ms), task.rgb
        )

    def _known(self, task: "_Task") -> ImageResult:
        entry = self._journal.latest(task.path)
        assert entry is not None
        return ImageResult(task.path, task.sample, entry.state, entry.reason)


@dataclass(slots=True)
class _Task:
    path: Path
    sample: str
    watch: Stopwatch
    was_there: bool
    stamp: FileStamp | None = None
    sha256: bytes | None = None
    rgb: NDArray[np.uint8] | None = None


class _ChangingError(Exception):
    """The file changed while it was read."""


class _NotRegularError(Exception):
    """A symlink, FIFO, socket, device or folder."""


def _read_regular(path: Path, max_bytes: int) -> tuple[bytes | None, FileStamp]:
    """The bytes of a regular file, None if they are too many, and the version that they are."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise _NotRegularError from error
        raise
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _NotRegularError
        stamp = FileStamp.of(status)
        if stamp.size_bytes > max_bytes:
            return None, stamp
        try:
            data = file.read(stamp.size_bytes + 1)
        except MemoryError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
        if len(data) != stamp.size_bytes or FileStamp.of(os.fstat(handle)) != stamp:
            raise _ChangingError
    return data, stamp


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _owner_and_mode(path: Path) -> str:
    try:
        status = path.lstat()
    except OSError:
        return "owner and mode unknown"
    return f"owner {status.st_uid}, group {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}"
