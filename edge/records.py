"""The values of the journal: what was asked of the station, and what it answered."""

import errno
import os
from dataclasses import dataclass
from enum import StrEnum

from edge.cells import Finding, Unlikeness

LARGEST_BATCH = 8
"""How many images at most are committed together: so many may be in the journal and not yet in a CSV file."""

PASSING_FAULTS = frozenset(
    {
        *(errno.EBUSY, errno.ESTALE, errno.EIO, errno.EREMOTEIO, errno.ENOSPC, errno.EAGAIN, errno.ENOMEM),
        *(errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNABORTED),
        *(errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)
"""Of opening or reading a file, on a disk or a share, for a while."""

PERMISSION = "permission"
"""Why a file failed that may not be read."""

NAMES_OF_PASSING_FAULTS = frozenset(errno.errorcode[number] for number in PASSING_FAULTS)
REASONS_THAT_MAY_PASS = NAMES_OF_PASSING_FAULTS | {PERMISSION}
"""Of a failed image: the file may be readable later, though it is the same to look at."""

_LOW_63_BITS = 2**63 - 1


class State(StrEnum):
    """What became of an image; all but `PENDING` are final and stand in images.csv under this name."""

    PENDING = "pending"
    DONE = "done"
    EMPTY = "empty"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    FAILED = "failed"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class FileStamp:
    """One version of a file, for comparing only: the clock of a camera may show any time.

    A file that takes the place of another may have its size and time of change, but has its own inode.
    """

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStamp":
        # The integers of SQLite have 63 bits and a sign; times after 2262 and some inodes have more.
        return cls(status.st_size, status.st_mtime_ns & _LOW_63_BITS, status.st_ino & _LOW_63_BITS)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the station says of one file.

    Attributes:
        reason: why, for states that are no result; a short phrase that can be counted, a path (duplicate).
        findings: the leukocytes.
        size_wh: width and height of the decoded image in pixels; None if it was not decoded.
        latency_ms: from the opening of the file to this answer.
        finished_at: UTC, ISO 8601 with milliseconds.
        unlikeness: from the training images; None if it was not compared.
    """

    state: State
    reason: str
    findings: tuple[Finding, ...]
    size_wh: tuple[int, int] | None
    latency_ms: float
    bundle: str
    engine: str
    finished_at: str
    unlikeness: Unlikeness | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """The last thing that the journal knows of a path."""

    image_id: int
    stamp: FileStamp | None
    sha256: bytes | None
    state: State
    reason: str
    tries: int


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that stand in a CSV file at an offset.

    Attributes:
        output: "results" or "images"; an output may continue in another file.
        file: the file's name in the output folder.
    """

    output: str
    file: str
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)
