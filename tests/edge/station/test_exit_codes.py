"""With which code the daemon ends."""

import signal
import sqlite3
import subprocess
import sys

import pytest

from edge.daemon import run_station
from edge.errors import BackendError
from edge.exit_codes import ExitCode
from edge.inbox import Inbox
from edge.locks import locked_folder
from edge.notify import Notifier
from edge.settings import Settings
from tests.edge.pipeline_doubles import OneCell
from tests.edge.station.at_work import names, put, signal_after

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


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


def test_the_loop_needs_no_engine_and_no_settings_library() -> None:
    code = (
        "import sys, edge.daemon; print({'openvino', 'torch', 'pydantic', 'onnxruntime'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
