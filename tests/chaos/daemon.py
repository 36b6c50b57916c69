"""The real `edge-watch` as a black box: a process that is started, listened to, killed and stopped."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge.settings import ENVIRONMENT_PREFIX

PATIENCE_S = 120.0
_COMMAND = Path(sys.executable).with_name("edge-watch")
_POLL_S = 0.02


def wait_until(what: str, is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
    """Wait for a condition; the seconds that it took. Fails at the deadline, saying what it waited for."""
    began_s = time.monotonic()
    while not is_so():
        if time.monotonic() - began_s > patience_s:
            raise AssertionError(f"waited {patience_s:g} s in vain: {what}")
        time.sleep(_POLL_S)
    return time.monotonic() - began_s


class Daemon:
    """One process of the station, from its start to its end.

    Args:
        home: the folder of `inbox`, `out`, `edge-watch.log` (all processes append to it) and sockets.
        settings: of the station, as the environment gives them; `state` is taken from here, too.
    """

    def __init__(self, home: Path, **settings: object) -> None:
        self.home = home
        self.log_path = home / "edge-watch.log"
        self._log_began = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._heard: list[str] = []
        self._status = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = home / "notify"
        address.unlink(missing_ok=True)  # what a killed process still says goes nowhere
        self._socket.bind(str(address))
        foreign = (ENVIRONMENT_PREFIX, "STATE_DIRECTORY", "WATCHDOG_", "JOURNAL_STREAM")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        environment |= {f"{ENVIRONMENT_PREFIX}{key.upper()}": str(value) for key, value in settings.items()}
        environment["NOTIFY_SOCKET"] = str(address)
        command = [str(_COMMAND), str(home / "inbox"), "--out", str(home / "out")]
        self.started_s = time.monotonic()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, env=environment)
        self.pid = self._process.pid
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def status(self) -> str:
        """The last status line."""
        return self._status

    @property
    def is_ready(self) -> bool:
        return "READY=1" in self._heard

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """What this process has logged so far."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_began)
            return file.read().decode("utf-8", "replace")

    def wait_ready(self) -> float:
        """Seconds from the start to READY."""
        self.wait_for("READY", lambda: self.is_ready)
        return time.monotonic() - self.started_s

    def wait_for(self, what: str, is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
        """`wait_until`, which also fails at once if the process ends."""

        def is_so_while_running() -> bool:
            if is_so():
                return True
            assert self.is_running, (
                f"edge-watch ended with {self._process.returncode} ({what}): {self._tail()}"
            )
            return False

        try:
            return wait_until(what, is_so_while_running, patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; status: {self.status!r}; log: {self._tail()}") from None

    def lives_for(self, seconds: float) -> None:
        """Wait while time passes; fails if the process ends."""
        end_s = time.monotonic() + seconds
        self.wait_for(f"{seconds:g} s to pass", lambda: time.monotonic() > end_s, seconds + PATIENCE_S)

    def wait_status(self, text: str, patience_s: float = PATIENCE_S) -> float:
        """Wait for a status line from now on that holds a text."""
        self._status = ""
        return self.wait_for(f"a status with {text!r}", lambda: text in self.status, patience_s)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, as a power switch would, but for the page cache."""
        self._process.kill()
        self._end()

    def stop(self) -> int:
        """End it with SIGTERM; its exit code."""
        self._process.terminate()
        self._end()
        return self._process.returncode

    def close(self) -> None:
        """End it, if it has not ended."""
        if self.is_running:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._end()

    def memory_kb(self) -> dict[str, int]:
        """RSS and its peak; of it what the process allocated (anon), and what no other process maps (uss).

        The last depends on others: libraries that a second station maps, too, are not in it.
        """
        rollup = _fields(Path(f"/proc/{self.pid}/smaps_rollup"))
        peak = _fields(Path(f"/proc/{self.pid}/status"))["VmHWM"]
        uss = rollup["Private_Clean"] + rollup["Private_Dirty"]
        return {"rss": rollup["Rss"], "anon": rollup["Anonymous"], "uss": uss, "peak": peak}

    def write_calls(self) -> int:
        """How many write calls the process has made."""
        return _fields(Path(f"/proc/{self.pid}/io"))["syscw"]

    def locks(self) -> int:
        """How many folders the process has locked: 1 when it opens the journal, 2 when it mends the files."""
        lines = Path("/proc/locks").read_text().splitlines()
        return sum("FLOCK" in line and f" {self.pid} " in line for line in lines)

    def _end(self) -> None:
        try:
            self._process.wait(PATIENCE_S)
        finally:
            if self.is_running:
                self._process.kill()
            self._socket.close()
            self._listener.join(PATIENCE_S)

    def _listen(self) -> None:
        self._socket.settimeout(0.2)
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except TimeoutError:
                if not self.is_running:
                    return
                continue
            except OSError:
                return
            if text.startswith("STATUS="):
                self._status = text.removeprefix("STATUS=")
            else:
                self._heard.append(text)

    def _tail(self) -> str:
        return "\n".join(self.log().splitlines()[-8:])


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of /proc with lines like `Name: 12 kB`."""
    fields = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if (number := value.strip().removesuffix(" kB")).isdecimal():
            fields[name] = int(number)
    return fields
