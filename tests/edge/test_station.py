"""The loop: it starts, works, pauses, stops, dies and starts again, and each image is answered once."""

import contextlib
import csv
import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge.cells import Finding, Unlikeness
from edge.daemon import run_station
from edge.desk import Desk
from edge.errors import BackendError
from edge.exit_codes import ExitCode
from edge.inbox import Inbox
from edge.journal import Journal
from edge.locks import OutputFullError, locked_folder
from edge.notify import Notifier, StatusLine
from edge.outputs import open_desk
from edge.records import State
from edge.results import Results
from edge.settings import Settings, load_settings
from edge.station import Station
from edge.stopwatch import Stopwatch
from edge.tasks import Arrival, ImageResult
from tests.edge.pipeline_doubles import OneCell


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    (tmp_path / "in").mkdir()
    return load_settings(inbox=tmp_path / "in", out=tmp_path / "out", quiet_period_s=0.05)


def put(folder: Path, name: str, number: int) -> None:
    Image.new("RGB", (8, 6), (number % 256, number // 256, 7)).save(folder / name, "PNG")


def names(out: Path, file: str = "images.csv") -> list[str]:
    with (out / file).open(newline="", encoding="utf-8") as opened:
        return [row["NAME"] for row in csv.DictReader(opened)]


class Listener:
    """Stands for systemd: keeps what the service says, and can wait for it."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.settimeout(10)

    def wait_for(self, text: str) -> str:
        while text not in (heard := self.socket.recv(4096).decode()):
            pass
        return heard

    def heard(self) -> list[str]:
        """What has come since the last call; never waits."""
        texts = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                texts.append(self.socket.recv(4096).decode())
        self.socket.settimeout(10)
        return texts

    def notifier(self, watchdog_period_s: float | None = None) -> Notifier:
        return Notifier(str(self.socket.getsockname()), watchdog_period_s)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(tmp_path)
    yield listener
    listener.socket.close()


def signal_after(count: int, number: signal.Signals) -> "list[ImageResult]":
    """A list to which results are added; the process gets a signal with the last one."""

    class Results(list[ImageResult]):
        def append(self, result: ImageResult) -> None:
            super().append(result)
            if len(self) == count:
                signal.raise_signal(number)

    return Results()


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


@contextlib.contextmanager
def at_work(settings: Settings, pipeline: OneCell, notifier: Notifier) -> Iterator[None]:
    """A station in a thread of its own, which is stopped at the end."""
    stations = []

    def work() -> None:
        with contextlib.closing(notifier), open_desk(pipeline, settings.out) as (desk, journal):
            inbox = Inbox(settings.inbox, journal.knows, quiet_period_s=0.05)
            stations.append(Station(inbox, desk, notifier))
            stations[0].run()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stations[0].stop()
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


def test_a_restart_neither_repeats_nor_forgets(settings: Settings) -> None:
    for n in range(30):
        put(settings.inbox, f"{n:02}.png", n)
    for count in (1, 2, None):
        results = signal_after(count or 30 - len(names(settings.out)), signal.SIGTERM)
        run_station(settings, OneCell(), notifier=Notifier(), on_result=results.append)
    assert sorted(names(settings.out)) == [f"{n:02}.png" for n in range(30)]


def test_promise_10_an_engine_fault_ends_the_process_with_70_and_after_three_the_rest_is_read(
    settings: Settings,
) -> None:
    put(settings.inbox, "bad.png", 1)
    pipeline = OneCell()
    pipeline.error = BackendError("non-finite probabilities")
    for _ in range(3):
        assert run_station(settings, pipeline, notifier=Notifier()) is ExitCode.ENGINE_FAULT
    pipeline.error = None
    put(settings.inbox, "good.png", 2)
    run_station(settings, pipeline, notifier=Notifier(), on_result=signal_after(1, signal.SIGTERM).append)
    assert names(settings.out) == ["bad.png", "good.png"]
    assert names(settings.out, "results.csv") == ["good.png"]


def test_promise_28_a_second_daemon_is_refused_with_75(settings: Settings) -> None:
    for folder, name in ((settings.state_folder, "journal.lock"), (settings.out, ".results.lock")):
        with locked_folder(folder, name):
            assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.LOCKED


def test_an_output_folder_that_cannot_be_written_ends_with_74(settings: Settings) -> None:
    settings.out.touch()
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.OUTPUT


def test_a_single_run_over_a_list_of_files_takes_up_where_the_last_one_ended(settings: Settings) -> None:
    for n in range(4):
        put(settings.inbox, f"{n}.png", n)
    files = sorted(settings.inbox.iterdir())
    told = []
    for some in (files[:2], files):
        with open_desk(OneCell(), settings.out) as (desk, _):
            told.append([desk.process(path).is_new for path in some])
    assert told == [[True, True], [False, False, True, True]]
    assert names(settings.out) == [path.name for path in files]


def test_an_inbox_that_is_no_folder_ends_with_78(settings: Settings) -> None:
    settings.inbox.rmdir()
    settings.inbox.touch()
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.CONFIGURATION


def test_a_damaged_journal_ends_with_74_and_is_never_replaced_by_an_empty_one(settings: Settings) -> None:
    settings.state_folder.mkdir(parents=True)
    journal = settings.state_folder / "journal.sqlite3"
    journal.write_bytes(b"damaged" * 1000)
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.OUTPUT
    assert journal.read_bytes() == b"damaged" * 1000


def test_promise_18_an_image_whose_file_went_away_between_two_runs_is_vanished(settings: Settings) -> None:
    put(settings.inbox, "gone.png", 1)
    pipeline = OneCell()
    pipeline.error = BackendError("x")
    run_station(settings, pipeline, notifier=Notifier())
    (settings.inbox / "gone.png").unlink()
    put(settings.inbox, "other.png", 2)
    results = signal_after(2, signal.SIGTERM)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=results.append)
    ends = {result.path.name: result.status for result in results}
    assert ends == {"gone.png": State.VANISHED, "other.png": State.DONE}


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


def test_what_follows_a_result_cannot_stop_the_work(settings: Settings) -> None:
    for n in range(3):
        put(settings.inbox, f"{n}.png", n)
    results = signal_after(3, signal.SIGTERM)

    def overlay(result: ImageResult) -> None:
        results.append(result)
        raise OSError("no space for the overlay")

    assert run_station(settings, OneCell(), notifier=Notifier(), on_result=overlay) == 0
    assert len(names(settings.out)) == 3


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
        station = Station(inbox, desk, Notifier(), clock=lambda: now_s)
        station.run()
    assert names(settings.out) == ["a.png"]
    assert all(later - sooner >= 1 for sooner, later in itertools.pairwise(attempts_s))
    told = [record.getMessage().split(":")[0] for record in caplog.records if "pa" in record.getMessage()]
    expected = ["Intake is paused", "Intake is paused", "There is space again; going on."]
    assert told == (expected[1:] if refused == "apply" else expected)


def test_promise_32_a_lost_journal_beside_rows_is_made_anew_and_nothing_is_read_twice(
    settings: Settings,
) -> None:
    put(settings.inbox, "a.png", 1)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=signal_after(1, signal.SIGTERM).append)
    shutil.rmtree(settings.state_folder)
    put(settings.inbox, "b.png", 2)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=signal_after(1, signal.SIGTERM).append)
    assert names(settings.out) == names(settings.out, "results.csv") == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "error", [MemoryError("no memory"), sqlite3.OperationalError("no such table"), OSError(5, "I/O error")]
)
def test_an_error_that_nobody_thought_of_is_logged_and_ends_with_1(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(self: Inbox) -> None:
        raise error

    monkeypatch.setattr(Inbox, "take", fail)
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.UNFORESEEN == 1
    assert str(error) in caplog.text
    assert "Traceback" in caplog.text


RUNNER = """
import sys, threading
from pathlib import Path
import numpy as np
from edge.cells import Finding
from edge.settings import load_settings
from edge.daemon import run_station

class Crowd:
    bundle_id, engine_id, crowd, likeness = "double", "double:fp32", None, None
    def read(self, rgb, watch=None, detection_threshold=None):
        cell = Finding((0, 0, 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})
        return [cell] * (1 + int(rgb[0, 0, 0]) % 5)

done = 0
def tell(result):
    global done
    done += 1
    print(done, flush=True)

inbox, out = sys.argv[1:]
settings = load_settings(inbox=inbox, out=out, quiet_period_s=0.05)
raise SystemExit(run_station(settings, Crowd(), on_result=tell))
"""


def test_promise_1_every_image_has_its_rows_exactly_once_after_a_dozen_kills(settings: Settings) -> None:
    count = 300
    for n in range(count):
        put(settings.inbox, f"{n}.png", n)
    command = [sys.executable, "-c", RUNNER, str(settings.inbox), str(settings.out)]
    for kill_after in (1, 2, 3, 5, 8, 13, 17, 19, 23, 29, 31, 37):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == kill_after:
                    process.kill()
                    break
    results = signal_after(10**9, signal.SIGTERM)

    def stop_when_all_are_there(result: ImageResult) -> None:
        results.append(result)
        if len(set(names(settings.out))) == count:
            signal.raise_signal(signal.SIGTERM)

    assert run_station(settings, OneCell(), notifier=Notifier(), on_result=stop_when_all_are_there) == 0
    assert sorted(names(settings.out)) == sorted(f"{n}.png" for n in range(count))
    with (settings.out / "images.csv").open(newline="") as file:
        leukocytes = {row["NAME"]: int(row["leukocytes"]) for row in csv.DictReader(file)}
    cells = names(settings.out, "results.csv")
    assert {name: cells.count(name) for name in leukocytes} == leukocytes


def test_the_loop_needs_no_engine_and_no_settings_library() -> None:
    code = (
        "import sys, edge.daemon; print({'openvino', 'torch', 'pydantic', 'onnxruntime'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
