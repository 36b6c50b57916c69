"""What systemd hears from the service."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def test_ready_status_watchdog_and_stopping_reach_the_socket(systemd: socket.socket) -> None:
    notifier = Notifier.from_environment(
        {
            "NOTIFY_SOCKET": systemd.getsockname(),
            "WATCHDOG_USEC": "60000000",
            "WATCHDOG_PID": str(os.getpid()),
        }
    )
    notifier.ready()
    notifier.status("queue 3;\nlast 'é'")
    notifier.alive()
    notifier.stopping()
    notifier.close()
    assert notifier.watchdog_period_s == 60
    heard = [systemd.recv(4096).decode() for _ in range(4)]
    assert heard == ["READY=1", "STATUS=queue 3; last 'é'", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},  # meant for another process
    ],
)
def test_no_watchdog_is_fed_unless_systemd_asks_this_process(environment: dict[str, str]) -> None:
    assert Notifier.from_environment(environment).watchdog_period_s is None


def test_without_systemd_every_call_does_nothing() -> None:
    notifier = Notifier()
    notifier.ready()
    notifier.status("x")
    notifier.alive()
    notifier.stopping()
    notifier.close()


def test_an_absent_socket_does_not_stop_the_work(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.ready()
    notifier.close()
    notifier.ready()


def test_abstract_addresses_are_understood() -> None:
    name = f"edge-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(5)
        notifier = Notifier("@" + name)
        notifier.ready()
        notifier.close()
        assert listening.recv(100) == b"READY=1"
