"""What the report of an audit tells, drawn together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from edge.names import as_text
from training.audit.cleaning import XYXY, Cleaned
from training.audit.faults import Change, Fault
from training.audit.figures import Figures, figures_of
from training.audit.pictures import GIVEN_RGB, KEPT_RGB, Marked, picture
from training.audit.run import Audit, given_rows
from training.provenance import Provenance, source_of


@dataclass(frozen=True, slots=True)
class Example:
    """One case of a fault: pictures as data URIs (none where no image can be shown) and what is wrong."""

    pictures: tuple[str, ...]
    change: Change


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the report tells.

    Attributes:
        given, kept: of the rows that could be read, and of the rows that stayed.
        sizes_wh: of the image of each kept row, in the order of the tables; None where it is not known.
        sources: the source of the image of each kept row, in the same order.
        unknown: what could not be looked at, in sentences.
    """

    tables: Sequence[Cleaned]
    changes: Sequence[Change]
    given: Figures
    kept: Figures
    sizes_wh: Sequence[tuple[int, int] | None]
    sources: Sequence[str]
    n_images_read: int
    unknown: Sequence[str]


def findings_of(
    found: Audit,
    provenance: Mapping[Path, Provenance],
    sizes_wh: Mapping[Path, Mapping[str, tuple[int, int]]],
) -> Findings:
    """Draw the numbers of an audit together."""
    sizes, sources = [], []
    for one in found.tables:
        paths = found.paths.get(one.table.path, {})
        for row in one.rows:
            at = paths.get(row.name)
            written = sizes_wh.get(one.table.path, {}).get(row.name)
            sizes.append(found.images[at].size_wh if at else written)
            told = provenance.get(one.table.path, {}).get(row.name, {})
            sources.append(source_of(at, row.name, told))
    return Findings(
        tables=found.tables,
        changes=found.changes,
        given=figures_of(given_rows([one.table for one in found.tables])),
        kept=figures_of([(one.table.label, row) for one in found.tables for row in one.rows]),
        sizes_wh=sizes,
        sources=sources,
        n_images_read=len(found.images),
        unknown=_unknown(found, sizes),
    )


def _unknown(found: Audit, sizes_wh: Sequence[tuple[int, int] | None]) -> list[str]:
    sentences = []
    if blind := [one.table.label for one in found.tables if not one.table.folders]:
        sentences.append(
            f"No images of {', '.join(blind)} were looked at: whether they are there, whole and distinct "
            "is not known."
        )
    if missing := sum(size is None for size in sizes_wh):
        sentences.append(
            f"Of {missing:,} rows the size of the image is not known: boxes over its left and upper border "
            "(negative coordinates) were found, those over the right and lower one cannot be."
        )
    return sentences


def example_of(found: Audit, change: Change) -> Example:
    """One case with its pictures: the image with the box as given and as kept, or both images of a pair."""
    if change in found.pairs:
        shown = [picture(path, []) for path in found.pairs[change]]
        return Example(tuple(uri for uri in shown if uri), change)
    path = _path_of(found, change)
    marks = []
    for text, colour in ((change.before, GIVEN_RGB), (change.after, KEPT_RGB)):
        box = _box(text)
        if box is not None:
            marks.append(Marked(box, colour))
    uri = picture(path, marks) if path else None
    return Example((uri,) if uri else (), change)


def _path_of(found: Audit, change: Change) -> Path | None:
    if change.fault is Fault.NO_ROWS:
        ends = (change.file, *PurePath(change.name).parts)
        parts = -len(ends)
        return next((path for path in found.images if (*map(as_text, path.parts[parts:]),) == ends), None)
    for one in found.tables:
        if one.table.label == change.file:
            return found.paths.get(one.table.path, {}).get(change.name)
    return None


def _box(text: str) -> XYXY | None:
    try:
        x1, y1, x2, y2 = map(float, text.split(",")[:4])
    except ValueError:
        return None
    return (x1, y1, x2, y2) if all(abs(corner) < 1e6 for corner in (x1, y1, x2, y2)) else None
