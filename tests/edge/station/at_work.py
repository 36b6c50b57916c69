"""A station at work in a test: its inbox, its rows, what systemd hears of it, and how it is stopped."""

import contextlib
import csv
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from edge.inbox import Inbox
from edge.notify import Notifier
from edge.outputs import open_desk
from edge.settings import Settings
from edge.station import Station
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell


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


def signal_after(count: int, number: signal.Signals) -> "list[ImageResult]":
    """A list to which results are added; the process gets a signal with the last one."""

    class Results(list[ImageResult]):
        def append(self, result: ImageResult) -> None:
            super().append(result)
            if len(self) == count:
                signal.raise_signal(number)

    return Results()


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
