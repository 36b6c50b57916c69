"""Writing the CSV files anew from the journal alone: every row as the station gave it, each once."""

import csv
import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from edge.errors import JournalError
from edge.journal_tool.reader import JournalReader
from edge.locks import OUT_OF_SPACE, RESULTS_LOCK, OutputFullError, OutputUnwritableError, fsync_folder
from edge.results import csv_bytes

OUTPUTS = ("results", "images")


def rebuild(
    reader: JournalReader, folder: Path, advance: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Write results.csv and images.csv into a folder, durable when this returns.

    They have one part each, whatever happened to those of the station. Both get their names at the end, so
    that no half file is taken for a whole one.

    Args:
        folder: is made if it is missing.
        advance: called after each write.

    Returns:
        Bytes by file name.

    Raises:
        OutputUnwritableError: the folder has these files, is a station's, or cannot be written.
        OutputFullError: no space.
        JournalError: there are no rows, or they cannot be read.
    """
    headers = {output: _header(reader, output) for output in OUTPUTS}
    names = {output: folder / f"{output}.csv" for output in OUTPUTS}
    for name in (*names.values(), folder / RESULTS_LOCK):
        if os.path.lexists(name):
            raise OutputUnwritableError(f"{str(folder)!r} holds {name.name!r} already; give an empty folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as closing:
            files = {
                output: closing.enter_context(name.with_suffix(".part").open("wb"))
                for output, name in names.items()
            }
            for output, file in files.items():
                file.write(headers[output])
            for stored in reader.writes():
                if stored.image_id is not None:  # neither a header nor a copy of rows in another part
                    output = stored.write.output
                    files[output].write(widened(stored.write.data, headers[output]))
                advance()
            sizes = {names[output].name: file.tell() for output, file in files.items()}
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        for name in names.values():
            name.with_suffix(".part").rename(name)
        fsync_folder(folder)
    except OSError as error:
        kind = OutputFullError if error.errno in OUT_OF_SPACE else OutputUnwritableError
        raise kind(
            f"{str(folder)!r} cannot be written ({error.strerror}); free space or mend the rights, or give "
            "another folder."
        ) from error
    return sizes


def widened(rows: bytes, header: bytes) -> bytes:
    """Rows of any version with as many cells as the header has: the newer columns stand last."""
    count = header.count(b",") + 1
    cells = list(csv.reader(io.StringIO(rows.decode("utf-8"), newline="")))
    if all(len(row) >= count for row in cells):
        return rows
    return csv_bytes([*row, *[""] * (count - len(row))] for row in cells)


def _header(reader: JournalReader, output: str) -> bytes:
    header = reader.header(output)
    if header is None:
        raise JournalError(
            f"the journal {str(reader.path)!r} has nothing for {output}.csv; give that of a station that ran."
        )
    return header
