"""Promises 1, 2 and 3: whatever moment the station is killed at, each image has its rows exactly once.

SIGKILL leaves the page cache: what a power cut does beyond that is tried only as far as a CSV file that is
shorter or longer than it should be. There the order of the fsyncs must carry the argument.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.books import Answers, committed_end, compare, key
from tests.chaos.camera import Camera, Dropped, Original
from tests.chaos.conftest import Report, say
from tests.chaos.daemon import Daemon

pytestmark = pytest.mark.timeout(4 * 3600)

LANES = 2
"""Stations at once, one a core of a small machine."""

_MOMENTS = ("any", "write", "repair")
_SHARES = (0.6, 0.2, 0.2)
_WORK_S = 1.0
_WAITING = 20
"""Images without an answer, at any time: a station that is ready is at work."""

_GLANCE_S = 0.0002
"""Between two looks at a process whose repair takes milliseconds; the camera's threads need to run, too."""
_BACKLOG = 200
"""Images that wait at most: a station that is killed every second gets no more done."""
_SETTINGS = {"quiet_period_s": 0.1}


class Lane(threading.Thread):
    """A station of its own that is killed again and again while images arrive.

    Moments of a kill, seeded:
        any     uniform over the start-up, or over a second of work.
        write   within a millisecond after one of the first writes of the work: claim, commit, CSV files.
        repair  within a few milliseconds after both folders are locked, with a CSV file that was cut at any
                byte, or has bytes behind its end, since the last kill.
    """

    def __init__(
        self,
        home: Path,
        originals: list[Original],
        kills: int,
        seed: int,
        start: Callable[..., Daemon],
        failed: threading.Event,
    ) -> None:
        super().__init__(name=home.name)
        self._home, self._kills, self._start, self._failed = home, kills, start, failed
        self._rng = random.Random(seed)
        self._stopped = threading.Event()
        self._answers = Answers(home / "out")
        self.camera = Camera(
            home / "inbox", home / "outside", originals, random.Random(seed + 1), self._stopped.wait
        )
        self.moments: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.figures: dict[str, object] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        arrivals = threading.Thread(target=self._guarded, args=(self._drop,))
        arrivals.start()
        try:
            self._guarded(self._kill_and_drain)
        finally:
            self._stopped.set()
            arrivals.join()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.error = self.error or error
            self._stopped.set()
            self._failed.set()

    def _drop(self) -> None:
        """Images arrive in any way, as many as are answered; a tenth in the place of an answered one."""
        rng, camera = random.Random(self.camera.rng.random()), self.camera
        waiting: list[Dropped] = []
        answered: list[Dropped] = []
        while not self._stopped.wait(rng.expovariate(1 / 0.05)):
            keys = self._answers.look()
            answered += [image for image in waiting if key(image) in keys]
            waiting = [image for image in waiting if key(image) not in keys]
            while len(waiting) < _WAITING and not self._stopped.is_set():
                if answered and rng.random() < 0.1:
                    waiting.append(camera.overwrite(answered.pop(rng.randrange(len(answered)))))
                else:
                    waiting.append(camera.drop(rng.choice(("", "night", "day/a", "day/b"))))

    def _kill_and_drain(self) -> None:
        first = self._start(self._home, **_SETTINGS)
        start_up_s = first.wait_ready()
        first.wait_for("a first row", lambda: bool(self._answers.look()))
        first.kill()
        for number in range(self._kills):
            (moment,) = self._rng.choices(_MOMENTS, _SHARES)
            if moment == "repair":
                self._damage()
            daemon = self._start(self._home, **_SETTINGS)
            {"any": self._any, "write": self._at_a_write, "repair": self._in_the_repair}[moment](
                daemon, start_up_s
            )
            assert daemon.is_running, f"it ended by itself: {daemon.log()}"
            self.moments[f"{moment}, {'at work' if daemon.is_ready else 'starting'}"] += 1
            daemon.kill()
            log = daemon.log()
            self.seen["rows written again at a start"] += "wrote it again" in log
            self.seen["surplus cut at a start"] += "were moved to" in log
            if self._failed.is_set():
                return
            if number % 50 == 49:
                say(f"{self.name}: {number + 1} kills, {len(self.camera.dropped)} images dropped")
        self._stopped.set()
        last = self._start(self._home, **_SETTINGS)
        last.wait_for("all have their answer", lambda: self._answers.has(self.camera.dropped))
        last.wait_status("queue 0;")
        assert last.stop() == 0
        out = self._home / "out"
        self.figures = compare(out, out / ".edge", self.camera.dropped, self.camera.partial)
        assert self.figures["further_parts"] == [], "a file was taken for edited"

    def _any(self, daemon: Daemon, start_up_s: float) -> None:
        if self._rng.random() < 0.5:
            time.sleep(self._rng.uniform(0, start_up_s))
        else:
            daemon.wait_ready()
            time.sleep(self._rng.uniform(0, _WORK_S))

    def _at_a_write(self, daemon: Daemon, start_up_s: float) -> None:
        daemon.wait_ready()
        begun, count = daemon.write_calls(), self._rng.randint(1, 60)
        end_s = time.monotonic() + _WORK_S
        while daemon.write_calls() < begun + count and time.monotonic() < end_s:
            time.sleep(_GLANCE_S)
        time.sleep(self._rng.uniform(0, 0.001))

    def _in_the_repair(self, daemon: Daemon, start_up_s: float) -> None:
        while daemon.is_running and daemon.locks() < 2 and not daemon.is_ready:
            time.sleep(_GLANCE_S)
        time.sleep(self._rng.uniform(0, 0.004))

    def _damage(self) -> None:
        """A CSV file as after a power cut: shorter than committed, or with bytes of nobody behind the end."""
        for output in ("results", "images"):
            path = self._home / "out" / f"{output}.csv"
            size = path.stat().st_size
            # Foreign bytes in the place of committed ones would be an edited file, which is left alone.
            is_short = size < committed_end(self._home / "out" / ".edge", path.name)
            if is_short or self._rng.random() < 0.5:
                with path.open("r+b") as file:
                    file.truncate(self._rng.randint(0, size))
            else:
                surplus = self._rng.randbytes(self._rng.randint(1, 2000))
                with path.open("ab") as file:
                    file.write(surplus.replace(b"\n", b"\0"))  # or `Answers` would take it for rows


def test_promise_01_each_image_has_its_rows_exactly_once_after_kills(
    tmp_path: Path,
    originals: list[Original],
    start: Callable[..., Daemon],
    report: Report,
    is_full: bool,
) -> None:
    kills = 1000 if is_full else 40
    lanes, failed = [], threading.Event()
    for number in range(LANES):
        home = tmp_path / f"station-{number}"
        (home / "inbox").mkdir(parents=True)
        lanes.append(Lane(home, originals, kills // LANES, 100 * number, start, failed))
    say(f"{kills} kills of {LANES} stations")
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    for lane in lanes:
        if lane.error is not None:
            raise lane.error
    images = sum(len(lane.camera.dropped) for lane in lanes)
    moments = sum((lane.moments for lane in lanes), Counter())
    seen = sum((lane.seen for lane in lanes), Counter())
    report(
        f"After {kills} times `kill -9` ({_phrase(moments)}), each of {images} images has its rows exactly "
        f"once; CSV files and journal agree to the byte",
        kills=kills,
        moments=moments,
        at_starts=seen,
        stations=[lane.figures for lane in lanes],
    )


def test_promise_01_kills_while_the_books_are_opened_for_the_first_time(
    tmp_path: Path,
    originals: list[Original],
    start: Callable[..., Daemon],
    report: Report,
    is_full: bool,
) -> None:
    kills = 50 if is_full else 5
    rng = random.Random(4)

    def kill_and_start_again(home: Path) -> None:
        (home / "inbox").mkdir(parents=True)
        camera = Camera(home / "inbox", home / "outside", originals, rng, lambda pause_s: None)
        for _ in range(2):
            camera.drop()
        daemon = start(home, **_SETTINGS)
        while daemon.is_running and daemon.locks() < 1:
            time.sleep(_GLANCE_S)
        time.sleep(rng.uniform(0, 0.03))
        daemon.kill()
        answers = Answers(home / "out")
        second = start(home, **_SETTINGS)
        second.wait_for("all have their answer", lambda: answers.has(camera.dropped))
        assert second.stop() == 0
        compare(home / "out", home / "out" / ".edge", camera.dropped, camera.partial)

    for number in range(kills):
        kill_and_start_again(tmp_path / f"station-{number}")
        if number % 10 == 9:
            say(f"{number + 1} first starts")
    report(
        f"After {kills} times `kill -9` within 30 ms of the first opening of journal and CSV files, a second "
        "start answers everything exactly once",
        kills=kills,
    )


def _phrase(moments: Counter[str]) -> str:
    return "; ".join(f"{moment}: {count}" for moment, count in sorted(moments.items()))
