"""The kernel's events, and what is done where they are lost."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from edge import inbox as inbox_module
from edge.inbox import Inbox
from edge.mounts import WatchMode
from edge.watching import Notice, Signal
from tests.edge.inbox.bench import Clock, Known, drain, few_watches, take, wait_for

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_an_event_of_a_file_outside_the_folder_is_left_out(root: Path, polling: Inbox, clock: Clock) -> None:
    path = root.parent / "outside.png"
    path.write_bytes(b"x")
    polling._signals.put(Notice(path))
    assert drain(polling, clock) == []


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


def test_promise_04_files_of_a_folder_that_is_granted_when_it_is_filled_come_at_once(
    root: Path, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = root / "sample"
    withheld = {os.fsencode(sample)}
    monkeypatch.setattr("edge.folder_events._may_be_watched", lambda path: path not in withheld)
    inbox = Inbox(root, known.knows, watch="events", quiet_period_s=0.05, rescan_period_s=300)
    inbox.start()
    try:
        assert inbox.take() is None
        sample.mkdir()
        (sample / "a.png").write_bytes(b"1")
        (root / "b.png").write_bytes(b"2")
        assert take(inbox, known, 1) == [("b.png", "", 1)]
        withheld.clear()
        sample.chmod(0o755)
        assert take(inbox, known, 1) == [("a.png", "sample", 1)]
        (sample / "c.png").write_bytes(b"3")
        assert take(inbox, known, 1) == [("c.png", "sample", 1)]
    finally:
        inbox.close()


def test_promise_08_folders_beyond_the_limit_of_watches_are_polled(
    root: Path, known: Known, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_watches(monkeypatch, root)
    (root / "sample").mkdir()
    inbox = Inbox(root, known.knows, watch="events", clock=clock)
    inbox.start()
    try:
        assert drain(inbox, clock) == []
        (root / "sample" / "a.png").write_bytes(b"1")
        assert drain(inbox, clock) == [("a.png", "sample")]
    finally:
        inbox.close()


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
