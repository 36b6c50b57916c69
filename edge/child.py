"""The real `edge-watch` as a process of its own, started as systemd would start it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.errors import StationError
from edge.settings import ENVIRONMENT_PREFIX
from edge.signals import ended_by_exit

_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Child:
    """A daemon that is ready.

    Attributes:
        ready_s: seconds from the start of its process to READY=1.
        log: what it says.
    """

    process: "subprocess.Popen[bytes]"
    ready_s: float
    log: Path

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def memory_mb(self) -> tuple[float, float]:
        """What it holds in memory now, and the most that it ever did (VmRSS and VmHWM of proc(5))."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        kb = {name: text.split(f"{name}:")[1].split()[0] for name in ("VmRSS", "VmHWM")}
        return int(kb["VmRSS"]) * 1024 / 1e6, int(kb["VmHWM"]) * 1024 / 1e6


@contextlib.contextmanager
def watching(
    inbox: Path, out: Path, log: Path, *flags: str, settings: Mapping[str, object] | None = None
) -> Iterator[Child]:
    """A station from READY=1 to SIGTERM. Settings of a real one in the environment are not for it.

    Args:
        log: gets what it says on standard error.
        flags: of `edge-watch`.
        settings: by their names.

    Raises:
        StationError: it did not start.
    """
    with (
        ended_by_exit(),
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
    ):
        notices.bind(f"{folder}/notify")
        command = [sys.executable, "-c", "from edge.cli import watch; watch(prog_name='edge-watch')"]
        command += [str(inbox), "--out", str(out), *flags]
        environment = {key: value for key, value in os.environ.items() if not _is_of_a_station(key)}
        environment |= {
            f"{ENVIRONMENT_PREFIX}{name.upper()}": str(value) for name, value in (settings or {}).items()
        }
        environment["NOTIFY_SOCKET"] = f"{folder}/notify"
        with log.open("wb") as stderr:
            began_s = time.monotonic()
            process = subprocess.Popen(command, stderr=stderr, env=environment)
            try:
                _await_ready(process, notices, log)
                yield Child(process, time.monotonic() - began_s, log)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(_PATIENCE_S)


def drop(path: Path, data: bytes) -> None:
    """As a careful camera does: under a name that the station ignores, then renamed."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(data)
    partial.rename(path)


def _is_of_a_station(variable: str) -> bool:
    return variable.upper().startswith(ENVIRONMENT_PREFIX) or variable == "STATE_DIRECTORY"


def _await_ready(process: "subprocess.Popen[bytes]", notices: socket.socket, log: Path) -> None:
    notices.settimeout(0.5)
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if b"READY=1" in notices.recv(4096):
                return
        except TimeoutError:
            continue
    said = "".join(log.read_text(errors="replace").strip().splitlines()[-1:])
    raise StationError(f"edge-watch did not start; its log {log} ends with {said!r}.")
