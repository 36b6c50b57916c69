"""When the inbox gives a file."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge import inbox as inbox_module
from edge.inbox import Inbox
from tests.edge.inbox.bench import Clock, Known, drain

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


def test_a_file_is_given_after_the_quiet_period_that_is_set(root: Path, known: Known, clock: Clock) -> None:
    inbox = Inbox(root, known.knows, quiet_period_s=5, watch="polling", clock=clock)
    inbox.start()
    (root / "a.png").write_bytes(b"x")
    assert drain(inbox, clock, 4) == []
    (root / "a.png").write_bytes(b"more")
    assert drain(inbox, clock, 4) == []
    assert drain(inbox, clock, 3) == [("a.png", "")]
