"""Events where there are any, and a watch that comes back."""

import errno
import os
import queue
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify import InotifyWatchGroup
from watchdog.observers.inotify_c import InotifyFD

from edge import watching
from edge.watching import FolderWatch, Notice, Signal, choose_watch, filesystem_of, mounts_below
from tests.edge.inbox.bench import few_watches

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /mnt/scope rw - cifs //nas/scope rw
41 22 0:41 / /mnt/my\040share rw shared:5 master:1 - nfs4 nas:/x rw
42 40 0:42 / /mnt/scope/local rw - tmpfs tmpfs rw
43 22 0:43 / /media/é rw - fuse.sshfs me@host: rw
44 22 0:44 / /host rw - 9p host rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/in", "ext4"),
        ("/mnt/scope", "cifs"),
        ("/mnt/scope/in", "cifs"),
        ("/mnt/scope2", "ext4"),  # no prefix by letters
        ("/mnt/scope/local/x", "tmpfs"),
        ("/mnt/my share/in", "nfs4"),
        ("/media/é/in", "fuse.sshfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert filesystem_of(path, MOUNTINFO) == kind


def test_mounts_below_are_told_by_folders_and_not_by_letters() -> None:
    scope, local = ("/mnt/scope", "cifs"), ("/mnt/scope/local", "tmpfs")
    assert mounts_below("/mnt", MOUNTINFO) == (scope, ("/mnt/my share", "nfs4"), local)
    assert mounts_below("/mnt/scope", MOUNTINFO) == (local,)
    assert mounts_below("/mnt/sc", MOUNTINFO) == ()
    assert len(mounts_below("/", MOUNTINFO)) == 5


def test_promise_08_auto_polls_where_a_share_is_mounted_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(watching, "_MOUNTINFO", table)
    root, disk = "22 1 254:0 / / rw - ext4 x rw\n", f"23 22 0:9 / {tmp_path}/a rw - xfs x rw\n"
    table.write_text(root + disk)
    chosen = choose_watch("auto", tmp_path)
    assert (chosen.mode, chosen.why) == ("events", "the file system is ext4, below it xfs")
    table.write_text(f"{root}{disk}24 22 0:10 / {tmp_path}/b rw - cifs x rw\n")
    chosen = choose_watch("auto", tmp_path)
    assert (chosen.mode, chosen.why) == ("polling", "the file system is ext4, below it cifs, xfs")
    assert chosen.is_remote


def test_promise_08_auto_polls_where_there_are_no_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(watching, "_MOUNTINFO", table)
    remote = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.rclone", "fuse"]
    for kind in ["ext4", "tmpfs", *remote]:
        table.write_text(f"22 1 254:0 / / rw - {kind} x rw\n")
        chosen = choose_watch("auto", tmp_path)
        assert chosen.mode == ("polling" if kind in remote else "events")
        assert chosen.why == f"the file system is {kind}"
        assert chosen.is_remote == choose_watch("events", tmp_path).is_remote == (kind in remote)
    table.unlink()
    assert choose_watch("auto", tmp_path).mode == "events"
    assert choose_watch("polling", tmp_path).mode == "polling"


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


def test_promise_16_a_folder_that_is_removed_and_made_anew_is_watched_again(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(root, seen.put)
    try:
        assert watch.is_alive
        root.rmdir()
        watch.renew()
        assert not watch.is_alive
        root.mkdir()
        watch.renew()
        assert watch.is_alive
        (root / "a").touch()
        assert seen.get(timeout=10) == Notice(root / "a")
    finally:
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


def test_without_inotify_watches_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from watchdog.observers.api import BaseObserver

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(BaseObserver, "schedule", refuse)
    watch = FolderWatch(tmp_path, lambda _: None)
    watch.renew()
    assert not watch.is_alive
    assert caplog.text.count("polling it instead") == 1
    watch.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPERM])
def test_without_a_watch_of_the_folder_itself_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(InotifyFD, "add_callback", refuse)
    watch = FolderWatch(tmp_path, lambda _: None)
    watch.renew()
    assert not watch.is_alive
    assert caplog.messages == [f"No events for {str(tmp_path)!r} ([Errno {number}] no): polling it instead."]


def test_a_folder_that_is_granted_after_it_was_filled_is_told_and_then_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp -a` makes it; the tests may be root, who may read all."""
    withheld = {str(tmp_path / name).encode() for name in ("s", "t", "gone")}
    monkeypatch.setattr(watching, "_may_be_watched", lambda path: path not in withheld)
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
        watched = watch._observer
        watch.renew()
        assert watch._observer is watched
        withheld.remove(str(tmp_path / "s").encode())
        (tmp_path / "s").chmod(0o755)
        told_until(Signal.FOLDER_GRANTED)
        (tmp_path / "s" / "c").touch()
        told_until(Notice(tmp_path / "s" / "c"))
        watch.renew()
        assert watch._observer is watched
        withheld.remove(str(tmp_path / "t").encode())  # of which no event comes
        watch.renew()
        (tmp_path / "t" / "d").touch()
        told_until(Notice(tmp_path / "t" / "d"))
        assert watch.is_whole
        watched = watch._observer
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
        assert watch._observer is watched
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

    monkeypatch.setattr(watching, "_may_be_watched", may_be_watched)
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


def test_a_watched_folder_that_may_not_be_read_any_more_is_watched_when_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    with monkeypatch.context() as patch:
        patch.setattr(watching, "_may_be_watched", lambda _: False)
        watch = FolderWatch(tmp_path, seen.put)
        assert not watch.is_alive
    watch.renew()
    try:
        assert watch.is_alive
        (tmp_path / "a").touch()
        assert seen.get(timeout=10) == Notice(tmp_path / "a")
    finally:
        watch.close()
    assert caplog.text == ""


def test_too_few_watches_for_all_folders_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    few_watches(monkeypatch, tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
    watch = FolderWatch(tmp_path, lambda _: None)
    try:
        assert watch.is_alive
        assert not watch.is_whole
    finally:
        watch.close()
    (line,) = caplog.messages
    assert line.endswith(
        "(inotify watch limit reached): polling it, too; raise fs.inotify.max_user_watches (sysctl), then "
        "start again."
    )


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
    assert watch._observer is not None
    (emitter,) = watch._observer.emitters
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


def test_a_watch_whose_reading_thread_has_ended_is_renewed(watched: Watched) -> None:
    assert watched.watch._kernel_queue is not None
    watched.watch._kernel_queue.stop()
    watched.watch._kernel_queue.join()
    assert not watched.watch.is_alive
    watched.watch.renew()
    watched.until_told()


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
        assert watch._observer is not None
        (emitter,) = watch._observer.emitters
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


def test_promise_16_a_share_that_is_mounted_anew_is_watched_again(tmp_path: Path) -> None:
    """Its folder may have the device and the inode of the one before."""
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if done := subprocess.run(mount, capture_output=True, text=True).stderr:
        pytest.skip(f"needs the right to mount: {done.strip()}")
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(tmp_path, seen.put)
    try:
        subprocess.run(["umount", str(tmp_path)], check=True)
        while seen.get(timeout=10) is not Signal.EVENTS_LOST:
            pass
        subprocess.run(mount, check=True)
        assert not watch.is_alive
        watch.renew()
        (tmp_path / "a").touch()
        while seen.get(timeout=10) != Notice(tmp_path / "a"):
            pass
    finally:
        watch.close()
        subprocess.run(["umount", str(tmp_path)], check=True)
