"""A process that is told to end cleans up, and leaves no child behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.signals import ended_by_exit

_CODE = """
import os, signal, sys
from pathlib import Path
import edge.child as child
def ready(process, *_):
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
child._await_ready = ready
wait = child.subprocess.Popen.wait
def told_again(*given):
    os.kill(os.getpid(), signal.SIGHUP)  # as logind tells a session to end
    return wait(*given)
child.subprocess.Popen.wait = told_again
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be under nohup
with child.watching(*(Path(sys.argv[1], name) for name in ("inbox", "out", "log"))):
    pass
"""


def test_a_station_that_a_command_started_ends_with_the_command(tmp_path: Path) -> None:
    """In a process of its own, which the signal ends; a second one does not end what it cleans up."""
    ended = subprocess.run(
        [sys.executable, "-c", _CODE, tmp_path],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=False,
        stdout=subprocess.PIPE,
        timeout=100,
    )
    assert ended.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)
    assert {path.name for path in tmp_path.iterdir()} <= {"log", "out"}


def test_a_signal_that_is_ignored_or_handled_keeps_that() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_exit():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with ended_by_exit(), pytest.raises(SystemExit):
                signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
