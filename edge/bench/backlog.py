"""Many images that wait for each other: how many the station answers in a second."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from edge.desk import Desk
from edge.tasks import Arrival


def answer_waiting(desk: Desk, paths: Sequence[Path]) -> None:
    """Give every waiting file its durable answer, and bring the CSV files to the disk, as the daemon does."""
    for _ in desk.process_all(map(Arrival, paths)):
        pass
    desk.settle()


class StationBacklog:
    """Images that wait in the inbox of a station, again and again.

    Args:
        inbox: a folder without files of these names.
        images: what waits.
    """

    def __init__(self, desk: Desk, inbox: Path, images: Sequence[Path]) -> None:
        self._desk = desk
        self._inbox = inbox
        self._images = images
        self._round = 0

    def images_per_second(self) -> float:
        """Let all images wait, under new names, and answer them."""
        self._round += 1
        waiting = [
            Path(shutil.copy(image, self._inbox / f"waits-{self._round}-{number}{image.suffix}"))
            for number, image in enumerate(self._images)
        ]
        started = time.perf_counter()
        answer_waiting(self._desk, waiting)
        seconds = time.perf_counter() - started
        for path in waiting:
            path.unlink()
        return len(waiting) / seconds
