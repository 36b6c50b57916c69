"""What a CSV file lacks after somebody saved it with another program."""

import csv
import io
from collections import Counter
from collections.abc import Iterable

from edge.records import Write

_SEPARATED = bytes(byte if chr(byte).isalnum() or byte in b"_.:-" else ord(" ") for byte in range(256))
"""Translates a line into words, of which a sha256 or a time is one, whatever separates or quotes cells."""


def end_of_last_named(text: bytes, header: bytes, writes: Iterable[Write]) -> int | None:
    """Where the rows of the last image end that a saved file names: it lacks what was written behind it.

    Whoever saves what he had opened takes away the rows that came meanwhile, and those of a power cut may not
    have been there. An image is known again by its sha256 or by the time of its answer, among the words of a
    line, and by how often one of them comes.

    Args:
        text: the file as it is, with any separators, quotes, line ends and order of columns.
        header: the first line of ours, which names `image_sha256` and `finished_at`.
        writes: all that was written to it, the header first, in order.

    Returns:
        A position in the file as it was written: the end of the header where only a header is left; None
        where no image can be told.
    """
    columns = cells_of(header)[0]
    digest, time = columns.index("image_sha256"), columns.index("finished_at")
    ends: list[int] = []
    images: list[list[str]] = []
    before = Counter[str]()
    for write in writes:
        ends.append(write.end)
        if write.offset:
            rows = cells_of(write.data)
            images.append([rows[0][digest], rows[0][time]] * len(rows))
            before.update(images[-1])
    keys = {word.encode(): word for words in images for word in words}
    lines = text.splitlines()
    found = Counter[str]()
    for line in lines:
        found.update(keys[word] for word in keys.keys() & set(line.translate(_SEPARATED).split()))
    while images:
        words = images.pop()
        before.subtract(words)
        if any(found[word] > before[word] for word in words[:2]):
            return ends[-1]
        ends.pop()
    return None if len(lines) > 1 else ends[0]


def cells_of(rows: bytes) -> list[list[str]]:
    """The cells of rows of ours, UTF-8."""
    read = csv.reader(io.StringIO(rows.decode("utf-8-sig"), newline=""))
    return [cells for cells in read if cells]  # between CR CR LF, of a file that was adopted, stands nothing
