"""One CSV file as a projection of the journal: whatever happens to the file, it can be made whole again.

The journal commits bytes and their place first; then they are written there and fsynced.
"""

import csv
import errno
import io
import itertools
import logging
import os
from pathlib import Path

from edge.errors import JournalError, StationError
from edge.journal import Journal
from edge.locks import OUT_OF_SPACE, OutputFullError, OutputUnwritableError, fsync_folder
from edge.records import Write

log = logging.getLogger(__name__)

_COMPARED_BYTES = 4096
_NOT_OURS_TO_WRITE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EBUSY, errno.ETXTBSY, errno.ELOOP, errno.EISDIR}
)


class CsvFile:
    """One output: a CSV file and, when a human's hand was in it, its further parts (results.2.csv ...)."""

    def __init__(self, folder: Path, output: str, header: bytes, journal: Journal) -> None:
        self._folder = folder
        self._output = output
        self._header = header
        self._journal = journal
        self._name = f"{output}.csv"
        self._end = 0
        self._left_as: tuple[int, int, int] | None = None
        """Inode, size and time of change after our last write; None: not known to agree with the journal."""

    def check_journal(self) -> None:
        """Tell a lost journal from a new one; before anything is written.

        Raises:
            JournalError: the journal knows nothing of this output, and its file has rows.
        """
        if self._journal.last_write(self._output) is not None:
            return
        path = self._folder / f"{self._output}.csv"
        try:
            has_rows = path.is_file() and path.stat().st_size > len(self._header)
        except OSError as error:
            raise self._as_ours(error) from error
        if has_rows:
            raise JournalError(
                f"{str(path)!r} has rows and the journal {str(self._journal.path)!r} is new and has none; "
                "put the lost journal back, or move the CSV files away to start anew."
            )

    def mend(self) -> None:
        """Make the file agree with the journal.

        Longer than committed: cut back; what is cut is kept beside it in `<name>.cut`. Shorter: the missing
        bytes are written again. If the block before that place is not what was written, or the file cannot
        be opened for writing, it is somebody else's now: it stays as it is and a new part begins.

        Raises:
            OutputFullError: no space; call it again later.
            OutputUnwritableError: the folder or the disk refuses.
        """
        last = self._journal.last_write(self._output)
        if last is None:
            self._begin_part(None)
            return
        self._name, self._end = last.file, last.end
        handle = self._open_ours()
        if handle is None:
            self._begin_part(last)
            return
        try:
            size = os.fstat(handle).st_size
            common = min(size, self._end)
            expected = self._journal.bytes_before(self._name, common, _COMPARED_BYTES)
            agrees = os.pread(handle, len(expected), common - len(expected)) == expected
            if agrees:
                self._cut(handle, size)
                self._replay(handle, size)
                self._left_as = _identity(os.fstat(handle))
        except OSError as error:
            raise self._as_ours(error) from error
        finally:
            os.close(handle)
        if not agrees:
            self._begin_part(last)

    def plan(self, rows: bytes) -> Write:
        """Where rows will stand. A file that somebody changed since the last write is looked at first."""
        try:
            untouched = self._left_as == _identity(os.lstat(self._folder / self._name))
        except OSError:
            untouched = False
        if not untouched:
            self.mend()
        return Write(self._output, self._name, self._end, rows)

    def apply(self, write: Write) -> None:
        """Write committed bytes at their place and fsync. After an error `mend` completes them.

        Raises:
            OutputFullError, OutputUnwritableError: as `mend`; what was written of these bytes is taken back.
        """
        self._left_as = None
        try:
            is_new = write.offset == 0
            handle = os.open(self._folder / write.file, _flags(create=True), 0o644)
            try:
                self._write(handle, write)
                os.fsync(handle)
                self._left_as = _identity(os.fstat(handle))
            finally:
                os.close(handle)
            if is_new:
                fsync_folder(self._folder)
        except OSError as error:
            raise self._as_ours(error) from error
        self._end = write.end

    def _write(self, handle: int, write: Write) -> None:
        view, at = memoryview(write.data), write.offset
        try:
            while view:  # on a disk that fills up, one call writes a part and says so only by its count
                written = os.pwrite(handle, view, at)
                view, at = view[written:], at + written
        except OSError:
            os.ftruncate(handle, write.offset)
            raise

    def _replay(self, handle: int, size: int) -> None:
        if size >= self._end:
            return
        for write in self._journal.writes_after(self._name, size):
            self._write(handle, write)
        os.fsync(handle)
        log.warning("%s had %d bytes: wrote it again up to byte %d.", self._name, size, self._end)

    def _cut(self, handle: int, size: int) -> None:
        if size <= self._end:
            return
        excess = os.pread(handle, size - self._end, self._end)
        with (self._folder / f"{self._name}.cut").open("ab") as kept:
            kept.write(excess)
            kept.flush()
            os.fsync(kept.fileno())
        os.ftruncate(handle, self._end)
        os.fsync(handle)
        log.warning(
            "%s had %d bytes and the journal has %d: the last %d were moved to %s.cut.",
            *(self._name, size, self._end, len(excess), self._name),
        )

    def _open_ours(self) -> int | None:
        path = self._folder / self._name
        try:
            missing = not path.exists()
            handle = os.open(path, _flags(create=True), 0o644)
            if missing:
                fsync_folder(self._folder)
            return handle
        except OSError as error:
            if error.errno in _NOT_OURS_TO_WRITE:
                return None
            raise self._as_ours(error) from error

    def _begin_part(self, last: Write | None) -> None:
        """Begin the output's first file, or its next part, with the header.

        Only the last committed write can be missing from a file (an earlier one was fsynced before it). If
        the file that is left behind does not name its image, its bytes move to the new part.
        """
        left = self._folder / self._name
        names = (f"{self._output}{f'.{n}' if n > 1 else ''}.csv" for n in itertools.count(1))
        self._name = next(name for name in names if not self._is_taken(name))
        writes = [Write(self._output, self._name, 0, self._header)]
        if last is not None:
            log.error(
                "%s was changed by somebody else, or cannot be opened: it is left alone, rows go on in %s.",
                *(left.name, self._name),
            )
        elif left.name != self._name:
            log.error("%s is not the station's: it is left alone, rows begin in %s.", left.name, self._name)
        if last is not None and last.offset > 0 and not _names_image_of(left, self._header, last.data):
            writes.append(Write(self._output, self._name, len(self._header), last.data))
        self._journal.record_writes(writes)
        for write in writes:
            self.apply(write)

    def _is_taken(self, name: str) -> bool:
        return os.path.lexists(self._folder / name) or self._journal.bytes_before(name, 1, 1) != b""

    def _as_ours(self, error: OSError) -> StationError:
        path = str(self._folder / self._name)
        if error.errno in OUT_OF_SPACE:
            return OutputFullError(
                f"there is no space for {path!r}; free some, the station goes on by itself."
            )
        return OutputUnwritableError(
            f"{path!r} cannot be written ({error.strerror}); mend the disk or the rights, then start again."
        )


def _flags(*, create: bool) -> int:
    return os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _names_image_of(path: Path, header: bytes, rows: bytes) -> bool:
    """Whether a file holds the image that rows are about; it may have been saved by a spreadsheet since."""
    row = next(csv.DictReader(io.StringIO((header + rows).decode("utf-8"), newline="")))
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return (row["image_sha256"] or row["NAME"]).encode("utf-8") in content
