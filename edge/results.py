"""results.csv (one row a leukocyte) and images.csv (one row an image): projections of the journal.

Format: UTF-8 without a mark, comma, decimal point, LF after each row, one header, quoted as RFC 4180 says;
the same bytes under every locale. A column is never moved or renamed without a new `schema` number; new ones
stand behind the others.

Text that came from outside (names, folders, reasons) is written so that a spreadsheet cannot take it for
a formula and the original bytes can be had back (`unescape`):
    1. a backslash becomes two; a byte that is not UTF-8 becomes \\xHH;
    2. text that begins with = + - @ TAB CR or ' gets one ' in front. Numbers are never touched.

Order of a write: the journal commits the bytes and their place, then they are written there; `sync` brings
them to the disk. `CsvFile.mend` makes the file agree with the journal again after whatever happened.
"""

import csv
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path

from edge.journal import Journal
from edge.projection import CsvFile
from edge.records import Answer, Write

SCHEMA = 1
RESULT_COLUMNS = (
    *("NAME", "x1", "y1", "x2", "y2", "class", "detection_score", "class_score"),
    *("runner_up", "runner_up_score"),
    *("sample", "image_sha256", "bundle", "engine", "finished_at", "schema"),
)
FIRST_IMAGE_COLUMNS = (
    *("NAME", "status", "reason", "leukocytes", "width", "height", "sample", "image_sha256", "latency_ms"),
    *("bundle", "engine", "finished_at", "schema"),
)
"""What every images.csv has; a file with no others goes on in a new part."""
IMAGE_COLUMNS = (*FIRST_IMAGE_COLUMNS, "unlike_training", "unlike_because")

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")
_ESCAPED = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def escape(raw: bytes) -> str:
    """Text for one cell, by rules 1 and 2 above; `raw` is a name as the file system has it."""
    text = raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def unescape(cell: str) -> bytes:
    """The bytes that `escape` was given."""
    raw = cell.removeprefix("'").encode("utf-8")
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()[1:]) or b"\\", raw)


def result_rows(name: bytes, sample: bytes, sha256: bytes | None, answer: Answer) -> bytes:
    """The rows of one image for results.csv, one a leukocyte, in the order of the findings.

    Args:
        name: the file's base name.
        sample: the POSIX path of its folder, relative to the inbox; empty at the top.
        sha256: of the file's bytes.
    """
    about = (*_place(sample, sha256), *_origin(answer))
    rows = []
    for finding in answer.findings:
        runner_up, runner_up_score = finding.runner_up or ("", None)
        rows.append(
            (
                *(escape(name), *(round(side) for side in finding.box_xyxy), escape(finding.label.encode())),
                *(f"{finding.detection_score:.4f}", f"{finding.class_score:.4f}"),
                *(escape(runner_up.encode()), "" if runner_up_score is None else f"{runner_up_score:.4f}"),
                *about,
            )
        )
    return csv_bytes(rows)


def image_row(name: bytes, sample: bytes, sha256: bytes | None, answer: Answer) -> bytes:
    """The row of one image for images.csv; arguments as for `result_rows`."""
    row = (
        *(escape(name), answer.state.value, escape(os.fsencode(answer.reason)), len(answer.findings)),
        *(answer.size_wh or ("", "")),
        *(*_place(sample, sha256), f"{answer.latency_ms:.1f}", *_origin(answer)),
        *_unlikeness(answer),
    )
    return csv_bytes([row])


def image_cells(row: bytes) -> dict[str, str]:
    """The cells of what `image_row` gave, by column; an older version's row is without the last ones."""
    (cells,) = csv.reader(io.StringIO(row.decode("utf-8"), newline=""))
    return dict(zip(IMAGE_COLUMNS, cells, strict=False))


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    """Rows as bytes; cells are quoted where they hold a comma, a quote, CR or LF."""
    text = io.StringIO()
    for row in rows:
        line = io.StringIO()
        # The writer quotes a lone CR only if it is part of its line end; ours is LF.
        csv.writer(line, lineterminator="\r\n").writerow(row)
        text.write(line.getvalue()[:-2] + "\n")
    return text.getvalue().encode("utf-8")


def _place(sample: bytes, sha256: bytes | None) -> tuple[str, str]:
    return escape(sample), sha256.hex() if sha256 else ""


def _origin(answer: Answer) -> tuple[str, str, str, int]:
    return escape(answer.bundle.encode()), escape(answer.engine.encode()), answer.finished_at, SCHEMA


def _unlikeness(answer: Answer) -> tuple[str, str]:
    found = answer.unlikeness
    return ("", "") if found is None else (f"{found.ratio:.3f}", escape(found.because.encode()))


class Results:
    """Both CSV files in an output folder. For one process at a time: its opener has locked the folder."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._files = {
            "results": CsvFile(folder, "results", csv_bytes([RESULT_COLUMNS]), journal),
            "images": CsvFile(folder, "images", csv_bytes([IMAGE_COLUMNS]), journal),
        }

    def mend(self) -> None:
        """Make both files agree with the journal; see `CsvFile.mend`."""
        for file in self._files.values():
            file.mend()

    def tell_of_missing_parts(self) -> None:
        """At the start, when all else agrees; see `CsvFile.tell_of_missing_parts`."""
        for file in self._files.values():
            file.tell_of_missing_parts()

    def look(self) -> None:
        """Before `plan`: mend a file that somebody changed since the last write."""
        for file in self._files.values():
            file.look()

    def plan(self, name: bytes, sample: bytes, sha256: bytes | None, answer: Answer) -> list[Write]:
        """What is to be written for an answer, and where; for the journal to commit before `apply`."""
        rows = {
            "results": result_rows(name, sample, sha256, answer),
            "images": image_row(name, sample, sha256, answer),
        }
        return [self._files[output].plan(data) for output, data in rows.items() if data]

    def apply(self, writes: list[Write]) -> None:
        """Write what the journal has committed: of each image its row in images.csv last."""
        for write in writes:
            self._files[write.output].apply(write)

    def sync(self) -> None:
        """Bring what was written to the disk."""
        for file in self._files.values():
            file.sync()
