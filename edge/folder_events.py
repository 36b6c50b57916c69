"""The kernel's events of one folder and all below it, by watchdog; `edge.watching` imports it when it must.

Watchdog 7.1 lacks what its classes are given here: each override says what happens without it.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchdog.events import (
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyWatchGroup
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from edge.watching import Notice, Signal

# The watch's own reads (opened, closed without a write) are left out, or each would wake it again.
_KINDS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileAttribEvent,
]
_LACKING = frozenset({errno.ENOSPC, errno.ENOMEM})
"""Of a watch: this user has as many as the kernel allows, or there is no memory for one."""


class FolderEvents:
    """Threads that call `notify` for each file that something happened to, and when events were lost.

    Args:
        tell_shortage: called when a folder below cannot be watched, because there are not enough watches.

    Raises:
        OSError: there are no events; EACCES: since the folder may not be read or entered.
    """

    def __init__(
        self,
        folder: Path,
        notify: Callable[[Notice | Signal], None],
        tell_shortage: Callable[[OSError], None],
    ) -> None:
        resolved = os.path.realpath(folder)  # of a link, watchdog watches the link itself
        self._queue = _KernelQueue(os.fsencode(resolved), notify, tell_shortage)
        self._observer = BaseObserver(_Emitter, inotify_fd=self._queue)
        handler = _Handler(folder, resolved, notify)
        try:
            self._queue.start()
            self._observer.schedule(handler, resolved, recursive=True, event_filter=_KINDS)
            self._observer.start()
        except OSError:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether events can come."""
        if self._queue.is_unmounted or not self._observer.emitters:
            return False
        return all(thread.is_alive() for thread in (self._observer, self._queue, *self._observer.emitters))

    @property
    def has_all_folders(self) -> bool:
        """Whether each folder that may be read is watched."""
        return self._queue.has_all_folders

    def is_granted(self) -> bool:
        """Whether a folder may be watched now that might not."""
        return any(_may_be_watched(path) for path in tuple(self._queue.withheld))

    def close(self) -> None:
        """End all threads; may be called twice."""
        for thread in (self._observer, self._queue):
            thread.stop()
            if thread.ident is not None:
                thread.join()


class _Handler(FileSystemEventHandler):
    """Tells of files by the path that the folder was named by."""

    def __init__(self, folder: Path, resolved: str, notify: Callable[[Notice | Signal], None]) -> None:
        self._folder = folder
        self._resolved = resolved
        self._notify = notify

    def on_any_event(self, event: FileSystemEvent) -> None:
        source = self._named(event.src_path)
        if event.dest_path:
            self._notify(Notice(self._named(event.dest_path), source))
        else:
            self._notify(Notice(source))

    def _named(self, path: bytes | str) -> Path:
        return self._folder / Path(os.fsdecode(path)).relative_to(self._resolved)


class _KernelQueue(InotifyFD):
    """The thread that reads events from the kernel, and knows which folders it has no watch of.

    Attributes:
        withheld: folders that may not be read yet; `cp -a` makes one for its own user and grants it at last.
        has_all_folders: whether there were enough watches for all others.
        is_unmounted: what is mounted there next may look like the same folder.
    """

    def __init__(
        self, root: bytes, notify: Callable[[Notice | Signal], None], tell_shortage: Callable[[OSError], None]
    ) -> None:
        super().__init__()
        self.notify = notify
        self.withheld: set[bytes] = set()
        self.has_all_folders = True
        self.is_unmounted = False
        self._root = root
        self._tell_shortage = tell_shortage

    def add_callback(
        self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId
    ) -> WatchDescriptor:
        """Remember what watchdog passes over in silence: no events would come, and nobody would know."""
        try:
            if not _may_be_watched(path) and os.path.lexists(path):
                self.withheld.add(path)
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            descriptor = super().add_callback(path, mask, callback, id_)
        except OSError as error:
            if error.errno in _LACKING and path != self._root:
                self.has_all_folders = False
                self._tell_shortage(error)
            raise
        self.withheld.discard(path)
        return descriptor

    def _add_callback(
        self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId
    ) -> WatchDescriptor:
        """Without watchdog's warning on standard error: a folder of a tree that is copied is found by its
        event and by the look into its parent.
        """
        watched = self._get_or_create_watch(path, mask)
        watched.callbacks[id_] = callback
        return watched.wd

    def handle_event(self, event: InotifyEvent) -> None:
        """Tell of lost events, which watchdog only logs."""
        super().handle_event(event)
        if event.mask & InotifyConstants.IN_UNMOUNT:
            self.is_unmounted = True
        if event.is_queue_overflow or self.is_unmounted:
            self.notify(Signal.EVENTS_LOST)


class _WatchGroup(InotifyWatchGroup):
    """The watches of the folder and of all below it."""

    _inotify_fd: _KernelQueue

    def on_event(self, event: InotifyEvent) -> None:
        """Watch a folder that is granted now; watchdog watches those that it may when they are made."""
        super().on_event(event)
        if not (event.is_attrib and event.is_directory):
            return
        with self._lock:
            path = self._build_event_source_path(event)
            # That one alone: of thousands that stay private each gives an event.
            if path not in self._inotify_fd.withheld or not _may_be_watched(path):
                return
            self._add_all_callbacks(path)
        self._inotify_fd.notify(Signal.FOLDER_GRANTED)

    def _remove_watch_internally(self, wd: WatchDescriptor) -> None:
        """A folder that was moved away keeps its watch, and a path that another may have by now: by the
        KeyError the thread would end, and all events with it.
        """
        with suppress(KeyError):
            super()._remove_watch_internally(wd)


class _Emitter(InotifyEmitter):
    """The thread that makes the handler's events of the kernel's."""

    def on_thread_start(self) -> None:
        """With the watches of this module."""
        path, mask = os.fsencode(self.watch.path), self.get_event_mask_from_filter()
        self._inotify = _WatchGroup(self._inotify_fd, path, event_mask=mask, is_recursive=True)

    def on_thread_stop(self) -> None:
        """The group stays in `_inotify`: of an event that comes meanwhile watchdog would log an error."""
        if self._inotify is not None:
            self._inotify.deactivate()


def _may_be_watched(folder: bytes) -> bool:
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
