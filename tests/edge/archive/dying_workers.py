"""`edge-archive` with workers that kill themselves, each in its own way:

    python -m tests.edge.archive.dying_workers IMAGES OUT MARKS [ADDRESS]

Each death of DEATHS comes once: the first worker that gets there makes a file of its name in MARKS and sends
itself SIGKILL. The last line printed is a JSON list: the addresses, beside the loopback one, on which Ray's
processes listened or to which they were connected.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

from edge.archive import run
from edge.archive.store import ArchiveStore
from edge.archive.worker import PartReader
from edge.desk import Desk

DEATHS = ("third-image", "before-writing", "while-writing", "after-writing")
_LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


class DyingReader(PartReader):
    """Reads parts as its base does, until it dies."""

    marks: Path
    _images = 0

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        process, publish, rename = Desk.process, ArchiveStore.publish, Path.rename

        def dying_process(*args: Any, **kwargs: Any) -> Any:
            self._images += 1
            if self._images == 3:
                self._die("third-image")
            return process(*args, **kwargs)

        def dying_publish(*args: Any, **kwargs: Any) -> None:
            self._die("before-writing")
            publish(*args, **kwargs)
            self._die("after-writing")

        def dying_rename(*args: Any) -> Path:
            self._die("while-writing")
            return rename(*args)

        # In this process of Ray alone, which reads nothing else.
        Desk.process, ArchiveStore.publish, Path.rename = dying_process, dying_publish, dying_rename  # type: ignore
        try:
            return super().__call__(row)
        finally:
            Desk.process, ArchiveStore.publish, Path.rename = process, publish, rename  # type: ignore[method-assign]

    def _die(self, name: str) -> None:
        try:
            (self.marks / name).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def beyond_loopback() -> list[str]:
    """Where the processes below this one listen or are connected to, but for the loopback address."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        for connection in process.net_connections("inet"):
            ends = (connection.laddr, connection.raddr)
            found |= {f"{process.name()} {end.ip}" for end in ends if end and end.ip not in _LOOPBACK}
    return sorted(found)


def main(images: Path, out: Path, marks: Path, address: str | None = None) -> None:
    seen: list[str] = []
    read = run._read

    def read_and_look(*args: Any) -> int:
        pending = read(*args)
        seen.extend(beyond_loopback())
        return pending

    DyingReader.marks = marks
    run.PartReader = DyingReader  # type: ignore[misc]
    run._read = read_and_look
    run.read_archive([images], out, run.Engines(), address)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
