"""The watched folder: events and scans in, paths that have stopped changing out.

An event only says "look at this path". Whether a file is whole is decided by stat: it is ready when size,
time of change and inode have stayed the same for the quiet period of a monotonic clock. Events get lost
(kernel queue overflow, network file systems), so a scan of the whole folder looks at every path again.
A file that is gone before its turn is given when a whole scan has not found it under another name, either.
Files go through a scan in slices, between two images; all but the event handler runs in the caller's thread.
"""

import logging
import os
import queue
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edge.errors import StationError
from edge.mounts import WatchChoice, WatchMode, choose_watch
from edge.quiet import QuietFiles
from edge.records import FileStamp
from edge.walking import is_ignored, require_entry, stamp_of, walk
from edge.watching import FolderWatch, Notice, Signal, folder_identity

log = logging.getLogger(__name__)

_LOCAL_QUIET_S, _REMOTE_QUIET_S = 0.5, 5.0
_POLL_PERIOD_S = 1.0
_SLICE = 500
_LONGEST_BACK_OFF_S = 60.0


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """A file that has stopped changing; it may be gone by now.

    Attributes:
        sample: POSIX path of its folder relative to the inbox, empty at the top.
        stamp: the version that is whole; None: a scan did not find the file any more.
    """

    path: Path
    sample: str
    stamp: FileStamp | None = None


class Inbox:
    """The files of a folder and its sub-folders, each version once it is whole. For one thread.

    Args:
        root: the folder.
        knows: whether this version of a file has its answer already.
        quiet_period_s: how long a file must not change; None: half a second, or five seconds where other
            machines write to the file system, whose caches hide what they did last.
        rescan_period_s: how often all paths are looked at when events are on.
        watch: "events", "polling", or "auto": polling where the file system gives no events.
        clock: monotonic seconds.

    Attributes:
        fault: why the folder cannot be read now, None if it can.
    """

    def __init__(
        self,
        root: Path,
        knows: Callable[[Path, FileStamp], bool],
        *,
        quiet_period_s: float | None = None,
        rescan_period_s: float = 60.0,
        watch: WatchMode = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100, absolute() keeps the ".." of a path
        self.fault: str | None = None
        self._knows = knows
        self._clock = clock
        self._mode = watch
        self._rescan_period_s = rescan_period_s
        self._quiet_period_s = quiet_period_s
        # Its put is safe in signal handlers.
        self._signals: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
        self._chosen: WatchChoice | None = None
        self._watch: FolderWatch | None = None
        self._quiet = QuietFiles(quiet_period_s or _LOCAL_QUIET_S)
        self._ready: OrderedDict[Path, FileStamp | None] = OrderedDict()
        """Files that wait for their turn, and which version was whole; None: the file is gone."""
        self._later: dict[Path, float] = {}
        self._resting: dict[Path, tuple[FileStamp, float]] = {}
        """Files that cannot be read as they are, and until when they are left alone."""
        self._expected: set[Path] = set()
        self._unreadable: set[Path] = set()
        self._folder = folder_identity(root)
        self._scan: Iterator[Path] | None = None
        self._scan_began_s = 0.0
        self._scan_again = self._scan_found = False
        self._scan_due_s = clock()
        self._back_off_s = 1.0

    def start(self) -> None:
        """Begin to watch; a folder that is missing is waited for.

        Raises:
            StationError: the folder may not be read, or is not a folder.
        """
        try:
            with os.scandir(self.root):
                require_entry(self.root)
        except (PermissionError, NotADirectoryError) as error:
            raise StationError(
                f"the inbox {str(self.root)!r} cannot be read ({error.strerror}); give the station's user "
                "the right to read and enter it, or set another inbox."
            ) from error
        except OSError as error:
            log.warning("The inbox %r cannot be read yet: %s.", str(self.root), error.strerror)
        self._choose_watch()

    def _choose_watch(self) -> None:
        """Again for each scan: a share may be mounted after the start, in the folder's place or below it."""
        chosen = choose_watch(self._mode, self.root)
        if chosen == self._chosen:
            return
        self.close()
        self._chosen = chosen
        quiet_s = self._quiet_period_s or (_REMOTE_QUIET_S if chosen.is_remote else _LOCAL_QUIET_S)
        log.info(
            "Watching %r by %s (%s); files are read when they have not changed for %g s.",
            *(str(self.root), chosen.mode, chosen.why, quiet_s),
        )
        self._quiet.quiet_period_s = quiet_s
        if chosen.mode == "events":
            self._watch = FolderWatch(self.root, self._signals.put)

    def close(self) -> None:
        """End all threads; may be called twice."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def wake(self) -> None:
        """Let `wait` return at once; safe in a signal handler and in any thread."""
        self._signals.put(Signal.WAKE)

    def __len__(self) -> int:
        """How many files wait, whole or still changing."""
        return len(self._ready) + len(self._quiet) + len(self._later)

    def wait(self, timeout_s: float) -> None:
        """Return when something may have happened, at the latest after a time in seconds."""
        now_s = self._clock()
        dues = [self._scan_due_s]
        if self.fault is None:
            dues.extend(self._later.values())
            if (quiet_due_s := self._quiet.next_due_s()) is not None:
                dues.append(quiet_due_s)
        timeout_s = min(timeout_s, max(min(dues) - now_s, 0.0))
        self.wait_for_wake(0.0 if self._scan is not None or self._ready else timeout_s)

    def wait_for_wake(self, timeout_s: float) -> None:
        """Return after a time in seconds, or when an event or `wake` comes."""
        try:
            signal = self._signals.get(timeout=timeout_s)
        except queue.Empty:
            return
        self._look_at_signal(signal)

    def take(self) -> ReadyFile | None:
        """The next file that is whole, None if there is none now. Never waits."""
        for _ in range(self._signals.qsize()):
            self._look_at_signal(self._signals.get())
        if self._folder != folder_identity(self.root):
            self._scan = None
            self.rescan()
        self._scan_on()
        if self.fault is not None:
            return None
        now_s = self._clock()
        for path in [path for path, due_s in self._later.items() if due_s <= now_s]:
            del self._later[path]
            self._look_at(path)
            if stamp_of(path) is None:
                self._ready[path] = None
        self._ready.update(self._quiet.settled(now_s, stamp_of))
        while self._ready:
            path, stamp = self._ready.popitem(last=False)
            seen = stamp_of(path)
            if seen == stamp:
                return ReadyFile(path, self._sample_of(path), stamp)
            if seen is not None:  # it changed while it waited
                self._look_at(path)
            elif stamp is not None:
                self._quiet.add(path, stamp, now_s)
        return None

    def put_back(self, path: Path, delay_s: float = 0.0) -> None:
        """Look at a file again later: it changed while it was read, or a fault may have passed.

        If it is gone by then it is given all the same. A path outside the folder is left out.
        """
        if path.is_relative_to(self.root):
            self._later[path] = self._clock() + delay_s

    def rest(self, ready: ReadyFile, for_s: float) -> None:
        """Leave a file alone for some seconds, unless it changes."""
        if ready.stamp is not None:
            self._resting[ready.path] = ready.stamp, self._clock() + for_s

    def missed(self, ready: ReadyFile) -> None:
        """A file was gone when it was opened: give it again when a scan has not found it, either."""
        if ready.stamp is not None:
            self._quiet.add(ready.path, ready.stamp, self._clock())

    def expect(self, path: Path) -> None:
        """Give a file that was there before the start also if it is gone: when a scan finds others, not it.

        An inbox without any file may be a share that is not mounted yet.
        """
        if path.is_relative_to(self.root):
            self._expected.add(path)

    def rescan(self) -> None:
        """Look at all paths again, now; also at those that a scan in progress has passed already."""
        self._scan_due_s = self._clock()
        self._scan_again = self._scan is not None

    def _look_at_signal(self, signal: Notice | Signal) -> None:
        if isinstance(signal, Signal):
            if signal is Signal.EVENTS_LOST:
                log.warning("Events of the inbox are lost: looking through all of it.")
            if signal is not Signal.WAKE:
                self.rescan()
            return
        path = signal.path
        if path.is_relative_to(self.root) and not any(map(is_ignored, path.relative_to(self.root).parts)):
            if signal.moved_from is not None:
                self._ready.pop(signal.moved_from, None)
                self._quiet.discard(signal.moved_from)
            self._look_at(path)

    def _look_at(self, path: Path) -> None:
        stamp = stamp_of(path)
        if stamp is None:
            return
        self._quiet.found(stamp)
        if path in self._ready or path in self._quiet or path in self._later or self._rests(path, stamp):
            return
        if not self._knows(path, stamp):
            self._quiet.add(path, stamp, self._clock())

    def _rests(self, path: Path, stamp: FileStamp) -> bool:
        resting, until_s = self._resting.get(path, (None, 0.0))
        if resting == stamp and self._clock() < until_s:
            return True
        self._resting.pop(path, None)
        return False

    def _scan_on(self) -> None:
        if self._scan is None:
            if self._clock() < self._scan_due_s:
                return
            folder = folder_identity(self.root)
            if self._folder != folder:
                # What was seen in a folder that is no longer there is forgotten, not reported as vanished:
                # the scan finds it again when it comes back.
                self._forget()
                self._folder = folder
            if folder is not None:
                self._choose_watch()
            if self._watch is not None:
                self._watch.renew()
            self._scan = walk(self.root, self._unreadable)
            self._scan_began_s, self._scan_again, self._scan_found = self._clock(), False, False
        try:
            count = 0
            for path in islice(self._scan, _SLICE):
                count += 1
                self._look_at(path)
            self._scan_found = self._scan_found or count > 0
        except OSError as error:
            self._degrade(error)
            return
        if count < _SLICE:
            self._finish_scan()

    def _finish_scan(self) -> None:
        now_s = self._clock()
        self._scan = None
        self._ready.update(dict.fromkeys(self._quiet.lost(self._scan_began_s)))
        if self._scan_found:
            self._ready.update({path: None for path in self._expected if stamp_of(path) is None})
            self._expected.clear()
        if self.fault is not None:
            log.warning("The inbox %r can be read again.", str(self.root))
        self.fault, self._back_off_s = None, 1.0
        watched = self._watch is not None and self._watch.is_whole
        # Polling a folder of many files on a slow server takes at most a tenth of the time.
        polling_s = max(_POLL_PERIOD_S, 10 * (now_s - self._scan_began_s))
        period_s = self._rescan_period_s if watched else min(polling_s, self._rescan_period_s)
        self._scan_due_s = now_s + (0.0 if self._scan_again else period_s)

    def _degrade(self, error: OSError) -> None:
        self._scan = None
        if self.fault is None:
            log.warning("The inbox %r cannot be read: %s; trying again.", str(self.root), error.strerror)
        self.fault = error.strerror or str(error)
        self._forget()
        self._scan_due_s = self._clock() + self._back_off_s
        self._back_off_s = min(2 * self._back_off_s, _LONGEST_BACK_OFF_S)

    def _forget(self) -> None:
        self._quiet.clear()
        self._ready.clear()
        self._later.clear()
        self._resting.clear()

    def _sample_of(self, path: Path) -> str:
        sample = path.parent.relative_to(self.root).as_posix()
        return "" if sample == "." else sample
