"""One CSV file as a projection of the journal: whatever happens to the file, it can be made whole again.

The journal commits bytes and their place first; then they are written there. They are fsynced later, which is
enough: what a power cut takes of them the journal has.
"""

import errno
import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.errors import StationError
from edge.journal import Journal
from edge.locks import fsync_folder, output_error
from edge.records import Write
from edge.spreadsheets import cells_of, end_of_last_named

log = logging.getLogger(__name__)

_COMPARED_BYTES = 4096
_UNSYNCED_BYTES = 1 << 16
"""So many may be written before they are fsynced; a start looks for them."""
_QUIET_S, _MOST_LOOKS = 1.0, 10
"""Who saves a file has ended when it does not change for so long; that is waited for so often at most."""
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_NOT_OURS_TO_WRITE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EBUSY, errno.EAGAIN, errno.ETXTBSY, errno.ELOOP, errno.EISDIR}
)


class CsvFile:
    """One output: a CSV file and, when a human's hand was in it, its further parts (results.2.csv ...)."""

    def __init__(self, folder: Path, output: str, header: bytes, journal: Journal) -> None:
        self._folder = folder
        self._output = output
        self._header = header
        self._journal = journal
        self._name = part_name(output, 1)
        self._end = 0
        """Behind the last bytes that are planned."""
        self._synced = 0
        """Up to here the file is on the disk."""
        self._is_doubtful = False
        """Whether what is not on the disk may only look as if it were written."""
        self._written: tuple[str, int] | None = None
        """File and end of the last write that is known to stand there."""
        self._left_as: tuple[int, int, int] | None = None
        """Inode, size and time of change after our last write; None: not known to agree with the journal."""
        self._is_unproven = False
        """Whether somebody may have changed it anywhere since all of it was last compared."""
        self._whole_due_s = 0.0
        """Until then not all of the file is compared again: a share's times may change by themselves."""

    def mend(self) -> None:
        """Make the file agree with the journal.

        Bytes that are missing at its end, or were never written there (a power cut may leave zeros), are
        written again. A piece of a line behind them is cut off and kept beside it in `<name>.cut`. If the
        block before that place (where the file was seen to change: all before it) is not what was written, if
        whole lines were added, or if the file cannot be opened for writing, it is somebody else's now: it
        stays as it is and a new part begins. So it does where the file is an older version's, without all
        columns.

        Raises:
            OutputFullError: no space; call it again later.
            OutputUnwritableError: the folder or the disk refuses.
        """
        last = self._journal.last_write(self._output)
        if last is None:
            self._begin_part(None)
            return
        self._name, self._end = last.file, last.end
        try:
            is_ours = self._mend_file(last)
        except OSError as error:
            can_go_on = os.access(self._folder, os.W_OK | os.X_OK, effective_ids=True)  # in a new part
            if error.errno not in _NOT_OURS_TO_WRITE or not can_go_on:
                raise self._as_ours(error) from error
            is_ours = False
        if not is_ours:
            self._begin_part(last)
            self._is_unproven = False
        if difference := self._difference_of_columns():
            left = self._plan_part([self._header])
            log.warning("%s %s: it is left alone, rows go on in %s.", left, difference, self._name)
            self._write_part()

    def _mend_file(self, last: Write) -> bool:
        """Make the current file whole; False if a human's hand was in it."""
        handle = self._open()
        try:
            size = os.fstat(handle).st_size
            excess = os.pread(handle, size - self._end, self._end) if size > self._end else b""
            if excess.endswith(b"\n"):
                return False
            common = min(size, self._end)
            # Only the last bytes can be missing: earlier ones were fsynced before them.
            recent = self._journal.last_batch(self._output)
            window = _COMPARED_BYTES + _UNSYNCED_BYTES + sum(len(write.data) for write in recent)
            expected = self._journal.bytes_before(self._name, common, window)
            begin = common - len(expected)
            found = os.pread(handle, len(expected), begin).ljust(len(expected), b"\0")
            if found != expected:
                unlike = [n for n, byte in enumerate(expected) if byte != found[n]]
                if any(found[n] for n in unlike):
                    return False
                size = begin + unlike[0]
            if self._is_unproven and self._was_changed(handle, begin):
                return False
            self._cut(handle, excess)
            self._replay(handle, size)
            self._written = last.file, last.end
            self._left_as = _identity(os.fstat(handle))
            return True
        finally:
            os.close(handle)

    def _was_changed(self, handle: int, end: int) -> bool:
        """Whether something before a position is not as it was written; False if it is too early to look."""
        began_s = time.monotonic()
        if began_s < self._whole_due_s:
            return False
        writes = itertools.takewhile(lambda w: w.offset < end, self._journal.writes_after(self._name, 0))
        pairs = ((write.offset, write.data[: end - write.offset]) for write in writes)
        changed = any(os.pread(handle, len(data), offset) != data for offset, data in pairs)
        if not changed:
            self._is_unproven = False
            now_s = time.monotonic()
            self._whole_due_s = now_s + 10 * (now_s - began_s)
        return changed

    def look(self) -> None:
        """Mend the file if somebody changed it since the last write, wherever in it.

        Raises:
            OutputFullError, OutputUnwritableError: as `mend`.
        """
        try:
            untouched = self._left_as == _identity(os.lstat(self._folder / self._name))
        except OSError:
            untouched = False
        self._is_unproven |= not untouched
        if not untouched or (self._is_unproven and time.monotonic() >= self._whole_due_s):
            self.mend()

    def tell_of_missing_parts(self) -> None:
        """Say which parts that were left alone are not there: whoever took one away has its rows."""
        earlier = (part_name(self._output, number) for number in range(1, part_number(self._name)))
        for name in earlier:
            if not os.path.lexists(self._folder / name) and self._journal.bytes_before(name, 1, 1):
                log.warning(
                    "%s is missing, and is not written again, since rows go on in %s: put it back, or let "
                    "`edge-journal rebuild FOLDER` write all rows anew.",
                    *(name, self._name),
                )

    def plan(self, rows: bytes) -> Write:
        """Where rows will stand: behind those that are planned already."""
        write = Write(self._output, self._name, self._end, rows)
        self._end = write.end
        return write

    def apply(self, write: Write) -> None:
        """Write committed bytes at their place, in the order of plans. After an error `mend` completes them.

        Somebody may have changed the file since they were planned; then it is mended, which writes them, too.

        Raises:
            OutputFullError, OutputUnwritableError: as `mend`; what was written of these bytes is taken back.
        """
        self.look()
        file, end = self._written or ("", 0)
        if write.file != self._name or (write.file == file and write.end <= end):
            return  # `mend` has written it with the one before, here or in the next part
        with self._ours_or_mended():
            if not self._put(write):
                self._is_unproven = True
                self.mend()
            elif self._end - self._synced > _UNSYNCED_BYTES:
                self._sync()

    def sync(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OutputFullError, OutputUnwritableError: as `mend`, which then writes it again.
        """
        if self._synced < self._end:
            with self._ours_or_mended(), suppress(FileNotFoundError):  # `look` sees that it is gone
                self._sync()

    @contextmanager
    def _ours_or_mended(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._left_as, self._is_unproven = None, True
            if error.errno not in _NOT_OURS_TO_WRITE:
                raise self._as_ours(error) from error
            self.mend()  # a program has locked the file since it was looked at

    def _put(self, write: Write) -> bool:
        """False, and nothing is written: the file is not as the last write left it."""
        as_left, self._left_as = self._left_as, None
        handle = os.open(self._folder / write.file, _FLAGS, 0o644)
        try:
            if write.offset and _identity(os.fstat(handle)) != as_left:
                return False
            self._write(handle, write.data, write.offset)
            self._left_as = _identity(os.fstat(handle))
        finally:
            os.close(handle)
        self._written = write.file, write.end
        return True

    def _sync(self) -> None:
        handle = os.open(self._folder / self._name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._fsync(handle, self._end)
        finally:
            os.close(handle)

    def _fsync(self, handle: int, end: int) -> None:
        try:
            os.fsync(handle)
        except OSError:
            self._is_doubtful = True  # Linux takes the pages for written now (fsync(2))
            raise
        self._synced = end

    def _write(self, handle: int, data: bytes, offset: int) -> None:
        view, at = memoryview(data), offset
        try:
            while view:  # on a disk that fills up, one call writes a part and says so only by its count
                written = os.pwrite(handle, view, at)
                view, at = view[written:], at + written
        except OSError:
            os.ftruncate(handle, offset)
            raise

    def _replay(self, handle: int, size: int) -> None:
        start = min(size, self._synced) if self._is_doubtful else size
        self._synced = min(self._synced, start, self._end)
        self._write_from(handle, start)
        if start < self._end:
            log.warning("%s had %d bytes: wrote it again up to byte %d.", self._name, size, self._end)
        self._is_doubtful = False

    def _write_from(self, handle: int, start: int) -> None:
        """Write all from a position on, and bring it to the disk piece by piece."""
        if start < self._end:
            for write in self._journal.writes_after(self._name, start):
                self._write(handle, write.data, write.offset)
                if write.end - self._synced > _UNSYNCED_BYTES:
                    self._fsync(handle, write.end)
        if self._synced < self._end:
            self._fsync(handle, self._end)

    def _cut(self, handle: int, excess: bytes) -> None:
        if not excess:
            return
        keep_beside(self._folder / self._name, excess)
        os.ftruncate(handle, self._end)
        os.fsync(handle)

    def _open(self) -> int:
        path = self._folder / self._name
        missing = not path.exists()
        handle = os.open(path, _FLAGS, 0o644)
        if missing:
            fsync_folder(self._folder)
        return handle

    def _begin_part(self, last: Write | None) -> None:
        """Begin the output's first file, or its next part, with the header.

        Rows that the file before it should have, and has not, move there; see `_missing`.
        """
        if last is None:
            left = self._plan_part([self._header])
            if left != self._name:
                log.error("%s is not the station's: it is left alone, rows begin in %s.", left, self._name)
        else:
            moved = [write.data for write in self._missing(last.file)]
            left = self._plan_part([self._header_of(last.file) if moved else self._header, *moved])
            log.error(
                "%s was changed by somebody else, or cannot be opened: it is left alone, rows go on in %s.",
                *(left, self._name),
            )
        self._write_part()

    def _header_of(self, file: str) -> bytes:
        return next(self._journal.writes_after(file, 0)).data

    def _difference_of_columns(self) -> str:
        """In what the current file has not the columns that this version writes, "" if in nothing."""
        (found,), (ours,) = cells_of(self._header_of(self._name)), cells_of(self._header)
        if lacking := [column for column in ours if column not in found]:
            return f"of an older version has no column {', '.join(lacking)}"
        return "" if found[: len(ours)] == ours else "has its columns in another order"

    def _plan_part(self, parts: list[bytes]) -> str:
        """Commit the next part, a header and rows; the name of the part before it.

        Then say so, before `_write_part`: what a fault there leaves is mended like any other file.
        """
        left = self._name
        names = (part_name(self._output, number) for number in itertools.count(1))
        self._name = next(name for name in names if not self._is_taken(name))
        writes, self._end, self._synced = [], 0, 0
        for data in parts:
            writes.append(self.plan(data))
        self._journal.record_writes(writes)
        self._left_as = None
        return left

    def _write_part(self) -> None:
        try:
            handle = self._open()
            try:
                self._write_from(handle, 0)
                self._left_as = _identity(os.fstat(handle))
            finally:
                os.close(handle)
        except OSError as error:
            raise self._as_ours(error) from error
        self._written = self._name, self._end

    def _missing(self, file: str) -> list[Write]:
        """What a file that is not ours any more lacks; see `edge.spreadsheets`.

        Where no image can be told in it, that may be what was committed last.
        """
        try:
            text = _read_when_quiet(self._folder / file)
        except OSError as error:
            if error.errno in {*_NOT_OURS_TO_WRITE, errno.ENOENT}:  # it may be a link to nothing
                return self._unwritten(file)
            raise self._as_ours(error) from error
        end = end_of_last_named(text, self._header, self._journal.writes_after(file, 0))
        return self._unwritten(file) if end is None else list(self._journal.writes_after(file, end))

    def _unwritten(self, file: str) -> list[Write]:
        """What was committed last to a file and is not known to stand there."""
        recent = [w for w in self._journal.last_batch(self._output) if w.file == file and w.offset]
        if self._written is not None and self._written[0] == file:
            recent = [write for write in recent if write.end > self._written[1]]
        return recent

    def _is_taken(self, name: str) -> bool:
        return os.path.lexists(self._folder / name) or self._journal.bytes_before(name, 1, 1) != b""

    def _as_ours(self, error: OSError) -> StationError:
        return output_error(error, self._folder / self._name)


def part_name(output: str, number: int) -> str:
    """The file of an output's first, second ... part."""
    return f"{output}.csv" if number == 1 else f"{output}.{number}.csv"


def part_number(name: str) -> int:
    """The number of the part in a file name of `part_name`."""
    _, *number, _ = name.split(".")
    return int(number[0]) if number else 1


def keep_beside(path: Path, cut: bytes) -> None:
    """Keep what is cut off the end of a CSV file, durably, in `<name>.cut`."""
    with path.with_name(f"{path.name}.cut").open("ab") as kept:
        kept.write(cut)
        kept.flush()
        os.fsync(kept.fileno())
    fsync_folder(path.parent)
    log.warning(
        "%s: %d bytes at its end are no row of ours, they were moved to %s.cut.",
        *(path.name, len(cut), path.name),
    )


def _read_when_quiet(path: Path) -> bytes:
    """The bytes of a file that somebody may be saving just now: what is not yet there is not lacking."""
    for _ in range(_MOST_LOOKS):
        before = _identity(path.stat())
        time.sleep(_QUIET_S)
        if _identity(path.stat()) == before:
            break
    return path.read_bytes()


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
