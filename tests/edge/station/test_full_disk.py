"""A full disk pauses the start and the loop, and neither ends."""

import itertools
import os
import signal
from collections.abc import Collection

import pytest

from edge.daemon import run_station
from edge.inbox import Inbox
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.notify import Notifier
from edge.outputs import open_desk
from edge.results import Results
from edge.settings import Settings
from edge.station import Station
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell
from tests.edge.station.at_work import Listener, names, put, signal_after

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_promise_15_a_start_on_a_full_disk_waits_for_space(
    settings: Settings, systemd: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(settings.inbox, "a.png", 1)
    slept_s = []
    real = Results.mend

    def mend(results: Results) -> None:
        if len(slept_s) < 3:
            raise OutputFullError("there is no space")
        real(results)

    monkeypatch.setattr(Results, "mend", mend)
    monkeypatch.setattr("edge.daemon.time.sleep", slept_s.append)
    notifier = Notifier(str(systemd.socket.getsockname()))
    results = signal_after(1, signal.SIGTERM)
    assert run_station(settings, OneCell(), notifier=notifier, on_result=results.append) == 0
    assert len(slept_s) == 3
    assert caplog.text.count("The start waits: there is no space") == 1
    assert "waiting to start" in systemd.wait_for("STATUS")
    assert systemd.wait_for("EXTEND") == "EXTEND_TIMEOUT_USEC=30000000"
    systemd.wait_for("READY=1")
    assert names(settings.out) == ["a.png"]


def test_promise_15_a_full_disk_pauses_intake_warns_once_a_minute_and_goes_on_by_itself(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(settings.inbox, "a.png", 1)
    refusals = iter(range(90))
    real_finish, real_mend = Journal.finish, Results.mend

    def finish(*args: object) -> None:
        if next(refusals, None) is not None:
            raise OutputFullError("no space")
        real_finish(*args)  # type: ignore[arg-type]

    def mend(self: Results) -> None:
        if next(refusals, None) is not None:
            raise OutputFullError("no space")
        real_mend(self)

    now_s = 0.0

    def wait(self: Inbox, timeout_s: float) -> None:
        nonlocal now_s
        now_s += timeout_s

    pauses: list[Collection[str]] = []
    with open_desk(OneCell(), settings.out) as (desk, journal):
        monkeypatch.setattr(Journal, "finish", finish)
        monkeypatch.setattr(Results, "mend", mend)
        monkeypatch.setattr(Inbox, "wait_for_wake", wait)
        inbox = Inbox(settings.inbox, journal.knows, watch="polling", clock=lambda: now_s)
        station = Station(
            *(inbox, desk, Notifier()),
            on_result=[lambda _: station.stop()],
            on_turn=lambda _, now: pauses.append(set(now)),
            clock=lambda: now_s,
        )
        station.run()
    assert names(settings.out) == ["a.png"]
    assert [now for now, _ in itertools.groupby(pauses)] == [set(), {"disk_full"}, set()]
    assert sum("Intake is paused" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("refused", ["claim", "touch", "finish", "apply"])
def test_promise_15_intake_goes_on_only_when_an_image_was_recorded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refused: str
) -> None:
    now_s, attempts_s, paused = 0.0, [], True
    heard: list[ImageResult] = []
    owner: type = Results if refused == "apply" else Journal
    real = getattr(owner, refused)

    def refuse(self: object, *args: object, **kwargs: object) -> object:
        if paused:
            attempts_s.append(now_s)
            raise OutputFullError("no space")
        return real(self, *args, **kwargs)

    def wait(self: Inbox, timeout_s: float) -> None:
        nonlocal now_s, paused
        now_s += timeout_s
        paused = now_s < 90
        if now_s > 95:
            station.stop()

    put(settings.inbox, "a.png", 1)
    with open_desk(OneCell(), settings.out) as (desk, journal):
        if refused == "touch":
            desk.process(settings.inbox / "a.png")
            os.utime(settings.inbox / "a.png", (5, 5))
        monkeypatch.setattr(owner, refused, refuse)
        monkeypatch.setattr(Inbox, "wait_for_wake", wait)
        inbox = Inbox(settings.inbox, journal.knows, watch="polling", clock=lambda: now_s)
        station = Station(inbox, desk, Notifier(), on_result=[heard.append], clock=lambda: now_s)
        station.run()
    assert names(settings.out) == ["a.png"]
    assert [result.path.name for result in heard] == ([] if refused == "touch" else ["a.png"])
    assert all(later - sooner >= 1 for sooner, later in itertools.pairwise(attempts_s))
    told = [record.getMessage().split(":")[0] for record in caplog.records if "pa" in record.getMessage()]
    expected = ["Intake is paused", "Intake is paused", "There is space again; going on."]
    assert told == (expected[1:] if refused == "apply" else expected)
