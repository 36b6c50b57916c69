"""Rows mended or dropped, each with its reason. A table and what is known of its images in, rows out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.cells import cell_class
from training.annotations import COLUMNS, LEUKOCYTE_WITHOUT_CLASS
from training.audit.faults import Action, Change, Fault
from training.audit.tables import Row, Table
from training.errors import AnnotationError

MIN_SIDE_PX = 20.0

_CORNERS = COLUMNS[1:5]
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class KnownImage:
    """What is known of an image that a row names.

    Attributes:
        path: where it is; the same for all rows that name this very file.
        sha256: of its bytes, hexadecimal; empty if they were not read.
        size_wh: pixels of the upright image; None if not known.
        refusal: why it cannot be read; None if it can.
    """

    path: Path
    sha256: str = ""
    size_wh: tuple[int, int] | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class CleanRow:
    """A row that was kept.

    Attributes:
        box_xyxy: pixels of the image, x1 < x2 and y1 < y2.
        label: a class code, or WBC.
    """

    line: int
    name: str
    box_xyxy: XYXY
    label: str
    cells: Mapping[str, str]

    @property
    def text(self) -> str:
        """The cells x1,y1,x2,y2,class."""
        return ",".join([*map(number_text, self.box_xyxy), self.label])


@dataclass(slots=True)
class Cleaned:
    """What became of one table: `rows` and those that `changes` drops are all rows of the table."""

    table: Table
    rows: list[CleanRow]
    changes: list[Change] = field(default_factory=list)

    @property
    def n_dropped(self) -> int:
        """Rows that were dropped: each has one change that says so."""
        return sum(change.action is Action.DROPPED for change in self.changes)


class _Dropped(Exception):
    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


def number_text(value: float) -> str:
    """A coordinate as text: 12 and not 12.0."""
    return str(int(value)) if value == int(value) else repr(value)


def parse(row: Row) -> CleanRow:
    """The row's numbers and class, whatever is wrong with the box.

    Raises:
        ValueError: a cell is blank, no finite number or none of the classes.
    """
    box = tuple(float(row.cells[corner]) for corner in _CORNERS)
    if not all(map(math.isfinite, box)) or not row.name:
        raise ValueError(row.text)
    written = row.cells["class"].strip()
    label = written if written == LEUKOCYTE_WITHOUT_CLASS else cell_class(written).code
    return CleanRow(row.line, row.name, (box[0], box[1], box[2], box[3]), label, row.cells)


def parse_all(table: Table) -> list[CleanRow]:
    """Every row of a file, in which nothing is wrong.

    Raises:
        AnnotationError: a row has no name, a coordinate that is no number, corners the wrong way round, or a
            class that is none.
    """
    rows = []
    for row in table.rows:
        try:
            x1, y1, x2, y2 = (parsed := parse(row)).box_xyxy
            if x1 >= x2 or y1 >= y2:
                raise ValueError("no area")
            rows.append(parsed)
        except ValueError:
            raise AnnotationError(
                f"{table.path} has on line {row.line} {row.name or 'no name'},{row.text}, which is no box of "
                "a known class; clean it with python -m training.audit first."
            ) from None
    return rows


def clean(
    table: Table,
    images: Mapping[str, KnownImage] | None,
    sizes_wh: Mapping[str, tuple[int, int]],
    min_side_px: float = MIN_SIDE_PX,
) -> Cleaned:
    """Look at every row of a table by itself and mend it, drop it or leave it alone.

    Args:
        images: what is known by NAME; a NAME that is absent has no image. None: nobody looked for images.
        sizes_wh: sizes by NAME, for images that nobody looked at.
        min_side_px: a box with a shorter side is dropped as a sliver.
    """
    cleaned = Cleaned(table, [])
    for row in table.rows:
        known = None if images is None else images.get(row.name)
        try:
            if images is not None:
                _check_image(row, known)
            size_wh = known.size_wh if known else sizes_wh.get(row.name)
            mended, changes = _mend(row, size_wh, table.label, min_side_px)
        except _Dropped as drop:
            cleaned.changes.append(change_of(table, row, Action.DROPPED, drop.fault, drop.reason))
            continue
        cleaned.changes += changes
        cleaned.rows.append(mended)
    return cleaned


def _check_image(row: Row, known: KnownImage | None) -> None:
    if row.name and known is None:
        raise _Dropped(Fault.NO_IMAGE, f"no image {row.name} is in the folders")
    if known and known.refusal:
        raise _Dropped(Fault.UNREADABLE, known.refusal)


def _mend(
    row: Row, size_wh: tuple[int, int] | None, label: str, min_side_px: float
) -> tuple[CleanRow, list[Change]]:
    """The row put right, and what had to be done."""
    _check_cells(row)
    given = parse(row)
    now = given
    changes: list[Change] = []

    def mended(fault: Fault, reason: str, box_xyxy: XYXY | None = None) -> None:
        nonlocal now
        before = row.text if not changes else now.text
        now = replace(now, box_xyxy=box_xyxy or now.box_xyxy)
        changes.append(Change(label, row.line, row.name, Action.MENDED, fault, reason, before, now.text))

    if spaced := [column for column in COLUMNS if row.cells[column] != row.cells[column].strip()]:
        mended(Fault.SPACES, f"spaces around {', '.join(spaced)}")
    if row.cells["class"].strip() != given.label:
        mended(Fault.SPELLING, f"{row.cells['class'].strip()} is another spelling of {given.label}")
    x1, y1, x2, y2 = now.box_xyxy
    if x1 == x2 or y1 == y2:
        raise _Dropped(Fault.NO_AREA, f"it is {number_text(abs(x2 - x1))} x {number_text(abs(y2 - y1))} px")
    if x1 > x2 or y1 > y2:
        turned = [f"{axis}1 > {axis}2" for axis, wrong in (("x", x1 > x2), ("y", y1 > y2)) if wrong]
        x1, y1, x2, y2 = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        mended(Fault.TURNED, " and ".join(turned), box_xyxy=(x1, y1, x2, y2))
    inside = _clip((x1, y1, x2, y2), size_wh)
    if inside != now.box_xyxy:
        border = _border(now.box_xyxy, size_wh)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise _Dropped(Fault.OUTSIDE, f"it lies wholly beyond the {border}")
        mended(Fault.BORDER, f"it reached over the {border}", box_xyxy=inside)
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    if min(width, height) < min_side_px:
        size = f"{number_text(width)} x {number_text(height)} px"
        raise _Dropped(
            Fault.SLIVER, f"it is {size}, and a side under {number_text(min_side_px)} px is no cell's"
        )
    return now, changes


def _check_cells(row: Row) -> None:
    if any(cell.strip() for cell in row.surplus):
        raise _Dropped(Fault.CELLS, f"it has {len(row.surplus)} cells more than there are columns")
    if blank := [column for column in COLUMNS if not row.cells[column].strip()]:
        raise _Dropped(Fault.BLANK, f"{', '.join(blank)} is blank")
    for corner in _CORNERS:
        try:
            finite = math.isfinite(float(row.cells[corner]))
        except ValueError:
            finite = False
        if not finite:
            raise _Dropped(Fault.NO_NUMBER, f"{corner} is {row.cells[corner].strip()!r}")
    written = row.cells["class"].strip()
    try:
        _ = written == LEUKOCYTE_WITHOUT_CLASS or cell_class(written)
    except ValueError:
        raise _Dropped(Fault.UNKNOWN_CLASS, f"{written!r} is none of the 23 classes, nor WBC") from None


def _clip(box: XYXY, size_wh: tuple[int, int] | None) -> XYXY:
    """The part inside the image; of an image of unknown size only the left and upper borders are known."""
    right, bottom = size_wh or (math.inf, math.inf)
    x1, y1, x2, y2 = box
    return (max(x1, 0.0), max(y1, 0.0), min(x2, float(right)), min(y2, float(bottom)))


def _border(box: XYXY, size_wh: tuple[int, int] | None) -> str:
    right, bottom = size_wh or (math.inf, math.inf)
    crossed = zip(
        ("left", "upper", "right", "lower"),
        (box[0] < 0, box[1] < 0, box[2] > right, box[3] > bottom),
        strict=True,
    )
    size = f" of {right} x {bottom} px" if size_wh else ""
    return f"{' and '.join(side for side, is_over in crossed if is_over)} border{size}"


def change_of(
    table: Table, row: Row | CleanRow, action: Action, fault: Fault, reason: str, after: str = ""
) -> Change:
    """A line of the log about a row."""
    return Change(table.label, row.line, row.name, action, fault, reason, row.text, after)
