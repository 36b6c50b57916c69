"""A file becomes a claimed task, or an answer without a look at its pixels.

Nothing is followed: a link, FIFO, socket or device is not opened. The bytes are the key (sha256); the stamp
of a file (size, time of change, inode) only saves reading it again.
"""

import errno
import hashlib
import io
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from edge.images import ImageLimits
from edge.journal import Journal
from edge.records import PASSING_FAULTS, PERMISSION, REASONS_THAT_MAY_PASS, Entry, FileStamp, State
from edge.tasks import Arrival, ImageResult, Task, Verdict

log = logging.getLogger(__name__)

MAX_TRIES = 3
"""How often an image may stop the engine or meet a passing fault before it is `failed`."""

GONE, CHANGING, NOT_REGULAR = "gone", "still changing", "not a regular file"
"""Reasons of a pending image: its file was there a moment ago, changed meanwhile, or is a link or device."""

_PIECE_BYTES = 4 << 20
"""Of a large file, read at a time: a share that gives less in a minute is taken for hung."""

_REMEMBERED = frozenset({State.DONE, State.EMPTY, State.DUPLICATE, State.REJECTED})
_NOT_REGULAR = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR})


class Opener:
    """Opens and claims files, and remembers which are in hand: claimed and not released.

    Args:
        journal: in which they are claimed.
        limits: larger files are not read.
        duplicates: "skip" answers bytes that have a result already with the path of that, "again" has them
            read again. The path may be their own, if another version stood there in between.
    """

    def __init__(self, journal: Journal, limits: ImageLimits, duplicates: Literal["skip", "again"]) -> None:
        self._journal = journal
        self._limits = limits
        self._duplicates = duplicates
        self._in_hand: set[Path | bytes | None] = set()
        """Paths and sha256."""
        self._faults: Counter[Path] = Counter()
        """How often in a row files with an answer met a passing fault."""

    def open(self, arrival: Arrival, alive: Callable[[], None], *, alone: bool) -> Task:
        """Open a file and claim it, or see that there is no need to.

        Args:
            arrival: the file.
            alive: called between the pieces of a large one.
            alone: nothing else is in hand, so that no file has to be left apart.
        """
        task = Task(arrival, Path(os.path.abspath(arrival.path)))  # noqa: PTH100, absolute() keeps ".."
        self._open(task, alive, alone)
        return task

    def release(self, task: Task) -> None:
        """A task was recorded, or will not be."""
        self._in_hand -= {task.path, task.sha256}

    def _open(self, task: Task, alive: Callable[[], None], alone: bool) -> None:
        path, journal = task.path, self._journal
        if path in self._in_hand:
            task.is_apart = True
            return
        try:
            task.stamp = FileStamp.of(path.lstat())
            if journal.knows(path, task.stamp):
                task.result = self._known(task)
                return
            task.data, task.stamp = _read_regular(path, self._limits.max_bytes, alive)
        except _ChangingError:
            task.result = task.pending(CHANGING)
            return
        except _NotRegularError:
            task.result = task.pending(NOT_REGULAR)
            return
        except OSError as error:
            self._unreadable(task, error)
            return
        self._faults.pop(path, None)
        task.watch.lap("read")
        sha256 = task.sha256 = None if task.data is None else hashlib.sha256(task.data).digest()
        known = journal.latest(path)
        # Files that are not read are told by their size, on which alone their answer depends. A journal that
        # was made anew knows no stamps.
        if (
            known is not None
            and known.state in _REMEMBERED
            and known.sha256 == sha256
            and (known.stamp is None or known.stamp.size_bytes == task.stamp.size_bytes)
        ):
            journal.touch(known.image_id, task.stamp)
            task.result = self._known(task)
            return
        # What may have stopped the engine, or will be known when its twin is recorded, must come by itself.
        was_tried = known is not None and known.state is State.PENDING and known.tries > 0
        if (was_tried and not alone) or sha256 in self._in_hand:
            task.is_apart = True
            return
        was_unreadable = known is not None and known.reason in REASONS_THAT_MAY_PASS
        task.is_new_version = known is not None and not (was_unreadable and journal.last_read(path) == sha256)
        first = self._first_path(path, sha256, was_unreadable) if sha256 else None
        task.claim = journal.claim(path, task.stamp, sha256)
        self._in_hand.update([path] if sha256 is None else [path, sha256])
        if sha256 is None:
            log.warning("%r has %d bytes, more than max_bytes.", str(path), task.stamp.size_bytes)
            task.verdict = Verdict(State.REJECTED, "too large")
        elif first is not None:
            task.verdict = Verdict(State.DUPLICATE, str(first))
        elif task.claim.tries > MAX_TRIES:
            reason = task.claim.reason or "the station ended while it read the image"
            task.verdict = Verdict(State.FAILED, f"{reason} ({MAX_TRIES} times)")
        task.watch.lap("journal")

    def _first_path(self, path: Path, sha256: bytes, was_unreadable: bool) -> Path | None:
        """Where the bytes have a result that is theirs, too."""
        if self._duplicates == "skip":
            return self._journal.first_path(sha256)
        # Those that could not be read for a while are no new version.
        return path if was_unreadable and self._journal.has_result(path, sha256) else None

    def _unreadable(self, task: Task, error: OSError) -> None:
        path, known = task.path, self._journal.latest(task.path)
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = _name_of(error)
        if is_gone and task.arrival.was_there:
            task.result = task.pending(GONE)
        elif known is not None and known.state in _REMEMBERED and self._is_to_wait(task, known, error):
            is_passing = error.errno in PASSING_FAULTS
            task.result = task.pending(reason) if is_passing else self._known(task)
        elif is_gone and known is not None and known.state is State.VANISHED:
            task.result = self._known(task)
        elif is_gone:
            log.info("%r has vanished before its turn.", str(path))
            self._claim_unread(task, Verdict(State.VANISHED))
        elif known is not None and known.state is State.FAILED and known.reason in REASONS_THAT_MAY_PASS:
            task.result = self._known(task)  # it did not pass
        elif isinstance(error, PermissionError):
            log.warning("%r may not be read (%s).", str(path), _owner_and_mode(path))
            self._claim_unread(task, Verdict(State.FAILED, PERMISSION))
        else:
            claim = self._claim_unread(task, Verdict(State.FAILED, reason), reason)
            tries = max(claim.tries, self._faults.pop(path, 0))
            if error.errno in PASSING_FAULTS and tries < MAX_TRIES:
                said = (str(path), error.strerror, tries, MAX_TRIES)
                log.warning("%r cannot be read (%s), try %d of %d.", *said)
                task.claim, task.verdict, task.result = None, None, task.pending(reason)
            else:
                log.warning("%r cannot be read (%s).", str(path), error.strerror)

    def _is_to_wait(self, task: Task, known: Entry, error: OSError) -> bool:
        """Whether nothing is to be told yet of a file that has its answer and cannot be read again.

        A claim would hide that answer, so the tries are counted here.
        """
        if task.stamp is None or known.stamp is None:
            return True  # perhaps it is the version that has its answer
        if error.errno not in PASSING_FAULTS:
            return False
        self._faults[task.path] += 1
        return self._faults[task.path] < MAX_TRIES

    def _claim_unread(self, task: Task, verdict: Verdict, reason: str = "") -> Entry:
        claim = task.claim = self._journal.claim(task.path, task.stamp, None, reason)
        task.verdict = verdict
        self._in_hand.add(task.path)
        return claim

    def _known(self, task: Task) -> ImageResult:
        entry = self._journal.latest(task.path)
        assert entry is not None
        return ImageResult(task.path, task.arrival.sample, entry.state, entry.reason)


class _ChangingError(Exception):
    """The file changed while it was read."""


class _NotRegularError(Exception):
    """A symlink, FIFO, socket, device or folder."""


def _read_regular(path: Path, max_bytes: int, alive: Callable[[], None]) -> tuple[bytes | None, FileStamp]:
    """The bytes of a regular file, None if they are too many, and the version that they are."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise _NotRegularError from error
        raise
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)  # of a folder `fdopen` would raise, and leave it open
        raise _NotRegularError
    with os.fdopen(handle, "rb") as file:
        stamp = FileStamp.of(status)
        if stamp.size_bytes > max_bytes:
            return None, stamp
        try:
            data = _read_up_to(stamp.size_bytes + 1, file, alive)
        except MemoryError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
        if len(data) != stamp.size_bytes or FileStamp.of(os.fstat(handle)) != stamp:
            raise _ChangingError
    return data, stamp


def _read_up_to(count: int, file: BinaryIO, alive: Callable[[], None]) -> bytes:
    """The next bytes of a file, fewer if it ends before."""
    if count <= _PIECE_BYTES:
        return file.read(count)
    read = io.BytesIO()  # its bytes are given away without a second copy of them
    while piece := file.read(min(count - read.tell(), _PIECE_BYTES)):
        read.write(piece)
        alive()
    return read.getvalue()


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _owner_and_mode(path: Path) -> str:
    try:
        status = path.lstat()
    except OSError:
        return "owner and mode unknown"
    return f"owner {status.st_uid}, group {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}"
