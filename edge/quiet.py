"""Which files have stopped changing, and which are lost, told by comparing stamps on a monotonic clock."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.records import FileStamp

_LONGEST_CHECK_PERIOD_S = 0.5
_CLOCK_ROUNDING_S = 1e-6


@dataclass(slots=True)
class _Watched:
    stamp: FileStamp
    since_s: float
    due_s: float


class QuietFiles:
    """Files under observation. Each is compared at least every half second, so it settles within the
    quiet period and half a second after its last change. One that is gone is missing until its stamp is
    seen under another name (a rename is not a loss) or it is taken for lost.

    Attributes:
        quiet_period_s: how long a stamp must stay the same.
    """

    def __init__(self, quiet_period_s: float) -> None:
        self.quiet_period_s = quiet_period_s
        self._check_period_s = min(quiet_period_s, _LONGEST_CHECK_PERIOD_S)
        # In the order of `due_s`: the period is one for all, and who is checked goes to the end.
        self._files: dict[Path, _Watched] = {}
        self._missing: dict[FileStamp, dict[Path, float]] = {}
        """Since when which files are; links to one file have one stamp."""

    def __len__(self) -> int:
        """How many files are under observation or missing."""
        return len(self._files) + sum(map(len, self._missing.values()))

    def __contains__(self, path: Path) -> bool:
        return path in self._files

    def clear(self) -> None:
        """Forget all files."""
        self._files.clear()
        self._missing.clear()

    def add(self, path: Path, stamp: FileStamp, now_s: float) -> None:
        """Begin to observe a file."""
        self._files[path] = _Watched(stamp, now_s, now_s + self._check_period_s)

    def discard(self, path: Path) -> None:
        """Observe a file no longer: it is known to have another name now."""
        self._files.pop(path, None)
        for paths in self._missing.values():
            paths.pop(path, None)

    def found(self, stamp: FileStamp) -> None:
        """A file of this stamp is there: those that were missed have become this one."""
        self._missing.pop(stamp, None)

    def lost(self, before_s: float) -> list[Path]:
        """The files that are missing since before a time, each given once."""
        lost = []
        for stamp, paths in list(self._missing.items()):
            gone = [path for path, since_s in paths.items() if since_s < before_s]
            for path in gone:
                del paths[path]
            if not paths:
                del self._missing[stamp]
            lost += gone
        return lost

    def next_due_s(self) -> float | None:
        """When the next file is to be compared, None without files."""
        return next((watched.due_s for watched in self._files.values()), None)

    def settled(
        self, now_s: float, stamp_of: Callable[[Path], FileStamp | None]
    ) -> Iterator[tuple[Path, FileStamp]]:
        """Compare the files whose time has come, and give those that are quiet, with their stamp."""
        due = []
        for path, watched in self._files.items():
            if watched.due_s > now_s:
                break
            due.append(path)
        for path in due:
            watched = self._files.pop(path)
            stamp = stamp_of(path)
            if stamp is None:
                self._missing.setdefault(watched.stamp, {})[path] = now_s
                continue
            if stamp != watched.stamp:
                watched.stamp, watched.since_s = stamp, now_s
            elif now_s - watched.since_s >= self.quiet_period_s - _CLOCK_ROUNDING_S:
                self.found(stamp)
                yield path, stamp
                continue
            watched.due_s = now_s + self._check_period_s
            self._files[path] = watched
