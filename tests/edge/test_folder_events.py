"""Events of a folder and all below it, and what watchdog lacks."""

import os
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify import InotifyWatchGroup
from watchdog.observers.inotify_c import InotifyFD

from edge import folder_events
from edge.watching import FolderWatch, Notice, Signal

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("is_link", [False, True])
def test_files_that_are_written_moved_in_renamed_or_allowed_are_noticed(
    tmp_path: Path, is_link: bool
) -> None:
    root = tmp_path / "in"
    if is_link:
        (tmp_path / "real").mkdir()
        root.symlink_to("real")
    else:
        root.mkdir()
    outside = tmp_path / "outside"
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()

    def wait_for(name: str, moved_from: Path | None = None) -> None:
        while seen.get(timeout=10) != Notice(root / name, moved_from):
            pass

    watch = FolderWatch(root, seen.put)
    try:
        (root / "written").write_bytes(b"1")
        wait_for("written")
        outside.write_bytes(b"1")
        outside.rename(root / "moved in")
        wait_for("moved in")
        (root / "moved in").rename(root / "renamed")
        wait_for("renamed", root / "moved in")
        (root / "sub").mkdir()
        (root / "sub" / "deep").write_bytes(b"1")
        wait_for("sub/deep")
        (root / "renamed").chmod(0o600)
        wait_for("renamed")
    finally:
        watch.close()
        watch.close()


def test_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(root, seen.put)
    try:
        (outside / "a").touch()
        (root / "b").touch()
        assert seen.get(timeout=10) == Notice(root / "b")
    finally:
        watch.close()


def test_a_folder_that_is_granted_after_it_was_filled_is_told_and_then_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp -a` makes it; the tests may be root, who may read all."""
    withheld = {str(tmp_path / name).encode() for name in ("s", "t", "gone")}
    monkeypatch.setattr(folder_events, "_may_be_watched", lambda path: path not in withheld)
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()

    def told_until(last: Notice | Signal) -> list[Notice | Signal]:
        told = []
        while (one := seen.get(timeout=10)) != last:
            told.append(one)
        return told

    (tmp_path / "t").mkdir()
    watch = FolderWatch(tmp_path, seen.put)
    try:
        (tmp_path / "gone").mkdir()
        (tmp_path / "gone").rmdir()
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "a").touch()
        (tmp_path / "s").chmod(0o711)  # by which nothing is granted
        (tmp_path / "b").touch()
        assert Signal.FOLDER_GRANTED not in told_until(Notice(tmp_path / "b"))
        events = watch._events
        watch.renew()
        assert watch._events is events
        withheld.remove(str(tmp_path / "s").encode())
        (tmp_path / "s").chmod(0o755)
        told_until(Signal.FOLDER_GRANTED)
        (tmp_path / "s" / "c").touch()
        told_until(Notice(tmp_path / "s" / "c"))
        watch.renew()
        assert watch._events is events
        withheld.remove(str(tmp_path / "t").encode())  # of which no event comes
        watch.renew()
        (tmp_path / "t" / "d").touch()
        told_until(Notice(tmp_path / "t" / "d"))
        assert watch.is_whole
        events = watch._events
        (tmp_path / "gone").mkdir()
        (tmp_path / "gone" / "e").touch()
        (tmp_path / "f").touch()
        assert Notice(tmp_path / "gone" / "e") not in told_until(Notice(tmp_path / "f"))
        (tmp_path / "gone").rename(tmp_path / "private")
        withheld.clear()
        (tmp_path / "gone").mkdir()  # another of that name, which is watched
        (tmp_path / "gone" / "e").touch()
        told_until(Notice(tmp_path / "gone" / "e"))
        watch.renew()
        assert watch._events is events
    finally:
        watch.close()


def test_of_many_folders_that_stay_private_each_event_looks_at_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All were looked at for each: of 6000 the events came two minutes late."""
    folders = [tmp_path / str(number) for number in range(20)]
    for folder in folders:
        folder.mkdir()
    looked: list[bytes] = []

    def may_be_watched(path: bytes) -> bool:
        looked.append(path)
        return path == os.fsencode(tmp_path)

    monkeypatch.setattr(folder_events, "_may_be_watched", may_be_watched)
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(tmp_path, seen.put)
    try:
        looked.clear()
        for folder in folders:
            folder.chmod(0o710)
        (tmp_path / "last").touch()
        assert seen.get(timeout=10) == Notice(tmp_path / "last")
        assert sorted(looked) == sorted(map(os.fsencode, folders))
    finally:
        watch.close()


def test_a_folder_that_is_found_twice_is_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made when its parent has a watch and was not looked into yet."""
    parent, folder = tmp_path / "parent", tmp_path / "parent" / "folder"
    real = InotifyFD.add_callback

    def add(kernel: InotifyFD, path: bytes, *about: Any) -> Any:
        descriptor = real(kernel, path, *about)
        if path == os.fsencode(parent):
            folder.mkdir()
        return descriptor

    monkeypatch.setattr(InotifyFD, "add_callback", add)
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(tmp_path, seen.put)
    try:
        parent.mkdir()
        for path in (tmp_path / "a", folder / "b"):
            path.touch()
            while seen.get(timeout=10) != Notice(path):
                pass
        assert watch.is_alive
    finally:
        watch.close()


def test_an_event_that_comes_while_a_watch_ends_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = FolderWatch(tmp_path, lambda _: None)
    assert watch._events is not None
    (emitter,) = watch._events._observer.emitters
    real = InotifyWatchGroup.read_event

    def read_event(group: InotifyWatchGroup) -> Any:
        event = real(group)
        emitter.stop()
        return event

    monkeypatch.setattr(InotifyWatchGroup, "read_event", read_event)
    for name in "ab":  # the first may be waited for already
        (tmp_path / name).touch()
    emitter.join(10)
    watch.close()
    assert not emitter.is_alive()
    assert caplog.messages == []


@dataclass
class Watched:
    """A folder with an archive beside it, its watch, and what that told."""

    root: Path
    archive: Path
    watch: FolderWatch
    seen: queue.SimpleQueue[Notice | Signal]

    def until_told(self) -> None:
        """Wait until all that happened so far was read from the kernel."""
        last = self.root / f"last of {time.monotonic_ns()}"
        last.touch()
        while self.seen.get(timeout=10) != Notice(last):
            pass


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    root, archive = tmp_path / "in", tmp_path / "archive"
    root.mkdir()
    archive.mkdir()
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(root, seen.put)
    yield Watched(root, archive, watch, seen)
    watch.close()


@pytest.mark.parametrize("order", ["12", "21"])
def test_events_go_on_when_folders_of_one_name_that_were_moved_away_are_deleted(
    watched: Watched, order: str
) -> None:
    """With the newest first, watchdog's thread ended with a KeyError, and no event came any more."""
    for name in "12":
        (watched.root / "today").mkdir()
        watched.until_told()
        (watched.root / "today").rename(watched.archive / name)
        watched.until_told()
    for name in order:
        (watched.archive / name).rmdir()
        watched.until_told()
    assert watched.watch.is_alive


def test_a_watch_ends_where_a_folder_has_the_name_of_one_that_was_moved_away(watched: Watched) -> None:
    for name in ("tomorrow", "today"):
        (watched.root / name).mkdir()
        watched.until_told()
    (watched.root / "today").rename(watched.archive / "1")
    (watched.root / "tomorrow").rename(watched.root / "today")
    watched.until_told()
    watched.watch.close()
    assert not watched.watch.is_alive


def test_promise_06_a_full_queue_of_the_kernel_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A real overflow: the reading thread is held while more events come than the kernel keeps."""
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [tmp_path / "a", tmp_path / "b"]
    for name in names:
        name.touch()
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(tmp_path, seen.put)
    try:
        assert watch._events is not None
        (emitter,) = watch._events._observer.emitters
        with emitter._inotify._lock:  # type: ignore[attr-defined]
            for n in range(2 * room):  # in turn: the kernel joins equal events that follow each other
                os.utime(names[n % 2])
        while seen.get(timeout=10) is not Signal.EVENTS_LOST:
            pass
        (tmp_path / "after").touch()
        while seen.get(timeout=10) != Notice(tmp_path / "after"):
            pass
    finally:
        watch.close()
    assert "overflowed" in caplog.text
