"""What the inbox gives, and what it never gives."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import inbox as inbox_module
from edge import watching
from edge.errors import StationError
from edge.inbox import Inbox
from edge.records import FileStamp
from edge.walking import is_ignored
from edge.watching import Notice, Signal, WatchMode

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Known:
    return clock.known


@pytest.fixture
def polling(root: Path, known: Known, clock: Clock) -> Inbox:
    inbox = Inbox(root, known.knows, watch="polling", clock=clock)
    inbox.start()
    return inbox


def drain(inbox: Inbox, clock: Clock, for_s: float = 3.0) -> list[tuple[str, str]]:
    """Names and samples that come while a time passes in steps of 100 ms."""
    given = []
    for _ in range(round(for_s * 10)):
        while (ready := inbox.take()) is not None:
            given.append((ready.path.name, ready.sample))
            clock.known.finish(ready.path)
        clock.now_s += 0.1
    return given


def test_promise_07_files_that_were_there_before_the_start_are_found_with_their_sample(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    (root / "s1" / "left").mkdir(parents=True)
    for name in ("top.png", "s1/a.png", "s1/left/b.png", "notes.txt"):
        (root / name).write_bytes(b"x")
    expected = [("a.png", "s1"), ("b.png", "s1/left"), ("notes.txt", ""), ("top.png", "")]
    assert sorted(drain(polling, clock)) == expected


def test_promise_04_a_growing_file_is_taken_once_after_its_last_change(
    root: Path, polling: Inbox, known: Known, clock: Clock
) -> None:
    file = root / "a.png"
    for size in range(20):
        file.write_bytes(bytes(size))
        assert drain(polling, clock, 0.3) == []
    began_s = clock.now_s
    while (ready := polling.take()) is None:
        clock.now_s += 0.1
    known.finish(ready.path)
    assert 0.1 <= clock.now_s - began_s <= 1.5
    assert drain(polling, clock) == []


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden", "a.png.part", "a.filepart", "a.tmp", "A.TMP", "._a.png", "Thumbs.db", "THUMBS.DB"),
        *("@eaDir/a.png", ".x/a.png"),
    ],
)
def test_promise_26_junk_is_ignored_and_its_rename_to_a_real_name_is_noticed(
    root: Path, polling: Inbox, clock: Clock, name: str
) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"x")
    polling._signals.put(Notice(root / name))  # an event tells of it, too
    assert drain(polling, clock) == []
    (root / name).rename(root / "real.png")
    assert drain(polling, clock) == [("real.png", "")]


@pytest.mark.parametrize("name", ["a.png", "partial.png", "tmp", "thumbs.png", "a.part.png", "eaDir"])
def test_names_that_only_look_like_junk_are_taken(name: str) -> None:
    assert not is_ignored(name)


def test_an_event_of_a_file_outside_the_folder_is_left_out(root: Path, polling: Inbox, clock: Clock) -> None:
    path = root.parent / "outside.png"
    path.write_bytes(b"x")
    polling._signals.put(Notice(path))
    assert drain(polling, clock) == []


def test_promise_27_symlinks_fifos_and_sockets_are_not_given(
    root: Path, polling: Inbox, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.png").write_bytes(b"x")
    (root / "file.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(root / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket.png"))
        assert drain(polling, clock) == []


def test_what_is_known_is_not_given_again_and_a_new_version_is(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    file = root / "a.png"
    file.write_bytes(b"x")
    assert drain(polling, clock) == [("a.png", "")]
    assert drain(polling, clock, 130) == []
    file.write_bytes(b"new bytes")
    assert drain(polling, clock) == [("a.png", "")]


def test_promise_18_a_file_that_is_gone_before_its_turn_is_given_once(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    (root / "a.png").write_bytes(b"x")
    assert polling.take() is None
    (root / "a.png").unlink()
    assert drain(polling, clock, 10) == [("a.png", "")]


def test_a_file_that_is_gone_while_it_waits_for_its_turn_is_given_once(
    root: Path, polling: Inbox, known: Known, clock: Clock
) -> None:
    known.finish(two_that_are_ready(root, polling, clock))
    (root / "b.png").unlink()
    assert drain(polling, clock, 10) == [("b.png", "")]


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


def test_a_file_that_grows_again_while_it_waits_for_its_turn_is_given_when_it_is_whole(
    root: Path, polling: Inbox, known: Known, clock: Clock
) -> None:
    known.finish(two_that_are_ready(root, polling, clock))
    for size in range(2, 20):
        (root / "b.png").write_bytes(bytes(size))
        assert drain(polling, clock, 0.3) == []
    assert drain(polling, clock) == [("b.png", "")]


@pytest.mark.parametrize("quiet_period_s", [0.5, 5.0])
@pytest.mark.parametrize("rename_after_s", [0.2, 0.6])
@pytest.mark.parametrize("is_seen_at_once", [True, False])
def test_a_rename_leaves_the_old_name_without_a_trace(
    root: Path,
    known: Known,
    clock: Clock,
    quiet_period_s: float,
    rename_after_s: float,
    is_seen_at_once: bool,
) -> None:
    inbox = Inbox(root, known.knows, quiet_period_s=quiet_period_s, watch="polling", clock=clock)
    inbox.start()
    (root / "cam1.writing").write_bytes(b"x")
    assert inbox.take() is None
    clock.now_s += rename_after_s
    (root / "cam1.writing").rename(root / "img1.jpg")
    if is_seen_at_once:
        inbox.rescan()
    assert drain(inbox, clock, 20) == [("img1.jpg", "")]


def test_a_rename_that_comes_with_the_last_bytes_leaves_the_old_name_without_a_trace(
    root: Path, known: Known, clock: Clock
) -> None:
    inbox = Inbox(root, known.knows, watch="events", clock=clock)
    inbox.start()
    try:
        (root / "cam1.writing").touch()
        assert inbox.take() is None
        (root / "cam1.writing").write_bytes(b"whole")
        (root / "cam1.writing").rename(root / "img1.jpg")
        while (root / "img1.jpg") not in inbox._quiet:
            inbox.wait_for_wake(10)
        assert drain(inbox, clock, 200) == [("img1.jpg", "")]
    finally:
        inbox.close()


def test_a_file_that_is_put_back_comes_after_its_delay(
    root: Path, polling: Inbox, known: Known, clock: Clock
) -> None:
    (root / "a.png").write_bytes(b"x")
    assert len(drain(polling, clock)) == 1
    known.clear()
    polling.put_back(root / "a.png", 5.0)
    assert drain(polling, clock, 4.9) == []
    assert drain(polling, clock, 2.0) == [("a.png", "")]
    polling.put_back(root.parent / "of another inbox.png")
    assert drain(polling, clock) == []


def test_a_file_that_rests_is_left_alone_until_it_changes_or_its_time_is_up(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    for name in ("a.png", "b.png"):
        (root / name).write_bytes(b"1")
    given = []
    for _ in range(8):
        while ready := polling.take():
            polling.rest(ready, 60)
            given.append(ready.path.name)
        clock.now_s += 1
        polling.rescan()
    assert sorted(given) == ["a.png", "b.png"]
    assert len(polling) == 0
    (root / "a.png").write_bytes(b"22")
    assert drain(polling, clock) == [("a.png", "")]
    clock.now_s += 60
    assert [name for name, _ in drain(polling, clock)] == ["b.png"]


def test_promise_29_a_clock_of_the_camera_that_is_a_day_off_changes_nothing(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    for name, mtime_s in (("future.png", 4e9), ("past.png", 1.0)):
        (root / name).write_bytes(b"x")
        os.utime(root / name, (mtime_s, mtime_s))
    assert sorted(name for name, _ in drain(polling, clock)) == ["future.png", "past.png"]


@pytest.mark.parametrize("watch", ["events", "polling"])
def test_promise_16_a_folder_that_goes_away_degrades_and_its_files_are_not_taken_for_deleted(
    root: Path, known: Known, clock: Clock, watch: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox(root, known.knows, watch=watch, clock=clock)  # type: ignore[arg-type]
    inbox.start()
    try:
        (root / "a.png").write_bytes(b"x")
        assert inbox.take() is None
        root.rename(root.with_name("unmounted"))
        assert drain(inbox, clock, 100) == []
        assert inbox.fault is not None
        root.with_name("unmounted").rename(root)
        assert drain(inbox, clock, 60) == [("a.png", "")]
        assert inbox.fault is None
        gone = f"The inbox {str(root)!r} cannot be read: No such file or directory; trying again."
        assert caplog.messages == [gone, f"The inbox {str(root)!r} can be read again."]
    finally:
        inbox.close()


@pytest.fixture
def scans_s(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[float]:
    """When scans began."""
    begun: list[float] = []
    walk = inbox_module.walk
    monkeypatch.setattr(inbox_module, "walk", lambda *args: begun.append(clock.now_s) or walk(*args))
    return begun


def test_a_folder_that_cannot_be_read_is_looked_at_less_and_less_often(
    root: Path, polling: Inbox, clock: Clock, scans_s: list[float]
) -> None:
    polling.take()
    root.rmdir()
    drain(polling, clock, 200)
    assert np.diff(scans_s).round().tolist() == [0, 1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(("scan_takes_s", "period_s"), [(0.0, 1.0), (0.5, 5.0), (10.0, 60.0)])
def test_polling_takes_at_most_a_tenth_of_the_time_and_no_longer_than_a_scan_with_events(
    polling: Inbox,
    clock: Clock,
    scans_s: list[float],
    monkeypatch: pytest.MonkeyPatch,
    scan_takes_s: float,
    period_s: float,
) -> None:
    begin = inbox_module.walk

    def walk(*args: Any) -> Iterator[Path]:
        yield from begin(*args)
        clock.now_s += scan_takes_s

    monkeypatch.setattr(inbox_module, "walk", walk)
    drain(polling, clock, 200)
    np.testing.assert_allclose(np.diff(scans_s), scan_takes_s + period_s, atol=0.2)


def test_a_wait_ends_when_the_first_thing_is_due_and_at_once_while_files_are_ready(
    root: Path, polling: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(polling, "wait_for_wake", waited_s.append)
    assert polling.take() is None
    polling.wait(30)  # for the next scan
    (root / "a.png").write_bytes(b"x")
    polling.rescan()
    assert polling.take() is None
    polling.wait(30)  # for the quiet period
    polling.put_back(root / "b.png", 0.25)
    polling.wait(30)
    assert len(polling) == 2
    polling.wait(0.125)
    polling._ready[root / "c.png"] = None
    polling.wait(30)
    assert waited_s == [1.0, 0.5, 0.25, 0.125, 0.0]
    assert len(polling) == 3


def test_a_file_that_was_put_back_and_is_gone_by_then_is_given_once(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    (root / "a.png").write_bytes(b"x")
    assert len(drain(polling, clock)) == 1
    polling.put_back(root / "a.png", 2.0)
    (root / "a.png").unlink()
    assert drain(polling, clock, 10) == [("a.png", "")]


def test_a_file_is_given_after_the_quiet_period_that_is_set(root: Path, known: Known, clock: Clock) -> None:
    inbox = Inbox(root, known.knows, quiet_period_s=5, watch="polling", clock=clock)
    inbox.start()
    (root / "a.png").write_bytes(b"x")
    assert drain(inbox, clock, 4) == []
    (root / "a.png").write_bytes(b"more")
    assert drain(inbox, clock, 4) == []
    assert drain(inbox, clock, 3) == [("a.png", "")]


def test_promise_16_files_that_wait_for_their_turn_are_not_vanished_while_their_share_is_not_mounted(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    polling.put_back(two_that_are_ready(root, polling, clock), 2.0)
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    assert drain(polling, clock, 10) == []


def test_promise_16_an_empty_mount_point_in_place_of_the_folder_is_not_a_deletion(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    (root / "a.png").write_bytes(b"x")
    assert polling.take() is None
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    assert drain(polling, clock, 10) == []
    root.rmdir()
    root.with_name("unmounted").rename(root)
    assert drain(polling, clock) == [("a.png", "")]


def test_promise_16_a_file_of_an_earlier_run_is_not_vanished_while_its_share_is_not_mounted(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    polling.expect(root / "a.png")
    polling.expect(root / "b.png")
    assert drain(polling, clock) == []
    (root / "b.png").write_bytes(b"x")
    assert sorted(drain(polling, clock)) == [("a.png", ""), ("b.png", "")]


def test_a_folder_that_may_not_be_read_is_logged_once(
    root: Path,
    polling: Inbox,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (root / "closed").mkdir()
    real = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr("edge.walking.os.scandir", scandir)
        drain(polling, clock, 10)
    assert caplog.text.count("closed' cannot be read") == 1


def not_to_be_entered(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A double of the right that `chmod a-x` takes away, which root has all the same."""
    real = os.access
    monkeypatch.setattr(
        "edge.walking.os.access",
        lambda path, mode, **how: Path(path).name != name and real(path, mode, **how),
    )


def test_a_folder_that_may_be_listed_and_not_entered_is_logged_once(
    root: Path,
    polling: Inbox,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (root / "listed").mkdir()
    (root / "listed" / "a.png").write_bytes(b"x")
    with monkeypatch.context() as patch:
        not_to_be_entered(patch, "listed")
        drain(polling, clock, 10)
    assert caplog.text.count("listed' cannot be read: Permission denied") == 1


def test_an_inbox_that_loses_the_right_to_be_entered_is_at_fault(
    root: Path, polling: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        not_to_be_entered(patch, root.name)
        drain(polling, clock)
        assert polling.fault is not None
        assert "Permission denied" in polling.fault
    (root / "a.png").write_bytes(b"x")
    assert drain(polling, clock) == [("a.png", "")]
    assert polling.fault is None


def test_promise_19_an_inbox_that_may_not_be_entered_is_a_start_error(
    root: Path, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_to_be_entered(monkeypatch, root.name)
    with pytest.raises(StationError, match=r"Permission denied.*right to read and enter it"):
        Inbox(root, known.knows).start()


def test_promise_16_a_missing_folder_is_waited_for(tmp_path: Path, known: Known, clock: Clock) -> None:
    inbox = Inbox(tmp_path / "later", known.knows, watch="events", clock=clock)
    inbox.start()
    try:
        assert drain(inbox, clock) == []
        assert inbox.fault is not None
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "a.png").write_bytes(b"x")
        assert drain(inbox, clock) == [("a.png", "")]
    finally:
        inbox.close()


def test_a_file_in_place_of_the_folder_is_a_start_error(tmp_path: Path, known: Known) -> None:
    (tmp_path / "in").touch()
    with pytest.raises(StationError, match="cannot be read"):
        Inbox(tmp_path / "in", known.knows).start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_promise_19_a_folder_without_permission_is_a_start_error(root: Path, known: Known) -> None:
    root.chmod(0)
    try:
        with pytest.raises(StationError, match="right to read"):
            Inbox(root, known.knows).start()
    finally:
        root.chmod(0o700)


def test_promise_07_a_lost_event_is_made_good_by_the_next_scan(
    root: Path, known: Known, clock: Clock
) -> None:
    inbox = Inbox(root, known.knows, watch="events", rescan_period_s=60, clock=clock)
    inbox.start()
    assert inbox._watch is not None
    inbox._watch._notify = lambda _: None
    inbox._watch.close()
    inbox._watch._open()  # events go nowhere now
    try:
        assert drain(inbox, clock) == []
        (root / "a.png").write_bytes(b"x")
        assert drain(inbox, clock, 30) == []
        assert drain(inbox, clock, 60) == [("a.png", "")]
    finally:
        inbox.close()


@pytest.mark.parametrize("in_a_scan", [False, True])
def test_promise_06_lost_events_lead_to_a_scan_at_once(
    root: Path, known: Known, clock: Clock, in_a_scan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "_SLICE", 1)
    monkeypatch.setattr(inbox_module, "_POLL_PERIOD_S", 60.0)
    (root / "there.png").write_bytes(b"x")
    inbox = Inbox(root, known.knows, watch="polling", rescan_period_s=60, clock=clock)
    if not in_a_scan:
        drain(inbox, clock)
    else:
        inbox.take()  # the scan has passed the first file
    assert (inbox._scan is not None) == in_a_scan
    (root / "missed.png").write_bytes(b"y")
    inbox._signals.put(Signal.EVENTS_LOST)
    assert ("missed.png", "") in drain(inbox, clock)


def test_promise_08_a_share_that_is_mounted_below_after_the_start_is_polled_with_a_longer_quiet_period(
    root: Path, known: Known, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = root.parent / "mountinfo"
    table.write_text("22 1 254:0 / / rw - ext4 x rw\n")
    monkeypatch.setattr(watching, "_MOUNTINFO", table)
    inbox = Inbox(root, known.knows, clock=clock)
    inbox.start()
    try:
        (root / "sample").mkdir()
        assert drain(inbox, clock) == []
        assert inbox._watch is not None
        with table.open("a") as more:
            more.write(f"23 22 0:9 / {root}/sample rw - nfs4 x rw\n")
        drain(inbox, clock, 60)
        assert inbox._watch is None
        (root / "sample" / "a.png").write_bytes(b"x")
        assert drain(inbox, clock, 4.5) == []
        assert drain(inbox, clock) == [("a.png", "sample")]
    finally:
        inbox.close()


def test_a_disk_that_is_mounted_below_after_the_start_is_watched_from_the_next_scan(
    root: Path, known: Known
) -> None:
    (root / "card").mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(root / "card")]
    inbox = Inbox(root, known.knows, watch="events", quiet_period_s=0.05, rescan_period_s=300)
    inbox.start()
    try:
        assert inbox.take() is None
        if done := subprocess.run(mount, capture_output=True, text=True).stderr:
            pytest.skip(f"needs the right to mount: {done.strip()}")
        try:
            inbox.rescan()
            assert inbox.take() is None
            (root / "card" / "a.png").write_bytes(b"1")
            wait_for(inbox, "a.png".__eq__)
        finally:
            inbox.close()
            subprocess.run(["umount", str(root / "card")], check=True)
    finally:
        inbox.close()


def test_promise_08_a_share_that_is_mounted_after_the_start_is_polled_with_a_longer_quiet_period(
    root: Path, known: Known, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = root.parent / "mountinfo"
    table.write_text("22 1 254:0 / / rw - ext4 x rw\n")
    monkeypatch.setattr(watching, "_MOUNTINFO", table)
    inbox = Inbox(root, known.knows, clock=clock)
    inbox.start()
    try:
        assert drain(inbox, clock) == []
        share = root.parent / "share"
        share.mkdir()
        (share / "a.png").write_bytes(b"x")
        root.rmdir()
        share.rename(root)
        table.write_text(f"22 1 254:0 / / rw - ext4 x rw\n23 22 0:9 / {root} rw - nfs4 x rw\n")
        with caplog.at_level("INFO"):
            assert drain(inbox, clock, 4.5) == []
        assert "by polling (the file system is nfs4); files are read when they have not changed for 5 s" in (
            caplog.text
        )
        assert inbox._watch is None
        assert drain(inbox, clock) == [("a.png", "")]
    finally:
        inbox.close()


def wait_for(inbox: Inbox, is_wanted: Callable[[str], bool]) -> None:
    for _ in range(200):
        ready = inbox.take()
        if ready is not None and is_wanted(ready.path.name):
            return
        inbox.wait(0.2)
    raise AssertionError("it never came")


def test_events_bring_new_moved_in_and_renamed_files_without_a_scan(
    root: Path, known: Known, tmp_path: Path
) -> None:
    inbox = Inbox(root, known.knows, watch="events", quiet_period_s=0.05, rescan_period_s=300)
    inbox.start()
    try:
        assert inbox.take() is None
        (root / "written.png").write_bytes(b"1")
        wait_for(inbox, "written.png".__eq__)
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "a.png").write_bytes(b"2")
        shutil.move(tmp_path / "outside", root / "sample")
        wait_for(inbox, "a.png".__eq__)
        (root / "b.part").write_bytes(b"3")
        (root / "b.part").rename(root / "b.png")
        wait_for(inbox, "b.png".__eq__)
    finally:
        inbox.close()


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


@pytest.mark.parametrize("mode", ["events", "polling"])
def test_promise_08_events_and_polling_give_the_same_files(
    root: Path, known: Known, tmp_path: Path, mode: WatchMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "_POLL_PERIOD_S", 0.05)
    (root / "before.png").write_bytes(b"1")
    inbox = Inbox(root, known.knows, watch=mode, quiet_period_s=0.05)
    inbox.start()
    try:
        assert take(inbox, known, 1) == [("before.png", "", 1)]
        (root / "sample").mkdir()
        (root / "sample" / "new.png").write_bytes(b"22")
        (root / "copied.png.part").write_bytes(b"333")
        (root / "copied.png.part").rename(root / "copied.png")
        (tmp_path / "moved").mkdir()
        (tmp_path / "moved" / "in.png").write_bytes(b"4444")
        (tmp_path / "moved").rename(root / "moved")
        assert take(inbox, known, 3) == [
            ("copied.png", "", 3),
            ("in.png", "moved", 4),
            ("new.png", "sample", 2),
        ]
        (root / "before.png").write_bytes(b"55555")
        os.link(root / "copied.png", root / "linked.png")
        assert take(inbox, known, 2) == [("before.png", "", 5), ("linked.png", "", 3)]
    finally:
        inbox.close()


def test_wake_ends_a_wait(root: Path, known: Known) -> None:
    inbox = Inbox(root, known.knows, watch="polling")
    while inbox.take() is None and inbox._scan is not None:
        pass
    waking = threading.Timer(0.05, inbox.wake)
    waking.start()
    began_s = time.monotonic()
    inbox.wait_for_wake(30)
    assert time.monotonic() - began_s < 10
    waking.join()


def test_promise_06_thousands_of_files_are_each_given_once(
    root: Path, polling: Inbox, known: Known, clock: Clock
) -> None:
    for n in range(3000):
        (root / f"{n}.png").touch()
    given = []
    while len(given) < 3000:
        if (ready := polling.take()) is None:
            clock.now_s += 0.1
        else:
            given.append(ready.path)
            known.finish(ready.path)
    assert len(set(given)) == 3000
    assert drain(polling, clock, 10) == []
