"""Promise 15: on a full disk intake pauses and nothing is torn; with space again it goes on by itself."""

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.books import Answers, compare, parts
from tests.chaos.camera import Camera, Original, write_part_and_rename
from tests.chaos.conftest import Mounts, Report, say
from tests.chaos.daemon import Daemon

pytestmark = pytest.mark.timeout(3600)

_PAGE_BYTES = 4096
_FILLED = "paused: disk full"
_VARIANTS = {"csv files": ("out",), "journal": ("state",), "both on one disk": ("out", "state")}


class Disk:
    """A small disk, and the ballast that fills it."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"
        self._folder = folder

    def fill(self, leave_bytes: int) -> None:
        """Leave some bytes, in whole pages."""
        status = os.statvfs(self._folder)
        free = status.f_bavail * status.f_frsize
        with self._ballast.open("ab") as file:
            file.write(bytes(max(0, free - leave_bytes)))

    def free(self) -> None:
        self._ballast.unlink()


@pytest.mark.parametrize("full", _VARIANTS)
def test_promise_15_a_full_disk_pauses_the_intake_and_tears_nothing(
    full: str,
    home: Path,
    originals: list[Original],
    mounts: Mounts,
    start: Callable[..., Daemon],
    report: Report,
    is_full: bool,
) -> None:
    rounds, long_pause_s = (30, 130.0) if is_full else (4, 2.0)
    small = home / "small disk"
    small.mkdir()
    mounts.tmpfs(small, "24m")
    disk = Disk(small)
    out = small / "out" if "out" in _VARIANTS[full] else home / "out"
    state = small / "state" if "state" in _VARIANTS[full] else home / "state"
    if out.is_relative_to(small):
        (home / "out").symlink_to(out)
        out.mkdir()
    rng = random.Random(6)
    daemon = start(home, state=state, quiet_period_s=0.1)
    daemon.wait_ready()
    camera = Camera(home / "inbox", home / "outside", originals, rng, lambda pause_s: None)
    answers = Answers(out)

    def drop(count: int) -> None:
        for _ in range(count):
            camera.drop(rng.choice(("", "a", "b/c")), write_part_and_rename)

    def all_answered() -> bool:
        return answers.has(camera.dropped)

    drop(5)
    daemon.wait_for("the first images", all_answered)
    pauses = 0
    for number in range(rounds):
        disk.fill(_PAGE_BYTES * rng.randrange(8))
        while _FILLED not in daemon.status:  # a disk with a page left may take some more images
            drop(10)
            daemon.wait_for("answers or a pause", lambda: all_answered() or _FILLED in daemon.status)
            assert len(camera.dropped) < 5000, "the disk does not get full"
        pauses += 1
        drop(3)
        if number == rounds - 1:
            daemon.lives_for(long_pause_s)
            assert _FILLED in daemon.status
        torn = [path.name for name in ("results", "images") for path in parts(out, name) if _is_torn(path)]
        assert torn == [], f"torn on a full disk, round {number}"
        disk.free()
        went_on_s = daemon.wait_for("all have their answer", all_answered)
        daemon.wait_for("the pause is over", lambda: _FILLED not in daemon.status)
        say(f"round {number + 1}: {len(camera.dropped)} images, went on after {went_on_s:.1f} s")
    log = daemon.log()
    assert daemon.stop() == 0
    warned = [_time_of(line) for line in log.splitlines() if "Intake is paused" in line]
    assert warned, "the log does not tell of the pause"
    between_s = [(later - earlier).total_seconds() for earlier, later in pairwise(warned)]
    assert all(seconds > 59 for seconds in between_s), f"warned after {between_s} s"
    assert len(warned) >= 1 + int(long_pause_s // 60)
    figures = compare(out, state, camera.dropped, camera.partial)
    report(
        f"Full disk ({full}): filled {pauses} times while {len(camera.dropped)} images arrived; nothing torn,"
        f" warnings logged: {len(warned)}{_apart(between_s)}; went on by itself each time",
        pauses=pauses,
        warnings=len(warned),
        seconds_between_warnings=between_s,
        **figures,
    )


def test_promise_15_a_start_on_a_full_disk_waits_for_space(
    home: Path,
    originals: list[Original],
    mounts: Mounts,
    start: Callable[..., Daemon],
    report: Report,
) -> None:
    (home / "out").mkdir()
    mounts.tmpfs(home / "out", "4m")
    disk = Disk(home / "out")
    rng = random.Random(7)
    camera = Camera(home / "inbox", home / "outside", originals, rng, lambda pause_s: None)
    answers = Answers(home / "out")

    def all_answered() -> bool:
        return answers.has(camera.dropped)

    def met_by(daemon: Daemon) -> str:
        """How a process meets a full disk: it waits before it is ready, pauses, or needs no space."""
        waits = ("waiting to start", _FILLED)
        daemon.wait_for(
            "a pause or an answer", lambda: all_answered() or any(text in daemon.status for text in waits)
        )
        return next((text for text in waits if text in daemon.status), "answered")

    met: Counter[str] = Counter()
    for leave in (0, 1, 2, 3, 4, 5, 6, 8, 16):
        disk.fill(leave * _PAGE_BYTES)
        for is_killed in (True, False):
            camera.drop("", write_part_and_rename)
            daemon = start(home, quiet_period_s=0.1)
            met[met_by(daemon)] += 1
            if is_killed:
                daemon.kill()
        disk.free()
        daemon.wait_for("all have their answer", all_answered)
        assert daemon.stop() == 0
    compare(home / "out", home / "out" / ".edge", camera.dropped, camera.partial)
    assert met["waiting to start"]
    assert met[_FILLED]
    report(
        f"{met.total()} starts on a full or nearly full disk, half of them killed there: nothing torn, "
        "nothing lost; the others went on by themselves when there was space",
        met=met,
    )


def _apart(between_s: list[float]) -> str:
    return f" (at least {min(between_s):.0f} s apart)" if between_s else ""


def _is_torn(path: Path) -> bool:
    data = path.read_bytes()
    return bool(data) and not data.endswith(b"\n")


def _time_of(line: str) -> datetime:
    found = re.match(r"[-\d]+ [:\d]+,\d+", line)
    assert found is not None, line
    return datetime.strptime(found[0], "%Y-%m-%d %H:%M:%S,%f")
