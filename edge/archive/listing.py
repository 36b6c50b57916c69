"""From an archive to parts: which files are to be read, and which of them belong together.

Files with the same bytes must come to the same worker, in the order of their names, so that the first is
read and the others are duplicates, as in a run on one machine. To know which they are, no file need be read
whole: its size and three samples of it choose the partition. Equal files have equal samples; that others
may have them, too, does no harm.
"""

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edge.archive.store import PartName, version_key
from edge.errors import StationError
from edge.oneshot import find_files
from edge.records import FileStamp
from edge.results import escape
from edge.tasks import Arrival

IMAGES_PER_PARTITION = 1000
_LEAST_PARTITIONS = 64
_SAMPLE_BYTES = 4096
_THREADS = 32
_BATCH = 4096
"""Files whose samples are asked for at once: on a network share the answers take long."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker does in one go.

    Attributes:
        files: absolute path and sample of each, as the file system has them, in the order of their names.
    """

    name: PartName
    files: tuple[tuple[bytes, bytes], ...]


def list_files(images: Sequence[Path], out: Path) -> list[tuple[bytes, bytes]]:
    """Absolute path and sample of every file, in the order in which `edge-run` reads them.

    Raises:
        StationError: there is no file, two would have the same name and sample, a folder may not be read, or
            `out` lies in one of them.
    """
    for given in images:
        if given.is_dir() and out.resolve().is_relative_to(given.resolve()):
            raise StationError(
                f"the output folder {str(out)!r} lies within {str(given)!r}, which is read; give one outside."
            )
    files = [_names_of(target) for target in find_files(images, out)]
    if not files:
        raise StationError(f"{', '.join(map(str, images))} holds no file; name files or a folder with files.")
    return files


def _names_of(target: Arrival) -> tuple[bytes, bytes]:
    path = os.path.abspath(target.path)  # noqa: PTH100, as the desk has it
    return os.fsencode(path), os.fsencode(target.sample)


def partition_count(files: int) -> int:
    """How many partitions a new archive gets."""
    return max(-(-files // IMAGES_PER_PARTITION), _LEAST_PARTITIONS)


def plan(
    files: Sequence[tuple[bytes, bytes]],
    partitions: int,
    settled: set[bytes],
    parts: Iterable[PartName],
    on_looked: Callable[[int], None] = lambda count: None,
) -> list[Part]:
    """The parts that are still to be made.

    Args:
        files: as `list_files` gives them.
        partitions: as the manifest has it.
        settled: `version_key` of the files that have their answer.
        parts: those that are there.
        on_looked: told how many more files were looked at.
    """
    following: dict[int, int] = defaultdict(int)
    for name in parts:
        following[name.partition] = max(following[name.partition], name.number + 1)
    planned: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
    with ThreadPoolExecutor(_THREADS) as pool:
        for batch in _batches(files):
            keys = pool.map(lambda file: place_of(file[0], settled), batch)
            for file, key in zip(batch, keys, strict=True):
                if key is not None:
                    planned[int.from_bytes(key) % partitions].append(file)
            on_looked(len(batch))
    return [
        Part(PartName(partition, following[partition]), tuple(found))
        for partition, found in sorted(planned.items())
    ]


def place_of(path: bytes, settled: set[bytes]) -> bytes | None:
    """8 bytes, the same for files with the same content, by which a file finds its partition.

    None: this version of the file has its answer. A file that cannot be read is placed by its path.
    """
    digest = hashlib.blake2b(digest_size=8)
    try:
        status = os.lstat(path)
        stamp = FileStamp.of(status)
        if version_key(escape(path), stamp.size_bytes, stamp.mtime_ns) in settled:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no regular file")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = stamp.size_bytes
            digest.update(size.to_bytes(8))
            for at in sorted({0, max(0, size // 2), max(0, size - _SAMPLE_BYTES)}):
                digest.update(os.pread(handle, _SAMPLE_BYTES, at))
        finally:
            os.close(handle)
    except OSError:
        digest = hashlib.blake2b(path, digest_size=8)
    return digest.digest()


def _batches(files: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    rest = iter(files)
    while batch := list(islice(rest, _BATCH)):
        yield batch
