"""The loop: it starts, works, pauses, stops, dies and starts again, and each image is answered once."""

import csv
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge.cells import Finding
from edge.desk import Desk, ImageResult
from edge.errors import BackendError
from edge.inbox import Inbox
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.notify import Notifier
from edge.records import State
from edge.results import Results
from edge.settings import Settings, load_settings
from edge.station import ExitCode, Station, open_desk, run_station
from edge.stopwatch import Stopwatch


class OneCell:
    """A pipeline that finds one neutrophil in every image."""

    bundle_id = "demo-1a2b3c4d5e6f"
    engine_id = "double:fp32"
    error: Exception | None = None

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        if self.error is not None:
            raise self.error
        return [Finding((0, 0, 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})]


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
def test_a_signal_ends_the_loop_after_the_image_in_hand(
    settings: Settings, systemd: Listener, number: signal.Signals
) -> None:
    for n in range(3):
        put(settings.inbox, f"{n}.png", n)
    results = signal_after(2, number)
    before = signal.getsignal(number)
    notifier = Notifier(str(systemd.socket.getsockname()), watchdog_period_s=30)
    assert run_station(settings, OneCell(), notifier=notifier, on_result=results.append) is ExitCode.STOPPED
    assert len(results) == 2
    assert len(names(settings.out)) == len(names(settings.out, "results.csv")) == 2
    assert signal.getsignal(number) == before
    for expected in ("READY=1", "WATCHDOG=1", "STOPPING=1"):
        systemd.wait_for(expected)


def test_a_signal_to_an_idle_station_ends_it_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    idles = threading.Event()
    asked_s = 0.0
    real_wait = Inbox.wait_for_wake

    def wait(self: Inbox, timeout_s: float) -> None:
        if timeout_s > 5:
            idles.set()
        real_wait(self, timeout_s)

    def interrupt() -> None:
        nonlocal asked_s
        assert idles.wait(20)
        time.sleep(0.2)  # Python tells of the wait only before it begins
        asked_s = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Inbox, "wait_for_wake", wait)
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.STOPPED
    assert 0 < time.monotonic() - asked_s < 4
    thread.join()


def test_the_status_line_names_engine_queue_last_file_and_counts(
    settings: Settings, systemd: Listener
) -> None:
    put(settings.inbox, "a\nb.png", 1)
    (settings.inbox / "notes.txt").write_text("x")
    results = signal_after(2, signal.SIGTERM)
    notifier = Notifier(str(systemd.socket.getsockname()))
    run_station(settings, OneCell(), notifier=notifier, on_result=results.append)
    status = systemd.wait_for("STATUS=double:fp32, bundle demo-1a2b3c4d5e6f")
    assert "queue" in status
    results = signal_after(1, signal.SIGTERM)
    put(settings.inbox, "c.png", 2)
    run_station(
        settings, OneCell(), notifier=Notifier(str(systemd.socket.getsockname())), on_result=results.append
    )
    assert "done 1, rejected 1" in systemd.wait_for("done 1")


def test_a_restart_neither_repeats_nor_forgets(settings: Settings) -> None:
    for n in range(6):
        put(settings.inbox, f"{n}.png", n)
    for count in (1, 2, 3):
        run_station(
            settings, OneCell(), notifier=Notifier(), on_result=signal_after(count, signal.SIGTERM).append
        )
    assert sorted(names(settings.out)) == [f"{n}.png" for n in range(6)]


def test_an_engine_fault_ends_the_process_with_70_and_after_three_the_rest_is_read(
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


def test_a_second_daemon_is_refused_with_75(settings: Settings, tmp_path: Path) -> None:
    journal = Journal(settings.state_folder)
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.LOCKED
    journal.close()
    other = Journal(tmp_path / "other state")
    results = Results(settings.out, other)
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.LOCKED
    results.close()
    other.close()


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


def test_an_image_whose_file_went_away_between_two_runs_is_vanished(settings: Settings) -> None:
    put(settings.inbox, "gone.png", 1)
    pipeline = OneCell()
    pipeline.error = BackendError("x")
    run_station(settings, pipeline, notifier=Notifier())
    (settings.inbox / "gone.png").unlink()
    results = signal_after(1, signal.SIGTERM)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=results.append)
    assert [(result.path.name, result.status) for result in results] == [("gone.png", State.VANISHED)]


def test_what_follows_a_result_cannot_stop_the_work(settings: Settings) -> None:
    for n in range(3):
        put(settings.inbox, f"{n}.png", n)
    results = signal_after(3, signal.SIGTERM)

    def overlay(result: ImageResult) -> None:
        results.append(result)
        raise OSError("no space for the overlay")

    assert run_station(settings, OneCell(), notifier=Notifier(), on_result=overlay) == 0
    assert len(names(settings.out)) == 3


def test_a_full_disk_pauses_intake_warns_once_a_minute_and_goes_on_by_itself(
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
        if paused and next(refusals, None) is not None:
            raise OutputFullError("no space")
        real_mend(self)

    now_s = 0.0

    def wait(self: Inbox, timeout_s: float) -> None:
        nonlocal now_s
        now_s += timeout_s

    paused = False
    journal = Journal(settings.state_folder)
    results = Results(settings.out, journal)
    desk = Desk(OneCell(), journal, results)
    desk.recover()
    paused = True
    monkeypatch.setattr(Journal, "finish", finish)
    monkeypatch.setattr(Results, "mend", mend)
    monkeypatch.setattr(Inbox, "wait_for_wake", wait)
    inbox = Inbox(settings.inbox, journal.knows, watch="polling", quiet_period_s=0.05, clock=lambda: now_s)
    station = Station(inbox, desk, Notifier(), on_result=lambda _: station.stop(), clock=lambda: now_s)
    station.run()
    results.close()
    journal.close()
    assert names(settings.out) == ["a.png"]
    assert sum("Intake is paused" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("refused", ["claim", "touch", "finish", "apply"])
def test_intake_goes_on_only_when_an_image_was_recorded(
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


def test_a_lost_journal_beside_rows_ends_with_74(settings: Settings) -> None:
    put(settings.inbox, "a.png", 1)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=signal_after(1, signal.SIGTERM).append)
    shutil.rmtree(settings.state_folder)
    assert run_station(settings, OneCell(), notifier=Notifier()) is ExitCode.OUTPUT
    assert sorted(path.name for path in settings.out.glob("*.csv")) == ["images.csv", "results.csv"]


RUNNER = """
import sys, threading
from pathlib import Path
import numpy as np
from edge.cells import Finding
from edge.settings import load_settings
from edge.station import run_station

class Crowd:
    bundle_id, engine_id = "double", "double:fp32"
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


def test_every_image_has_its_rows_exactly_once_after_a_dozen_kills(settings: Settings) -> None:
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
        "import sys, edge.station; print({'openvino', 'torch', 'pydantic', 'onnxruntime'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
