"""A journal and a clock for an inbox, and what asks it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify_c import InotifyFD

from edge.inbox import Inbox
from edge.records import FileStamp


class Known(set[tuple[Path, FileStamp]]):
    """Stands for the journal."""

    def knows(self, path: Path, stamp: FileStamp) -> bool:
        return (path, stamp) in self

    def finish(self, path: Path) -> None:
        if path.exists():
            self.add((path, FileStamp.of(path.lstat())))


class Clock:
    """Seconds that pass when the test says so, in a world where what is given is then known."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.known = Known()

    def __call__(self) -> float:
        return self.now_s


def drain(inbox: Inbox, clock: Clock, for_s: float = 3.0) -> list[tuple[str, str]]:
    """Names and samples that come while a time passes in steps of 100 ms."""
    given = []
    for _ in range(round(for_s * 10)):
        while (ready := inbox.take()) is not None:
            given.append((ready.path.name, ready.sample))
            clock.known.finish(ready.path)
        clock.now_s += 0.1
    return given


def two_that_are_ready(root: Path, inbox: Inbox, clock: Clock) -> Path:
    """Puts a.png and b.png into the folder and takes a.png."""
    (root / "a.png").write_bytes(b"x")
    assert inbox.take() is None
    clock.now_s += 0.3
    (root / "b.png").write_bytes(b"x")
    inbox.rescan()
    assert inbox.take() is None
    clock.now_s += 0.5
    ready = inbox.take()
    assert ready is not None
    assert ready.path == root / "a.png"
    return ready.path


def not_to_be_entered(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A double of the right that `chmod a-x` takes away, which root has all the same."""
    real = os.access
    monkeypatch.setattr(
        "edge.walking.os.access",
        lambda path, mode, **how: Path(path).name != name and real(path, mode, **how),
    )


def few_watches(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """As if this user had so many watches already that there is but one more, for the root."""
    real = InotifyFD.add_callback

    def add(kernel: InotifyFD, path: bytes, *about: Any) -> Any:
        if path != os.fsencode(root):
            raise OSError(errno.ENOSPC, "inotify watch limit reached")
        return real(kernel, path, *about)

    monkeypatch.setattr(InotifyFD, "add_callback", add)


def wait_for(inbox: Inbox, is_wanted: Callable[[str], bool]) -> None:
    for _ in range(200):
        ready = inbox.take()
        if ready is not None and is_wanted(ready.path.name):
            return
        inbox.wait(0.2)
    raise AssertionError("it never came")


def take(inbox: Inbox, known: Known, count: int) -> list[tuple[str, str, int]]:
    """The next files: name, sample, size in bytes."""
    given = []
    for _ in range(1000):
        while (ready := inbox.take()) is not None:
            given.append((ready.path.name, ready.sample, ready.path.stat().st_size))
            known.finish(ready.path)
        if len(given) >= count:
            return sorted(given)
        inbox.wait(0.05)
    raise AssertionError(f"only these came: {given}")
