"""Promise 16: the inbox goes away and comes back, and the same process goes on with all that is in it."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.books import Answers, compare
from tests.chaos.camera import Camera, Original, move_in, write_part_and_rename
from tests.chaos.conftest import Mounts, Report, say
from tests.chaos.daemon import Daemon

pytestmark = pytest.mark.timeout(3600)

_BATCH = 40
"""More images than are read before the folder is gone."""

Change = Callable[[Path, Path, Mounts], Iterator[None]]
"""A folder goes away, and at the next step it is back; arguments: inbox, a place beside it, mounts."""


def renamed(inbox: Path, beside: Path, mounts: Mounts) -> Iterator[None]:
    inbox.rename(beside)
    yield
    beside.rename(inbox)


def removed(inbox: Path, beside: Path, mounts: Mounts) -> Iterator[None]:
    shutil.rmtree(inbox)
    yield
    inbox.mkdir()


def replaced(inbox: Path, beside: Path, mounts: Mounts) -> Iterator[None]:
    inbox.rename(beside)
    inbox.mkdir()
    yield
    shutil.rmtree(inbox)
    beside.rename(inbox)


def unmounted(inbox: Path, beside: Path, mounts: Mounts) -> Iterator[None]:
    """What is mounted on the inbox is also mounted beside it, so that its files outlive it there."""
    mounts.unmount(inbox)
    yield
    mounts.bind(inbox, beside)


@pytest.mark.parametrize(
    "change", [renamed, removed, replaced, unmounted], ids=lambda change: change.__name__
)
@pytest.mark.parametrize("watch", ["events", "polling"])
def test_promise_16_the_inbox_goes_away_and_comes_back(
    change: Change,
    watch: str,
    home: Path,
    originals: list[Original],
    mounts: Mounts,
    start: Callable[..., Daemon],
    report: Report,
    is_full: bool,
) -> None:
    rounds = 10 if is_full else 2
    inbox, beside = home / "inbox", home / "beside"
    if change is unmounted:
        beside.mkdir()
        mounts.tmpfs(beside, "64m")
        mounts.bind(inbox, beside)
    daemon = start(home, watch=watch, quiet_period_s=0.1, rescan_period_s=300)
    daemon.wait_ready()
    # The outside of a mounted inbox is a folder in it that the station ignores: files are moved, not copied.
    outside = inbox / ".outside" if change is unmounted else home / "outside"
    camera = Camera(inbox, outside, originals, random.Random(8), lambda pause_s: None)
    answers = Answers(home / "out")

    def all_answered() -> bool:
        return answers.has(camera.dropped)

    told, resumed_s = 0, []
    for number in range(rounds):
        old = len(camera.dropped)
        for _ in range(_BATCH):
            camera.drop("sample", move_in)
        if change is removed:  # what is removed unread is lost, and rightly so
            daemon.wait_for("all have their answer", all_answered)
        else:
            daemon.wait_for("some have their answer", lambda old=old: len(answers.look()) > old)
        change_back = change(inbox, beside, mounts)
        next(change_back)
        if change in (renamed, removed):
            daemon.wait_status("degraded: the inbox cannot be read")
            told += 1
            if is_full and number == rounds - 1:
                daemon.lives_for(40)
        else:  # what stands in its place is a folder like any other
            others = [camera.drop("other", write_part_and_rename) for _ in range(5)]
            daemon.wait_for("images in its place", lambda others=others: answers.has(others))
        next(change_back, None)
        back_s = time.monotonic()
        camera.drop("later", move_in)
        daemon.wait_for("all have their answer", all_answered)
        resumed_s.append(time.monotonic() - back_s)
        daemon.wait_for("no fault", lambda: "degraded" not in daemon.status)
        camera.drop("afterwards", move_in)  # no scan is due for minutes: events must come again, or polling
        daemon.wait_for("an image after that", all_answered, 30)
    say(f"{change.__name__}, {watch}: went on after {min(resumed_s):.1f} to {max(resumed_s):.1f} s")
    log = daemon.log()
    assert daemon.stop() == 0
    figures = compare(home / "out", home / "out" / ".edge", camera.dropped, camera.partial)
    report(
        f"Inbox {change.__name__} {rounds} times ({watch}): the same process goes on, {len(camera.dropped)} "
        f"images have their rows once, the last {max(resumed_s):.1f} s at most after the inbox was back",
        told_degraded=told,
        resumed_s=resumed_s,
        warnings=sorted({line.partition(" ")[2][13:] for line in log.splitlines() if " WARNING " in line}),
        **figures,
    )
