"""What is on the desk: files that arrive, their way, and what became of them."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.cells import Finding, Unlikeness
from edge.records import Entry, FileStamp, State
from edge.stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that is to have an answer.

    Attributes:
        sample: POSIX path of its folder, relative to the inbox.
        was_there: it was seen a moment ago: if it is gone, its whole folder may be, and it is pending.
    """

    path: Path
    sample: str = ""
    was_there: bool = False


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one file.

    Attributes:
        status: PENDING if it is to be tried again: `reason` says why ("still changing", "EIO" ...).
        is_new: False if nothing was recorded now: the file was known, is pending, or is no regular file.
        stage_ms: milliseconds by stage.
        rgb: the decoded image, uint8 [H, W, 3]; None if it was not decoded, or was not to be kept.
        unlikeness: from the training images; None if it was not compared.
        is_new_version: the path was known before, and what was last read in it were other bytes.
    """

    path: Path
    sample: str
    status: State
    reason: str = ""
    is_new: bool = False
    findings: tuple[Finding, ...] = ()
    stage_ms: dict[str, float] = field(default_factory=dict)
    rgb: NDArray[np.uint8] | None = None
    unlikeness: Unlikeness | None = None
    is_new_version: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    state: State
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    unlikeness: Unlikeness | None = None


@dataclass(slots=True, eq=False)
class Task:
    """One file on its way.

    Attributes:
        is_new_version: as `ImageResult.is_new_version`.
        is_apart: not claimed; it is opened again when what is in hand is recorded.
        verdict: what will be recorded.
        result: what is given; without a verdict, nothing is recorded.
    """

    arrival: Arrival
    path: Path
    watch: Stopwatch = field(default_factory=Stopwatch)
    stamp: FileStamp | None = None
    sha256: bytes | None = None
    data: bytes | None = None
    claim: Entry | None = None
    is_new_version: bool = False
    is_apart: bool = False
    decoding: Future[NDArray[np.uint8]] | None = None
    reading: Future[Verdict] | None = None
    rgb: NDArray[np.uint8] | None = None
    size_wh: tuple[int, int] | None = None
    verdict: Verdict | None = None
    result: ImageResult | None = None

    @property
    def is_to_be_read(self) -> bool:
        """Whether the pipeline is to see it."""
        return self.verdict is None and self.result is None and not self.is_apart

    def pending(self, reason: str) -> ImageResult:
        """That it is to be tried again."""
        return ImageResult(self.path, self.arrival.sample, State.PENDING, reason)
