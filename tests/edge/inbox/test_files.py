"""Which files the inbox gives, and which never."""

import os
import socket
from pathlib import Path

import pytest

from edge.inbox import Inbox
from edge.walking import is_ignored
from edge.watching import Notice
from tests.edge.inbox.bench import Clock, Known, drain, two_that_are_ready

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_promise_07_files_that_were_there_before_the_start_are_found_with_their_sample(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    (root / "s1" / "left").mkdir(parents=True)
    for name in ("top.png", "s1/a.png", "s1/left/b.png", "notes.txt"):
        (root / name).write_bytes(b"x")
    expected = [("a.png", "s1"), ("b.png", "s1/left"), ("notes.txt", ""), ("top.png", "")]
    assert sorted(drain(polling, clock)) == expected


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


def test_a_file_that_was_put_back_and_is_gone_by_then_is_given_once(
    root: Path, polling: Inbox, clock: Clock
) -> None:
    (root / "a.png").write_bytes(b"x")
    assert len(drain(polling, clock)) == 1
    polling.put_back(root / "a.png", 2.0)
    (root / "a.png").unlink()
    assert drain(polling, clock, 10) == [("a.png", "")]
