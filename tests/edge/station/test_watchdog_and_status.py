"""What systemd hears: that the loop moves, and the status line."""

import os
import signal
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.cells import Finding
from edge.daemon import run_station
from edge.notify import StatusLine
from edge.records import State
from edge.settings import Settings
from edge.stopwatch import Stopwatch
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell
from tests.edge.station.at_work import Listener, at_work, put, signal_after

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Hanging(OneCell):
    """A pipeline that hangs in its first image until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        self.hangs.set()
        assert self.goes_on.wait(20)
        return super().read(rgb, watch, detection_threshold)


def test_promise_13_a_hung_inference_does_not_feed_the_watchdog(
    settings: Settings, systemd: Listener
) -> None:
    period_s, pipeline = 0.03, Hanging()
    put(settings.inbox, "a.png", 1)
    with at_work(settings, pipeline, systemd.notifier(period_s)):
        try:
            systemd.wait_for("WATCHDOG=1")
            assert pipeline.hangs.wait(20)
            systemd.heard()
            systemd.socket.settimeout(10 * period_s)
            with pytest.raises(TimeoutError):
                systemd.socket.recv(4096)
        finally:
            pipeline.goes_on.set()
        systemd.socket.settimeout(20)
        systemd.wait_for("WATCHDOG=1")


def test_promise_13_a_long_batch_that_moves_feeds_the_watchdog(settings: Settings, systemd: Listener) -> None:
    for n in range(20):
        put(settings.inbox, f"{n}.png", n)
    fed = []
    results = signal_after(20, signal.SIGTERM)

    def look(result: ImageResult) -> None:
        fed.append("WATCHDOG=1" in systemd.heard())
        results.append(result)

    run_station(settings, OneCell(), notifier=systemd.notifier(watchdog_period_s=0.0001), on_result=look)
    assert fed == [True] * 20


def test_promise_34_the_status_line_names_engine_queue_last_file_failures_and_counts(
    settings: Settings, systemd: Listener
) -> None:
    put(settings.inbox, "a\nb.png", 1)
    (settings.inbox / "notes.txt").write_text("x")
    results = signal_after(2, signal.SIGTERM)
    run_station(settings, OneCell(), notifier=systemd.notifier(), on_result=results.append)
    begins = "STATUS=double:fp32, bundle demo-1a2b3c4d5e6f; queue "
    assert systemd.wait_for(begins).endswith("; last none; failures 0; no images yet")
    put(settings.inbox, "c.png", 2)
    results = signal_after(1, signal.SIGTERM)
    run_station(settings, OneCell(), notifier=systemd.notifier(), on_result=results.append)
    status = systemd.wait_for("failures 1; done 1, rejected 1")
    assert status.startswith(begins)


def test_promise_34_what_a_crash_left_pending_is_told_by_the_queue_alone() -> None:
    line = StatusLine("double:fp32", {State.PENDING: 8, State.DONE: 2})
    line.count("a.png", State.DONE)
    assert line.text(0) == "double:fp32; queue 0; last 'a.png' done; failures 0; done 3"


@pytest.mark.parametrize("name", [b"\xff" * 251 + b".png", "\u202e".encode() * 85, b"a\n" * 127, b"n" * 255])
def test_promise_34_the_status_line_is_one_short_line_whatever_the_name(name: bytes) -> None:
    line = StatusLine("openvino:bf16, bundle demo-1a2b3c4d5e6f", dict.fromkeys(State, 10**9))
    line.count(os.fsdecode(name), State.REJECTED)
    trouble = (
        "paused: disk full",
        "degraded: the inbox cannot be read (Transport endpoint is not connected)",
    )
    text = line.text(10**6, trouble)
    assert len(text) < 500
    assert text.isprintable()
    assert f"last {os.fsdecode(name)!r}"[:20] in text


def test_promise_34_an_idle_station_soon_tells_the_last_file(settings: Settings, systemd: Listener) -> None:
    put(settings.inbox, "a.png", 1)
    systemd.socket.settimeout(5)  # an idle turn takes ten seconds
    with at_work(settings, OneCell(), systemd.notifier()):
        assert "last 'a.png' done" in systemd.wait_for("queue 0; last 'a.png'")
