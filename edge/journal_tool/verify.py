"""Holding journal and CSV files against each other, while the station may be writing both.

The journal commits first, then the files are written. So the journal's end is read before a file, and a
file is too long only if it goes on behind the journal's end as it is read after it.
"""

import csv
import hashlib
import io
import os
import re
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from edge.journal_tool.reader import ImageEntry, JournalReader, Part
from edge.records import FileStamp, State
from edge.results import IMAGE_COLUMNS

_PATIENCE_S = 2.0
"""How long a committed row may be on its way into a file that the station writes."""
_POLL_S = 0.05
_REBUILD = "`edge-journal rebuild FOLDER` writes all rows anew, as the station gave them"
_REPORT = "keep a copy of the state and output folders, and ask whoever maintains the station"
_LEUKOCYTES = IMAGE_COLUMNS.index("leukocytes")
_PENDING = -1


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table: what was looked at, how much of it, and what came of it.

    Attributes:
        differences: how many there were; None for what is only told.
    """

    what: str
    extent: str
    differences: int | None = None


def verify(
    reader: JournalReader, out: Path, tell: Callable[[str], None], images: bool = False
) -> Iterator[Check]:
    """All checks, one after the other; only the first if the journal is damaged.

    Args:
        out: the folder of the CSV files.
        tell: gets each difference as one sentence, when it is found.
        images: also read the image files that still exist.

    Raises:
        JournalError: the journal cannot be read.
    """
    damage = _count(_damage(reader), tell)
    yield Check("journal", "", damage)
    if damage:  # nothing can be held against it
        return
    counts = reader.counts()
    tried = sum(entry.tries > 0 for entry in reader.images(state=State.PENDING))
    yield Check("entries", f"{sum(counts.values())}")
    yield Check("pending entries", f"{counts.get(State.PENDING, 0)}, {tried} of them tried before")
    for part in reader.parts():
        yield Check(part.file, f"{part.end} bytes", _count(_file_differences(reader, out, part), tell))
    yield Check("unknown CSV files", "", _count(_unknown_files(reader, out), tell))
    yield Check("rows of each entry", "", _count(_row_differences(reader), tell))
    if images:
        seen = ImageCount()
        found = _count(_image_differences(reader, seen), tell)
        yield Check("image files", f"{seen.read} read, {seen.gone} are no longer there", found)


def _damage(reader: JournalReader) -> Iterator[str]:
    for text in reader.faults():
        yield (
            f"the journal {str(reader.path)!r} is damaged ({text}); stop the station, keep a copy of the "
            "folder, and start it again."
        )


def _count(sentences: Iterable[str], tell: Callable[[str], None]) -> int:
    count = 0
    for sentence in sentences:
        tell(sentence)
        count += 1
    return count


def _file_differences(reader: JournalReader, out: Path, part: Part) -> Iterator[str]:
    """How one CSV file differs; the first place only, since all that follows it may be moved."""
    path = out / part.file
    mends = "the station writes the rest before its next row" if part.is_current else _REBUILD
    try:
        _await_rows(path, part)
        with path.open("rb") as file:
            found = _first_difference(reader, file, part)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        yield f"{str(path)!r} is missing and the journal has {part.end} bytes of it; {mends}."
        return
    except OSError as error:
        yield f"{str(path)!r} cannot be read ({error.strerror}); run this as root or as the station's user."
        return
    now = reader.part(part.file)
    if found is not None and size < part.end and found[0] == size:
        yield f"{str(path)!r} has {size} bytes and the journal {part.end}; {mends}."
    elif found is not None:
        crash = "the station mends what a crash left when it starts, and " if part.is_current else ""
        yield (
            f"{str(path)!r} differs from the journal from byte {found[0]} on, in {found[1]}; "
            f"{crash}{_REBUILD}."
        )
    elif now is not None and size > now.end:
        yield f"{str(path)!r} has {size} bytes and the journal {now.end}; take away what was added to it."


def _await_rows(path: Path, part: Part) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while part.is_current and time.monotonic() < deadline_s:
        if path.exists() and path.stat().st_size >= part.end:
            return
        time.sleep(_POLL_S)


def _first_difference(reader: JournalReader, file: BinaryIO, part: Part) -> tuple[int, str] | None:
    """Offset of the first byte that is not the journal's, and whose rows those are; None if all agree."""
    position = 0
    for stored in reader.writes_in(part.file):
        write = stored.write
        if write.offset != position:
            return position, "a gap or an overlap of the journal's own writes"
        if write.end > part.end:  # committed since
            break
        data = file.read(len(write.data))
        if data != write.data:
            same = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(data, write.data, strict=False))
            )
            return position + same, _whose(reader, stored.image_id, position)
        position = write.end
    return None


def _whose(reader: JournalReader, image_id: int | None, offset: int) -> str:
    if image_id is not None:
        return f"the rows of {_path_of(reader, image_id)}"
    return "the header" if offset == 0 else "rows that were moved there"


def _unknown_files(reader: JournalReader, out: Path) -> Iterator[str]:
    for path in sorted(out.glob("*.csv")):
        if re.fullmatch(r"(results|images)(\.\d+)?\.csv", path.name) and reader.part(path.name) is None:
            yield f"{str(path)!r} is not the station's, the journal knows nothing of it; move it elsewhere."


def _row_differences(reader: JournalReader) -> Iterator[str]:
    """Each answered image has one row in images.csv, and as many in results.csv as it has leukocytes.

    Told from the bytes that the journal has committed; the files were compared with those. Entries first,
    then writes: an answer and its writes are one transaction, so the writes of all these answers are there.
    Twelve bytes of memory an entry.
    """
    leukocytes = array("i")  # by the number of the entry, as are the two below
    for entry in reader.images():
        leukocytes.extend([_PENDING] * (entry.image_id + 1 - len(leukocytes)))
        if entry.state is not State.PENDING:
            leukocytes[entry.image_id] = entry.leukocytes or 0
    image_rows, result_rows = (array("i", bytes(4 * len(leukocytes))) for _ in range(2))
    for stored in reader.writes():
        image_id = stored.image_id
        if image_id is None or image_id >= len(leukocytes):  # of no image, or answered meanwhile
            continue
        rows = list(csv.reader(io.StringIO(stored.write.data.decode("utf-8"), newline="")))
        if stored.write.output == "results":
            result_rows[image_id] += len(rows)
            continue
        image_rows[image_id] += len(rows)
        told, expected = [int(row[_LEUKOCYTES]) for row in rows], leukocytes[image_id]
        if expected != _PENDING and told != [expected]:
            yield (
                f"the row of {_path_of(reader, image_id)} in images.csv counts {told} leukocytes and the "
                f"journal has {expected}; {_REPORT}."
            )
    for image_id, expected in enumerate(leukocytes):
        found = image_rows[image_id], result_rows[image_id]
        wanted = (0, 0) if expected == _PENDING else (1, expected)
        if found != wanted and (expected != _PENDING or _is_pending(reader, image_id)):
            yield (
                f"{_path_of(reader, image_id)} has {found[0]} rows for images.csv and {found[1]} for "
                f"results.csv, and should have {wanted[0]} and {wanted[1]}; {_REPORT}."
            )


def _path_of(reader: JournalReader, image_id: int) -> str:
    image = reader.image(image_id)
    return "an unknown image" if image is None else repr(os.fsdecode(image.path))


def _is_pending(reader: JournalReader, image_id: int) -> bool:
    image = reader.image(image_id)
    return image is None or image.state is State.PENDING


@dataclass
class ImageCount:
    """How many image files were read, and how many are no longer there."""

    read: int = 0
    gone: int = 0


def _image_differences(reader: JournalReader, seen: ImageCount) -> Iterator[str]:
    for entry in reader.latest_images():
        if entry.sha256 is None:
            continue
        path = os.fsdecode(entry.path)
        try:
            sha256, stamp = _sha256_of(path)
        except (FileNotFoundError, NotADirectoryError):
            seen.gone += 1
            continue
        except OSError as error:
            yield f"{path!r} cannot be read ({error.strerror}); run this as root or as the station's user."
            continue
        seen.read += 1
        if sha256 != entry.sha256:
            yield _changed(path, entry, sha256, stamp)


def _changed(path: str, entry: ImageEntry, sha256: bytes, stamp: FileStamp) -> str:
    assert entry.sha256 is not None
    advice = (
        "its size and times are the same, so the disk may be failing: take the file from where it came"
        if stamp == entry.stamp
        else "it was changed, and the station reads it again at its next scan"
    )
    return f"{path!r} has sha256 {sha256.hex()} and the journal {entry.sha256.hex()}; {advice}."


def _sha256_of(path: str) -> tuple[bytes, FileStamp]:
    if not stat.S_ISREG(os.lstat(path).st_mode):  # something else has taken its place
        raise FileNotFoundError
    # As the station opens it: nothing is followed, and a FIFO is not waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest(), FileStamp.of(os.fstat(handle))
