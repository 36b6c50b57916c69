"""The watch of one folder, which comes back when the folder does."""

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.folder_events import FolderEvents

log = logging.getLogger(__name__)


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

    Events end in silence when their folder is removed, and a folder made anew is never seen again
    (watchdog#648): call `renew` from time to time.
    """

    def __init__(self, folder: Path, notify: Callable[[Notice | Signal], None]) -> None:
        self._folder = folder
        self._notify = notify
        self._events: FolderEvents | None = None
        self._identity: tuple[int, int] | None = None
        self._has_warned = False
        self.renew()

    @property
    def is_alive(self) -> bool:
        """Whether events can come."""
        return self._events is not None and self._events.is_alive

    @property
    def is_whole(self) -> bool:
        """Whether events can come from all folders that may be read."""
        return self._events is not None and self._events.is_alive and self._events.has_all_folders

    def renew(self) -> None:
        """Watch anew if the watch has ended, if another folder stands in the place of the old one, or if a
        folder below may be read now that might not.
        """
        identity, events = folder_identity(self._folder), self._events
        if identity == self._identity and events and events.is_alive and not events.is_granted():
            return
        self.close()
        self._identity = identity
        if identity is not None:
            self._open()

    def close(self) -> None:
        """End all threads; may be called twice."""
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def _open(self) -> None:
        from edge.folder_events import FolderEvents

        try:
            self._events = FolderEvents(self._folder, self._notify, self._tell_shortage)
        except OSError as error:
            if error.errno != errno.EACCES:  # of which the scan tells
                self._warn("No events for %r (%s): polling it instead.", error)

    def _tell_shortage(self, error: OSError) -> None:
        self._warn(
            "Not all folders below %r give events (%s): polling it, too; raise fs.inotify.max_user_watches "
            "(sysctl), then start again.",
            error.strerror,
        )

    def _warn(self, sentence: str, error: object) -> None:
        if not self._has_warned:  # a watch that fails is tried again at every scan
            log.warning(sentence, str(self._folder), error)
        self._has_warned = True


def folder_identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode of a folder, which tell it from another of the same name; None if it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
