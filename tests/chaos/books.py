"""The books of a station, seen from outside: CSV files and journal, compared with what was dropped."""

import csv
import io
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from edge.journal_file import JOURNAL_NAME
from edge.results import IMAGE_COLUMNS, RESULT_COLUMNS
from tests.chaos.camera import FINDING_COLUMNS, Dropped

Row = dict[str, str]

_COLUMNS = {"results": RESULT_COLUMNS, "images": IMAGE_COLUMNS}
_KILLED = "the station ended while it read the image (3 times)"


def parts(out: Path, output: str) -> list[Path]:
    """The files of an output: `images.csv`, and `images.2.csv` and so on if there are any."""
    further = [path for path in out.glob(f"{output}.*.csv") if path.suffixes[0][1:].isdecimal()]
    return [out / f"{output}.csv", *sorted(further, key=lambda path: int(path.suffixes[0][1:]))]


def rows(out: Path, output: str) -> list[Row]:
    """All rows; fails at a torn line, a line of a wrong width or a wrong header."""
    found = []
    for path in parts(out, output):
        data = path.read_bytes()
        assert data.endswith(b"\n"), f"{path.name} ends in the middle of a line: {data[-80:]!r}"
        header, *lines = csv.reader(io.StringIO(data.decode("utf-8"), newline=""))
        assert tuple(header) == _COLUMNS[output], f"{path.name} begins with {header}"
        torn = [line for line in lines if len(line) != len(header)]
        assert not torn, f"{path.name} has torn lines: {torn[:3]}"
        found += [dict(zip(header, line, strict=True)) for line in lines]
    return found


class Answers:
    """Follows `images.csv` while the station writes it: which images have their answer.

    Attributes:
        keys: name, sample and sha256 of each.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._read: dict[Path, int] = {}
        self.keys: set[tuple[str, str, str]] = set()

    def look(self) -> set[tuple[str, str, str]]:
        """All keys so far."""
        for path in parts(self._out, "images"):
            at = self._read.get(path, 0)
            try:
                with path.open("rb") as file:
                    file.seek(at)
                    new = file.read()
            except FileNotFoundError:
                continue
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = at + len(whole)
            lines = whole.decode("utf-8").splitlines()
            for row in csv.DictReader(lines, IMAGE_COLUMNS):
                if row["NAME"] != "NAME":  # the header
                    self.keys.add((row["NAME"], row["sample"], row["image_sha256"]))
        return self.keys

    def has(self, dropped: Iterable[Dropped]) -> bool:
        """Whether all these have their answer."""
        keys = self.look()
        return all(key(image) in keys for image in dropped)


def key(image: Dropped) -> tuple[str, str, str]:
    """As `Answers.keys` has it."""
    return image.name, image.sample, image.sha256


def compare(
    out: Path, state: Path, dropped: list[Dropped], partial: Iterable[str] = (), ignored: str = "\0"
) -> dict[str, int | list[str]]:
    """Hold CSV files, journal and truth against each other, after the station has ended.

    Args:
        state: the folder of the journal.
        partial: sha256 of pieces of files, which may have been rejected once each before the whole was read.
        ignored: how names begin whose rows are not compared with the truth.

    Returns:
        Figures on what was compared.
    """
    images, findings = (
        [row for row in rows(out, output) if not row["NAME"].startswith(ignored)]
        for output in ("images", "results")
    )
    expected = {key(image): image for image in dropped}
    assert len(expected) == len(dropped)
    seen = Counter((row["NAME"], row["sample"], row["image_sha256"]) for row in images)
    pieces = set(partial)
    twice = [found for found, count in seen.items() if count > 1 and found[2] not in pieces]
    assert twice == [], "images with more than one row"
    assert [name for name in expected if name not in seen] == [], "images without a row"
    killed = 0
    by_key: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    places: dict[tuple[str, str, str], list[int]] = {}
    for place, row in enumerate(findings):
        found = (row["NAME"], row["sample"], row["image_sha256"])
        by_key.setdefault(found, []).append(tuple(row[column] for column in FINDING_COLUMNS))
        places.setdefault(found, []).append(place)
    apart = [found for found, at in places.items() if at[-1] - at[0] != len(at) - 1]
    assert apart == [], "images whose rows do not stand together"
    pieces_read = 0
    for row in images:
        found = (row["NAME"], row["sample"], row["image_sha256"])
        got = by_key.pop(found, [])
        assert int(row["leukocytes"]) == len(got), f"{row} says otherwise than its {len(got)} result rows"
        if found not in expected:
            assert row["image_sha256"] in pieces, f"nobody dropped what {row} tells of"
            assert row["status"] in ("rejected", "duplicate"), row
            pieces_read += 1
        elif row["status"] == "failed" and row["reason"] == _KILLED:
            killed += 1
        else:
            assert row["status"] == ("done" if expected[found].findings else "empty"), row
            assert Counter(got) == Counter(expected[found].findings), f"{row} has other findings"
    assert by_key == {}, "result rows of images without a row"
    pending = _hold_against_journal(out, state)
    assert pending == 0, f"{pending} images are pending in the journal"
    return {
        "images": len(dropped),
        "leukocytes": len(findings),
        "pieces_rejected": pieces_read,
        "given_up_after_three_kills": killed,
        "cut_files": [f"{path.name}: {path.stat().st_size} bytes" for path in sorted(out.glob("*.cut"))],
        "further_parts": [path.name for name in _COLUMNS for path in parts(out, name)[1:]],
    }


def committed_end(state: Path, file: str) -> int:
    """Where a CSV file ends by the journal of a station that was killed, which a copy of it tells."""
    with tempfile.TemporaryDirectory() as folder:
        for path in state.glob(f"{JOURNAL_NAME}*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder) / JOURNAL_NAME)) as db:
            query = "SELECT max(offset + length(data)) FROM writes WHERE file = ?"
            (end,) = db.execute(query, (file,)).fetchone()
    return end or 0


def _hold_against_journal(out: Path, state: Path) -> int:
    """Each CSV file is byte for byte what the journal says; how many images are pending in it."""
    with closing(sqlite3.connect(f"file:{state / JOURNAL_NAME}?mode=ro", uri=True)) as db:
        written: dict[str, bytearray] = {}
        for name, offset, data in db.execute("SELECT file, offset, data FROM writes ORDER BY file, offset"):
            before = written.setdefault(name, bytearray())
            assert offset == len(before), f"the writes of {name} leave a gap or overlap at {offset}"
            before += data
        (pending,) = db.execute("SELECT count(*) FROM images WHERE state = 'pending'").fetchone()
        twice = db.execute(
            "SELECT image_id, output, count(*) FROM writes WHERE image_id IS NOT NULL "
            "GROUP BY 1, 2 HAVING count(*) > 1"
        ).fetchall()
    assert twice == [], "images with two writes to one output"
    assert {path.name for output in _COLUMNS for path in parts(out, output)} == set(written)
    for name, data in written.items():
        assert (out / name).read_bytes() == data, f"{name} is not what the journal says"
    return int(pending)
