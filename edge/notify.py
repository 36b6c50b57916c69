"""The sd_notify protocol: what the service tells systemd, as datagrams to NOTIFY_SOCKET."""

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


class Notifier:
    """Tells systemd that the service is ready, alive, busy with something, or stopping.

    Without a socket (started by hand, or in a test) every call does nothing.

    Attributes:
        watchdog_period_s: systemd restarts the service when `alive` was not called for so long; None if
            systemd does not ask for it.
    """

    def __init__(self, address: str | None = None, watchdog_period_s: float | None = None) -> None:
        self.watchdog_period_s = watchdog_period_s
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

    def alive(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_period_s is not None:
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
