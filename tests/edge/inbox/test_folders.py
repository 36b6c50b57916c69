"""An inbox that is missing, unmounted, closed or replaced."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge.errors import StationError
from edge.inbox import Inbox
from tests.edge.inbox.bench import Clock, Known, drain, not_to_be_entered, two_that_are_ready, wait_for

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


def test_a_folder_that_cannot_be_read_is_looked_at_less_and_less_often(
    root: Path, polling: Inbox, clock: Clock, scans_s: list[float]
) -> None:
    polling.take()
    root.rmdir()
    drain(polling, clock, 200)
    assert np.diff(scans_s).round().tolist() == [0, 1, 2, 4, 8, 16, 32, 60, 60]


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


@pytest.fixture
def mounts(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the kernel's table of mounts."""
    table = root.parent / "mountinfo"
    table.write_text("22 1 254:0 / / rw - ext4 x rw\n")
    monkeypatch.setattr("edge.mounts._MOUNTINFO", table)
    return table


def test_promise_08_a_share_that_is_mounted_below_after_the_start_is_polled_with_a_longer_quiet_period(
    root: Path, known: Known, clock: Clock, mounts: Path
) -> None:
    inbox = Inbox(root, known.knows, clock=clock)
    inbox.start()
    try:
        (root / "sample").mkdir()
        assert drain(inbox, clock) == []
        assert inbox._watch is not None
        with mounts.open("a") as more:
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
    root: Path, known: Known, clock: Clock, mounts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox(root, known.knows, clock=clock)
    inbox.start()
    try:
        assert drain(inbox, clock) == []
        share = root.parent / "share"
        share.mkdir()
        (share / "a.png").write_bytes(b"x")
        root.rmdir()
        share.rename(root)
        mounts.write_text(f"22 1 254:0 / / rw - ext4 x rw\n23 22 0:9 / {root} rw - nfs4 x rw\n")
        with caplog.at_level("INFO"):
            assert drain(inbox, clock, 4.5) == []
        assert "by polling (the file system is nfs4); files are read when they have not changed for 5 s" in (
            caplog.text
        )
        assert inbox._watch is None
        assert drain(inbox, clock) == [("a.png", "")]
    finally:
        inbox.close()
