"""Which files have stopped changing, told by comparing stamps on a monotonic clock."""

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
    is_gone: bool = False


class QuietFiles:
    """Files under observation. Each is compared at least every half second, so it settles within the
    quiet period and half a second after its last change.

    Args:
        quiet_period_s: how long a stamp must stay the same.
    """

    def __init__(self, quiet_period_s: float) -> None:
        self._quiet_period_s = quiet_period_s
        self._check_period_s = min(quiet_period_s, _LONGEST_CHECK_PERIOD_S)
        # In the order of `due_s`: the period is one for all, and who is checked goes to the end.
        self._files: dict[Path, _Watched] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: Path) -> bool:
        return path in self._files

    def clear(self) -> None:
        """Forget all files."""
        self._files.clear()

    def add(self, path: Path, stamp: FileStamp, now_s: float) -> None:
        """Begin to observe a file."""
        self._files[path] = _Watched(stamp, now_s, now_s + self._check_period_s)

    def next_due_s(self) -> float | None:
        """When the next file is to be compared, None without files."""
        return next((watched.due_s for watched in self._files.values()), None)

    def settled(self, now_s: float, stamp_of: Callable[[Path], FileStamp | None]) -> Iterator[Path]:
        """Compare the files whose time has come, and give those that are quiet or gone for good.

        A file that is gone is given one period later, and only if no other file under observation is the
        same one under a new name: a rename is not a loss.
        """
        due = []
        for path, watched in self._files.items():
            if watched.due_s > now_s:
                break
            due.append(path)
        for path in due:
            watched = self._files.pop(path)
            stamp = stamp_of(path)
            if stamp is None and watched.is_gone:
                if not any(other.stamp == watched.stamp for other in self._files.values()):
                    yield path
                continue
            if stamp is not None and stamp != watched.stamp:
                watched.stamp, watched.since_s = stamp, now_s
            elif stamp is not None and now_s - watched.since_s >= self._quiet_period_s - _CLOCK_ROUNDING_S:
                yield path
                continue
            watched.is_gone = stamp is None
            watched.due_s = now_s + self._check_period_s
            self._files[path] = watched
