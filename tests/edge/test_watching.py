"""A watch that comes back, and says once what it lacks."""

import errno
import queue
import subprocess
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyFD

from edge import folder_events
from edge.watching import FolderWatch, Notice, Signal
from tests.edge.inbox.bench import few_watches

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


def test_a_watched_folder_that_may_not_be_read_any_more_is_watched_when_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    with monkeypatch.context() as patch:
        patch.setattr(folder_events, "_may_be_watched", lambda _: False)
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


def test_a_watch_whose_reading_thread_has_ended_is_renewed(tmp_path: Path) -> None:
    seen: queue.SimpleQueue[Notice | Signal] = queue.SimpleQueue()
    watch = FolderWatch(tmp_path, seen.put)
    try:
        assert watch._events is not None
        watch._events._queue.stop()
        watch._events._queue.join()
        assert not watch.is_alive
        watch.renew()
        (tmp_path / "a").touch()
        assert seen.get(timeout=10) == Notice(tmp_path / "a")
    finally:
        watch.close()


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
