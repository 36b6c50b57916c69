"""The journal made anew from the CSV files, when it is lost, damaged or older than they are.

Every row tells its image, its answer and its time, so the files hold all that exactly-once needs. What they
do not hold is lost: the probabilities of other classes than the two best, and the stamps of the files, so
that each is hashed once more. CSV files that contradict themselves are not taken for a journal.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path

from edge.cells import Finding, Unlikeness
from edge.csv_parts import ContradictionError, Part, Row, parts_of
from edge.errors import JournalError
from edge.journal import Journal
from edge.journal_file import JOURNAL_NAME, JournalDamagedError
from edge.locks import as_output_errors, fsync_folder
from edge.projection import keep_beside, part_number
from edge.records import Answer, State, Write
from edge.results import FIRST_IMAGE_COLUMNS, RESULT_COLUMNS, unescape

log = logging.getLogger(__name__)

_SUFFIXES = ("-wal", "-shm", "")
"""Of the journal's files; the log of changes first: it must never be found beside another journal."""
_Image = tuple[Path, bytes | None, Answer | None, list[Write]]


def open_journal(
    state: Path, out: Path, inbox: Path | None, alive: Callable[[], None] = lambda: None
) -> Journal:
    """Open the journal; make it anew first if the CSV files know more than it does. Both folders are locked.

    The old one is kept beside it as `journal.damaged-<time>.sqlite3` or `journal.older-<time>.sqlite3`.

    Args:
        state: folder of the journal.
        out: folder of the CSV files.
        inbox: the folder whose files the rows are about; None: there is no such one, nothing is made anew.
        alive: called for each image that is taken over.

    Raises:
        JournalError: it cannot be opened, and the CSV files cannot stand in for it.
        OutputFullError, OutputUnwritableError: a folder or file cannot be read or written.
    """
    was_there = os.path.lexists(state / JOURNAL_NAME)
    try:
        journal = Journal(state)
    except JournalDamagedError as error:
        with as_output_errors(out):
            if inbox is None or not parts_of(out, "images", FIRST_IMAGE_COLUMNS, strict=True):
                raise
            log.error("%s", error)
            _replace(state, out, inbox, "damaged", alive)
        return Journal(state)
    with contextlib.ExitStack() as closing:
        closing.callback(journal.close)
        if journal.last_write("images") is None:
            fault = "lost" if _has_rows(out) else ""
        else:
            fault = "older" if _is_behind(journal, out) else ""
        if not fault:
            closing.pop_all()
            return journal
    if inbox is None:
        if not was_there:  # an empty one would be taken for the station's
            with as_output_errors(state):
                _remove(state)
        raise JournalError(
            f"the journal {str(state / JOURNAL_NAME)!r} is {fault}: the CSV files in {str(out)!r} have rows "
            "that it does not know; put the right journal back, or move journal and CSV files away to start "
            "anew."
        )
    try:
        with as_output_errors(state):
            _replace(state, out, inbox, fault, alive)
    except ContradictionError as error:
        if fault == "lost":
            raise
        log.error("The CSV files have rows that the journal does not know, and that are not ours: %s", error)
    return Journal(state)


def _has_rows(out: Path) -> bool:
    with as_output_errors(out):
        outputs = (("images", FIRST_IMAGE_COLUMNS), ("results", RESULT_COLUMNS))
        parts = chain.from_iterable(parts_of(out, *output, strict=True) for output in outputs)
        return any(next(part.rows(), None) for part in parts)


def _is_behind(journal: Journal, out: Path) -> bool:
    """Whether images.csv tells, behind the last bytes that the journal has, of an answer unknown to it.

    A row that was copied by hand has the time of another one.
    """
    last = journal.last_write("images")
    assert last is not None
    with as_output_errors(out), contextlib.suppress(PermissionError):
        parts = {part.path.name: part for part in parts_of(out, "images", FIRST_IMAGE_COLUMNS)}
        current = parts.get(last.file)
        newer = (part for name, part in parts.items() if part.number > part_number(last.file))
        behind = chain(current.rows(last.end) if current else (), *(part.rows() for part in newer))
        return any(row.cells and not journal.has_answer_of(row["finished_at"]) for row in behind)
    return False  # what may not be read is not ours; `CsvFile.mend` goes on in a new part


def _replace(state: Path, out: Path, inbox: Path, fault: str, alive: Callable[[], None]) -> None:
    building = state / ".restoring"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    with contextlib.closing(Journal(building)) as journal:
        number = journal.adopt(_images(out, inbox, alive))
        journal.settle()
    with contextlib.closing(Journal(building)) as journal:  # which looks at every page of it
        if sum(journal.counts().values()) != number or (building / f"{JOURNAL_NAME}-wal").stat().st_size:
            raise JournalError(
                f"the journal that was made anew in {str(building)!r} is not whole; start again."
            )
    kept = f"journal.{fault}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.sqlite3"
    if fault == "lost":  # what is there now was begun a moment ago
        _remove(state)
    else:
        for suffix in _SUFFIXES:
            if (old := state / f"{JOURNAL_NAME}{suffix}").exists():
                old.rename(state / f"{kept}{suffix}")
    (building / JOURNAL_NAME).rename(state / JOURNAL_NAME)
    fsync_folder(state)
    shutil.rmtree(building, ignore_errors=True)
    log.error(
        "The journal in %r was %s: it was made anew from the rows of %d images%s.",
        *(str(state), fault, number, "" if fault == "lost" else f", and the old one is kept as {kept}"),
    )


def _remove(state: Path) -> None:
    for suffix in _SUFFIXES:
        (state / f"{JOURNAL_NAME}{suffix}").unlink(missing_ok=True)


def _images(out: Path, inbox: Path, alive: Callable[[], None]) -> Iterator[_Image]:
    """What both CSV files tell, image by image, and their headers."""
    cells = parts_of(out, "results", RESULT_COLUMNS, strict=True)
    images = parts_of(out, "images", FIRST_IMAGE_COLUMNS, strict=True)
    # The last bytes of an output must come last: there the station goes on.
    begun = [part for part in (*cells[-1:], *images[-1:]) if next(part.rows(), None) is None]
    for part in (*cells, *images):
        if part not in begun:
            yield _header(part)
    cell_rows = chain.from_iterable(part.rows() for part in cells)
    for row in chain.from_iterable(part.rows() for part in images):
        count = int(row.number("leukocytes"))
        found = list(islice(cell_rows, count))
        if len(found) < count or any(_origin(cell) != _origin(row) for cell in found):
            raise row.contradiction(f"tells of {count} leukocytes whose rows do not follow in results.csv")
        alive()
        yield _path_of(row, inbox), row.digest, _answer(row, found), [*_joined(found), row.write]
    for part in begun:
        yield _header(part)
    _cut_unfinished(list(cell_rows))


def _header(part: Part) -> _Image:
    return Path(), None, None, [Write(part.output, part.path.name, 0, part.header)]


def _joined(rows: list[Row]) -> list[Write]:
    """The rows of one image as one write."""
    if not rows:
        return []
    first = rows[0].write
    if any(row.write.file != first.file for row in rows):
        raise rows[-1].contradiction(f"belongs to an image whose rows begin in {first.file!r}")
    return [Write(first.output, first.file, first.offset, b"".join(row.write.data for row in rows))]


def _cut_unfinished(rows: list[Row]) -> None:
    """Cut off the rows of an image that the end of the process left without its row in images.csv."""
    if not rows:
        return
    first, last = rows[0], rows[-1]
    if _origin(first) != _origin(last) or first.path != last.path:
        raise first.contradiction("belongs to an image that images.csv does not have")
    with first.path.open("r+b") as file:
        file.seek(first.write.offset)
        keep_beside(first.path, file.read())
        file.truncate(first.write.offset)
        file.flush()
        os.fsync(file.fileno())


def _origin(row: Row) -> tuple[str, ...]:
    return tuple(row[column] for column in ("NAME", "sample", "image_sha256", "finished_at"))


def _path_of(row: Row, inbox: Path) -> Path:
    name, sample = (os.fsdecode(unescape(row[column])) for column in ("NAME", "sample"))
    return Path(os.path.abspath(inbox)) / sample / name  # noqa: PTH100, as the inbox gives it


def _answer(row: Row, cells: list[Row]) -> Answer:
    try:
        state = State(row["status"])
    except ValueError:
        raise row.contradiction(f"has the unknown status {row['status']!r}") from None
    size_wh = (int(row.number("width")), int(row.number("height"))) if row["width"] else None
    reason, bundle, engine = (os.fsdecode(unescape(row[name])) for name in ("reason", "bundle", "engine"))
    findings = tuple(map(_finding, cells))
    return Answer(
        *(state, reason, findings, size_wh, row.number("latency_ms"), bundle, engine, row["finished_at"]),
        _unlikeness(row),
    )


def _unlikeness(row: Row) -> Unlikeness | None:
    if not row.get("unlike_training"):
        return None
    return Unlikeness(row.number("unlike_training"), os.fsdecode(unescape(row.get("unlike_because"))))


def _finding(row: Row) -> Finding:
    label, runner_up = (os.fsdecode(unescape(row[name])) for name in ("class", "runner_up"))
    probabilities = {label: row.number("class_score")}
    if runner_up:
        probabilities[runner_up] = row.number("runner_up_score")
    x1, y1, x2, y2 = (row.number(side) for side in ("x1", "y1", "x2", "y2"))
    return Finding(
        (x1, y1, x2, y2), label, row.number("detection_score"), row.number("class_score"), probabilities
    )
