"""File-system events of one folder: whether they can be had there, and the watch that gives them."""

import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver
    from watchdog.observers.inotify_c import (
        CallbackId,
        InotifyEvent,
        InotifyFD,
        Mask,
        WatchCallback,
        WatchDescriptor,
    )

log = logging.getLogger(__name__)

WatchMode = Literal["auto", "events", "polling"]

WITHOUT_EVENTS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "vboxsf", "ceph"})
"""File systems whose changes come from other machines, of which inotify tells nothing; so does fuse*."""

_MOUNTINFO = Path("/proc/self/mountinfo")
_LACKING = frozenset({errno.ENOSPC, errno.ENOMEM})
"""Of a watch: this user has as many as the kernel allows, or there is no memory for one."""


def read_mountinfo() -> str:
    """The text of /proc/self/mountinfo, "" where it cannot be read."""
    try:
        return os.fsdecode(_MOUNTINFO.read_bytes())
    except OSError:
        return ""


def filesystem_of(path: str, mountinfo: str) -> str:
    """The type of the file system that an absolute, resolved path lies on, "" if unknown.

    Args:
        mountinfo: as `read_mountinfo` gives it, proc(5).
    """
    best, found = -1, ""
    for point, kind in _mounts(mountinfo):
        if (path == point or _is_below(point, path)) and len(point) >= best:
            best, found = len(point), kind
    return found


def mounts_below(path: str, mountinfo: str) -> tuple[tuple[str, str], ...]:
    """Mount points below an absolute, resolved path, each with the type of its file system.

    Args:
        mountinfo: as of `filesystem_of`.
    """
    return tuple(mount for mount in _mounts(mountinfo) if _is_below(path, mount[0]))


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) >= 5 and after:
            # Octal escapes stand for space, tab, newline and backslash.
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            yield point, after.split(" ")[0]


def _is_below(folder: str, path: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True, slots=True)
class WatchChoice:
    """How to watch a folder, and why so.

    Attributes:
        is_remote: whether other machines write to its file system, or to one that is mounted below.
        mounted: what is mounted below, as `mounts_below`; events come only of what was there when they began.
    """

    mode: Literal["events", "polling"]
    why: str
    is_remote: bool
    mounted: tuple[tuple[str, str], ...]


def choose_watch(asked: WatchMode, folder: Path) -> WatchChoice:
    """Polling where a file system gives no events, else events, unless something else is asked for."""
    path, mountinfo = os.path.realpath(folder), read_mountinfo()
    kind, mounted = filesystem_of(path, mountinfo), mounts_below(path, mountinfo)
    below = sorted({kind for _, kind in mounted})
    is_remote = any(kind in WITHOUT_EVENTS or kind.startswith("fuse") for kind in (kind, *below))
    if asked != "auto":
        return WatchChoice(asked, "as set", is_remote, mounted)
    why = f"the file system is {kind or 'unknown'}{', below it ' if below else ''}{', '.join(below)}"
    return WatchChoice("polling" if is_remote else "events", why, is_remote, mounted)


class Signal(Enum):
    """What an inbox is told besides notices of files."""

    WAKE = auto()
    """Somebody wants the waiting thread."""
    EVENTS_LOST = auto()
    """The kernel's queue was full, or its watch has ended: only a scan finds what events would have told."""
    FOLDER_GRANTED = auto()
    """A folder is watched that could not be before: only a scan finds what came into it."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened to a file.

    Attributes:
        moved_from: its path before, if it was renamed or moved inside the folder.
    """

    path: Path
    moved_from: Path | None = None


class FolderWatch:
    """Calls `notify` for each file that something happened to, and when events were lost, from other threads.

    An emitter ends in silence when its folder is removed, and a folder made anew is never seen again
    (watchdog#648): call `renew` from time to time.
    """

    def __init__(self, folder: Path, notify: Callable[[Notice | Signal], None]) -> None:
        self._folder = folder
        self._notify = notify
        self._observer: BaseObserver | None = None
        self._kernel_queue: InotifyFD | None = None
        self._identity: tuple[int, int] | None = None
        self._has_warned = False
        self._is_unmounted = False
        self._withheld: set[bytes] = set()
        """Folders that may not be read yet: `cp -a` makes one for its own user and grants it in the end."""
        self._has_all_folders = True
        self.renew()

    @property
    def is_alive(self) -> bool:
        """Whether events can come."""
        observer, kernel_queue = self._observer, self._kernel_queue
        if observer is None or kernel_queue is None or self._is_unmounted or not observer.emitters:
            return False
        return all(thread.is_alive() for thread in (observer, kernel_queue, *observer.emitters))

    @property
    def is_whole(self) -> bool:
        """Whether events can come from all folders that may be read."""
        return self.is_alive and self._has_all_folders

    def renew(self) -> None:
        """Watch anew if the watch has ended, if another folder stands in the place of the old one, or if a
        folder below may be read now that might not.
        """
        identity = folder_identity(self._folder)
        if identity == self._identity and self.is_alive and not self._is_granted():
            return
        self.close()
        self._identity = identity
        if identity is not None:
            self._open()

    def close(self) -> None:
        """End all threads; may be called twice."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            if observer.ident is not None:
                observer.join()
        kernel_queue, self._kernel_queue = self._kernel_queue, None
        if kernel_queue is not None:
            kernel_queue.stop()
            kernel_queue.join()

    def _is_granted(self) -> bool:
        return any(_may_be_watched(path) for path in tuple(self._withheld))

    def _fall_short(self, error: OSError) -> None:
        self._has_all_folders = False
        self._warn(
            "Not all folders below %r give events (%s): polling it, too; raise fs.inotify.max_user_watches "
            "(sysctl), then start again.",
            error.strerror,
        )

    def _warn(self, sentence: str, error: object) -> None:
        if not self._has_warned:  # a watch that fails is tried again at every scan
            log.warning(sentence, str(self._folder), error)
        self._has_warned = True

    def _open(self) -> None:
        from watchdog.events import (
            FileAttribEvent,
            FileClosedEvent,
            FileCreatedEvent,
            FileModifiedEvent,
            FileMovedEvent,
            FileSystemEventHandler,
        )
        from watchdog.observers.api import BaseObserver
        from watchdog.observers.inotify import InotifyEmitter, InotifyWatchGroup
        from watchdog.observers.inotify_c import InotifyConstants, InotifyFD

        notify, folder = self._notify, self._folder
        resolved = os.path.realpath(folder)  # of a link, watchdog watches the link itself
        self._is_unmounted = False
        self._withheld, self._has_all_folders = set(), True

        def named(path: bytes | str) -> Path:
            return folder / Path(os.fsdecode(path)).relative_to(resolved)

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: "FileSystemEvent") -> None:
                source = named(event.src_path)
                if event.dest_path:
                    notify(Notice(named(event.dest_path), source))
                else:
                    notify(Notice(source))

        watch = self

        class KernelQueue(InotifyFD):
            def add_callback(
                self, path: bytes, mask: "Mask", callback: "WatchCallback", id_: "CallbackId"
            ) -> "WatchDescriptor":
                try:
                    if not _may_be_watched(path) and os.path.lexists(path):
                        watch._withheld.add(path)
                        # Which watchdog takes for a watch: no events would come, and nobody would know.
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
                    descriptor = super().add_callback(path, mask, callback, id_)
                    watch._withheld.discard(path)
                    return descriptor
                except OSError as error:
                    if error.errno in _LACKING and path != os.fsencode(resolved):
                        watch._fall_short(error)
                    raise

            def _add_callback(
                self, path: bytes, mask: "Mask", callback: "WatchCallback", id_: "CallbackId"
            ) -> "WatchDescriptor":
                # A folder of a tree that is copied is found by its event and by the look into its parent, of
                # which watchdog warns on standard error.
                watched = self._get_or_create_watch(path, mask)
                watched.callbacks[id_] = callback
                return watched.wd

            def handle_event(self, event: "InotifyEvent") -> None:
                super().handle_event(event)
                if event.mask & InotifyConstants.IN_UNMOUNT:
                    watch._is_unmounted = True  # what is mounted there next may look like the same folder
                if event.is_queue_overflow or watch._is_unmounted:
                    notify(Signal.EVENTS_LOST)

        class WatchGroup(InotifyWatchGroup):
            def on_event(self, event: "InotifyEvent") -> None:
                super().on_event(event)
                if not (event.is_attrib and event.is_directory):
                    return
                with self._lock:
                    path = self._build_event_source_path(event)
                    # That one alone: of thousands that stay private each gives an event.
                    if path not in watch._withheld or not _may_be_watched(path):
                        return
                    self._add_all_callbacks(path)
                notify(Signal.FOLDER_GRANTED)

            def _remove_watch_internally(self, wd: "WatchDescriptor") -> None:
                # A folder that was moved away keeps its watch, and a path that another may have by now.
                with suppress(KeyError):
                    super()._remove_watch_internally(wd)

        class Emitter(InotifyEmitter):
            def on_thread_start(self) -> None:
                path, mask = os.fsencode(self.watch.path), self.get_event_mask_from_filter()
                self._inotify = WatchGroup(self._inotify_fd, path, event_mask=mask, is_recursive=True)

            def on_thread_stop(self) -> None:
                # It stays in `_inotify`: of an event that comes meanwhile watchdog would log an error.
                if self._inotify is not None:
                    self._inotify.deactivate()

        # The watch's own reads (opened, closed without a write) are left out, or each would wake it again.
        kinds: list[type[FileSystemEvent]] = [FileCreatedEvent, FileClosedEvent, FileModifiedEvent]
        kinds += [FileMovedEvent, FileAttribEvent]
        try:
            self._kernel_queue = KernelQueue()
            self._kernel_queue.start()
            self._observer = observer = BaseObserver(Emitter, inotify_fd=self._kernel_queue)
            observer.schedule(Handler(), resolved, recursive=True, event_filter=kinds)
            observer.start()
        except OSError as error:
            if os.fsencode(resolved) not in self._withheld:  # of which the scan tells
                self._warn("No events for %r (%s): polling it instead.", error)
            self.close()


def _may_be_watched(folder: bytes) -> bool:
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=True)


def folder_identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode of a folder, which tell it from another of the same name; None if it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
