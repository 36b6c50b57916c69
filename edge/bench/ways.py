"""The ways from an image to its findings that are timed, behind one seam; and this station as one of them."""

import contextlib
import itertools
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.cells import Finding
from edge.desk import Desk, Reader
from edge.errors import BenchError
from edge.outputs import open_desk
from edge.records import State


@dataclass(frozen=True, slots=True)
class Answer:
    """What one way said of one image.

    Attributes:
        findings: in pixels of the image.
        stage_ms: milliseconds by stage, where the way tells them.
    """

    findings: tuple[Finding, ...]
    stage_ms: Mapping[str, float] = field(default_factory=dict)


class Way(ABC):
    """One way. Only `answer` is timed.

    Attributes:
        name: in the report.
    """

    name: str

    def prepare(self, image: Path) -> Any:
        """What `answer` takes for this image; by default its path."""
        return image

    @abstractmethod
    def answer(self, prepared: Any) -> Answer: ...


class StationWay(Way):
    """This station: from the file to rows that are durable in the journal and written to both CSV files.

    Attributes:
        desk: that reads the files.
        inbox: in which they lie.
    """

    def __init__(self, name: str, desk: Desk, inbox: Path) -> None:
        self.name = name
        self.desk = desk
        self.inbox = inbox
        self._numbers = itertools.count()
        self._answered: list[Path] = []

    def prepare(self, image: Path) -> Path:
        """A new file of the same bytes: the desk does not read the same path twice."""
        while self._answered:
            self._answered.pop().unlink()
        return Path(shutil.copy(image, self.inbox / f"{next(self._numbers)}{image.suffix}"))

    def answer(self, prepared: Path) -> Answer:
        """Raises BenchError if the image could not be read."""
        result = self.desk.process(prepared)
        self._answered.append(prepared)
        if result.status not in (State.DONE, State.EMPTY):
            raise BenchError(
                f"The station answered {prepared} with {result.status} ({result.reason}); give images that "
                "it can read."
            )
        return Answer(result.findings, result.stage_ms)


@contextlib.contextmanager
def station_way(name: str, pipeline: Reader, folder: Path) -> Iterator[StationWay]:
    """A station with its inbox and its outputs in a folder of its own."""
    inbox = folder / "inbox"
    inbox.mkdir(parents=True)
    with open_desk(pipeline, folder / "out", duplicates="again") as (desk, _):
        yield StationWay(name, desk, inbox)
