"""The loop: it is stopped at once, and nothing that follows an image stops it."""

import csv
import errno
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge import opening
from edge.cells import Finding, Unlikeness
from edge.daemon import run_station
from edge.desk import Desk
from edge.exit_codes import ExitCode
from edge.inbox import Inbox
from edge.notify import Notifier
from edge.outputs import open_desk
from edge.records import State
from edge.settings import Settings
from edge.station import Station
from edge.tasks import Arrival, ImageResult
from tests.edge.pipeline_doubles import OneCell
from tests.edge.station.at_work import Listener, at_work, names, put, signal_after

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_promise_14_a_signal_ends_the_loop_after_the_images_in_hand(
    settings: Settings, systemd: Listener, number: signal.Signals
) -> None:
    for n in range(30):
        put(settings.inbox, f"{n}.png", n)
    results = signal_after(2, number)
    before = signal.getsignal(number)
    notifier = systemd.notifier(watchdog_period_s=30)
    assert run_station(settings, OneCell(), notifier=notifier, on_result=results.append) is ExitCode.STOPPED
    assert 2 <= len(results) < 10
    assert len(names(settings.out)) == len(names(settings.out, "results.csv")) == len(results)
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(-1) == -1
    for expected in ("READY=1", "WATCHDOG=1", "STOPPING=1"):
        systemd.wait_for(expected)


def test_promise_14_a_signal_that_does_not_interrupt_the_wait_ends_it_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like one that arrives just before the wait begins, one that another thread gets does not interrupt it:
    Python runs its handler only when the wait is over.
    """
    longest_s = 30.0
    idles = threading.Event()
    real_wait = Inbox.wait_for_wake

    def wait(self: Inbox, timeout_s: float) -> None:
        if timeout_s > 5:
            idles.set()
            timeout_s = longest_s
        real_wait(self, timeout_s)

    def interrupt() -> None:
        assert idles.wait(20)
        stat = Path(f"/proc/self/task/{threading.main_thread().native_id}/stat")
        while ") S " not in stat.read_text():
            pass  # the main thread does not sleep yet
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    monkeypatch.setattr(Inbox, "wait_for_wake", wait)
    thread = threading.Thread(target=interrupt)
    started_s = time.monotonic()
    thread.start()
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.STOPPED
    assert time.monotonic() - started_s < longest_s / 2
    thread.join()


class Darkness:
    """A double of the comparison with the training images: all are unlike them."""

    def compare(self, rgb: NDArray[np.uint8], findings: list[Finding]) -> Unlikeness:
        return Unlikeness(1.5, "background darker")


def test_a_run_of_images_unlike_the_training_images_is_told_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = OneCell()
    pipeline.likeness = Darkness()
    for number in range(40):
        put(settings.inbox, f"{number}.png", number)
    done = threading.Event()

    class Listening(Notifier):
        def status(self, text: str) -> None:
            if "attention: 40 of the last 40 images are unlike the training images" in text:
                done.set()

    with at_work(settings, pipeline, Listening()):
        assert done.wait(20)
    told = [record.getMessage() for record in caplog.records if "unlike" in record.getMessage()]
    assert told == [
        "20 of the last 20 images are unlike the training images (mostly: background darker): stain or "
        "camera changed? See unlike_because in images.csv, and docs/drift.md."
    ]


def test_on_turn_hears_of_the_queue_and_of_an_inbox_that_cannot_be_read(settings: Settings) -> None:
    heard: list[tuple[int, set[str]]] = []

    def listen(queue: int, pauses: Collection[str]) -> None:
        heard.append((queue, set(pauses)))
        if pauses:
            settings.inbox.mkdir()
            put(settings.inbox, "a.png", 1)
        raise OSError("what listens may fail")

    settings.inbox.rmdir()
    with open_desk(OneCell(), settings.out) as (desk, journal):
        inbox = Inbox(settings.inbox, journal.knows, quiet_period_s=0.05)
        station = Station(inbox, desk, Notifier(), on_result=[lambda _: station.stop()], on_turn=listen)
        station.run()
    assert heard[0] == (0, set())
    assert [pauses for _, pauses in heard].count({"inbox"}) == 1
    assert (1, set()) in heard
    assert heard[-1] == (0, set())


def test_what_follows_a_result_cannot_stop_the_work(settings: Settings) -> None:
    for n in range(3):
        put(settings.inbox, f"{n}.png", n)
    results = signal_after(3, signal.SIGTERM)

    def overlay(result: ImageResult) -> None:
        results.append(result)
        raise OSError("no space for the overlay")

    assert run_station(settings, OneCell(), notifier=Notifier(), on_result=overlay) == 0
    assert len(names(settings.out)) == 3


def test_promise_16_an_inbox_that_goes_away_before_a_file_is_opened_makes_nothing_vanish(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings.inbox, "a.png", 1)
    away = settings.inbox.with_name("away")
    real = Desk.process_all
    calls = []

    def process_all(
        desk: Desk, arrivals: Iterable[Arrival], alive: Callable[[], None]
    ) -> Iterator[ImageResult]:
        for arrival in arrivals:
            calls.append(arrival.path)
            if len(calls) == 1:
                settings.inbox.rename(away)
            results = list(real(desk, [arrival], alive))
            if len(calls) == 1:
                away.rename(settings.inbox)
            yield from results

    monkeypatch.setattr(Desk, "process_all", process_all)
    results = signal_after(1, signal.SIGTERM)
    assert run_station(settings, OneCell(), notifier=Notifier(), on_result=results.append) == 0
    assert len(calls) == 2
    with (settings.out / "images.csv").open(newline="") as file:
        assert [(row["NAME"], row["status"]) for row in csv.DictReader(file)] == [("a.png", "done")]


def test_promise_09_a_file_that_cannot_be_read_is_opened_once_a_minute(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings.inbox, "a.png", 1)
    now_s, opened_s = 0.0, []

    def refuse(*_: object) -> None:
        opened_s.append(now_s)
        raise OSError(errno.EIO, "x")

    def wait(inbox: Inbox, timeout_s: float) -> None:
        nonlocal now_s
        now_s += max(timeout_s, 0.01)
        if now_s > 300:
            station.stop()

    monkeypatch.setattr(opening, "_read_regular", refuse)
    monkeypatch.setattr(Inbox, "wait_for_wake", wait)
    with open_desk(OneCell(), settings.out) as (desk, journal):
        inbox = Inbox(settings.inbox, journal.knows, watch="polling", clock=lambda: now_s)
        station = Station(inbox, desk, Notifier(), clock=lambda: now_s)
        station.run()
    assert 6 <= len(opened_s) <= 8  # three tries, and then once a minute
    assert names(settings.out) == ["a.png"]


def test_promise_16_a_fault_that_lasts_is_looked_at_every_minute(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings.inbox, "a.png", 1)
    delays_s: list[float] = []
    put_back = Inbox.put_back

    def put_back_at_once(inbox: Inbox, path: Path, delay_s: float = 0.0) -> None:
        delays_s.append(delay_s)
        if len(delays_s) == 6:
            station.stop()
        put_back(inbox, path)

    def process_all(_: Desk, arrivals: Iterable[Arrival], *__: object) -> Iterator[ImageResult]:
        for arrival in arrivals:
            yield ImageResult(arrival.path, "", State.PENDING, "EIO")

    monkeypatch.setattr(Desk, "process_all", process_all)
    monkeypatch.setattr(Inbox, "put_back", put_back_at_once)
    with open_desk(OneCell(), settings.out) as (desk, journal):
        inbox = Inbox(settings.inbox, journal.knows, quiet_period_s=0.01)
        station = Station(inbox, desk, Notifier())
        station.run()
    assert delays_s == [1, 4, 16, 60, 60, 60]
