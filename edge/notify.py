"""What the service tells systemd: the line of its status, and the sd_notify protocol."""

import logging
import os
import reprlib
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from edge.records import State

log = logging.getLogger(__name__)

_LONGEST_NAME = 100
_LEAST_PAUSE_S = 1.0


class StatusLine:
    """What `systemctl status` shows of the station: engine, queue, last file, failures and counts.

    Args:
        describe: one phrase on the engine.
        counts: images by state so far; those that are pending are told by the queue.
    """

    def __init__(self, describe: str = "", counts: Mapping[State, int] | None = None) -> None:
        self._describe = describe
        self._counts = Counter(counts or {})
        del self._counts[State.PENDING]
        self._last = "none"
        self._short = reprlib.Repr()
        # A name of 255 bytes has up to 1530 characters when its bytes are written out.
        self._short.maxstring = _LONGEST_NAME

    def count(self, name: str, state: State) -> None:
        """One more image has its answer."""
        self._counts[state] += 1
        self._last = f"{self._short.repr(name)} {state}"

    def text(self, queue: int, troubles: Iterable[str] = ()) -> str:
        """The line.

        Args:
            queue: how many files wait.
            troubles: what keeps the station from working, or its answers from being trusted, one phrase each;
                they come first.
        """
        failures = self._counts[State.REJECTED] + self._counts[State.FAILED]
        counts = ", ".join(f"{state} {self._counts[state]}" for state in State if self._counts[state])
        work = f"queue {queue}; last {self._last}; failures {failures}; {counts or 'no images yet'}"
        return "; ".join((*troubles, self._describe, work))


class Notifier:
    """Tells systemd that the service is ready, alive, busy with something, or stopping, as datagrams to
    NOTIFY_SOCKET.

    Without a socket (started by hand, or in a test) every call does nothing.

    Attributes:
        watchdog_period_s: systemd restarts the service when `alive` was not called for so long; None if
            systemd does not ask for it.
    """

    def __init__(self, address: str | None = None, watchdog_period_s: float | None = None) -> None:
        self.watchdog_period_s = watchdog_period_s
        self._fed_s = self._begun_s = float("-inf")
        # A leading @ stands for the zero byte of Linux's abstract sockets.
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Notifier":
        """As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say."""
        usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        asked = usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid()))
        return cls(environment.get("NOTIFY_SOCKET") or None, int(usec) / 1e6 if asked else None)

    def ready(self) -> None:
        """The service has started and takes work."""
        self._send("READY=1")

    def starting(self, longer_s: float) -> None:
        """The start goes on, and may take so much longer; said once a second at most."""
        now_s = time.monotonic()
        if now_s - self._begun_s >= _LEAST_PAUSE_S:
            self._begun_s = now_s
            self._send(f"EXTEND_TIMEOUT_USEC={longer_s * 1e6:.0f}")

    def alive(self) -> None:
        """Feed the watchdog, if it was not fed a moment ago."""
        now_s = time.monotonic()
        period_s = self.watchdog_period_s
        if period_s is not None and now_s - self._fed_s >= min(_LEAST_PAUSE_S, period_s / 4):
            self._fed_s = now_s
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send("STATUS=" + " ".join(text.split()))

    def stopping(self) -> None:
        """The service ends on purpose."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Give the socket back; calls after this do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto(message.encode("utf-8", "backslashreplace"), self._address)
        except OSError as error:  # a full or absent socket must never stop the work
            log.debug("systemd was not told %r: %s", message, error)
