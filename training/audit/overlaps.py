"""Rows held against each other: boxes of one cell, copies of one image, images that lost boxes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge.geometry import iou_matrix
from training.annotations import LEUKOCYTE_WITHOUT_CLASS
from training.audit.cleaning import XYXY, Cleaned, CleanRow, KnownImage, change_of, number_text
from training.audit.faults import Action, Change, Fault

SAME_BOX_IOU = 0.9
"""Overlap from which two boxes in one image are taken for the same cell, boxed twice."""

_NO_LOSS = frozenset({Fault.REPEATED, Fault.DOUBLED, Fault.CONTRADICTION, Fault.COPY})
"""Faults whose dropped box leaves its cell boxed by another row, or its image without rows."""


def settle_overlaps(cleaned: Cleaned) -> None:
    """Of the rows that box the same cell keep the first; without a class if they do not agree on it."""
    by_image: dict[str, list[CleanRow]] = defaultdict(list)
    for row in cleaned.rows:
        by_image[row.name].append(row)
    settled: dict[int, CleanRow] = {}
    for rows in by_image.values():
        for same in _same_cells(rows):
            kept = _settle(same, cleaned)
            settled[kept.line] = kept
    cleaned.rows = [settled[row.line] for row in cleaned.rows if row.line in settled]


def _same_cells(rows: Sequence[CleanRow]) -> Iterator[list[CleanRow]]:
    if len(rows) == 1:
        yield [*rows]
        return
    boxes = np.array([row.box_xyxy for row in rows], np.float32)
    same = iou_matrix(boxes, boxes) >= SAME_BOX_IOU
    left = dict(enumerate(rows))
    for first in range(len(rows)):
        if first in left:
            yield [left.pop(other) for other in np.flatnonzero(same[first]).tolist() if other in left]


def _settle(same: Sequence[CleanRow], cleaned: Cleaned) -> CleanRow:
    first, *others = same
    named = list(dict.fromkeys(row.label for row in same if row.label != LEUKOCYTE_WITHOUT_CLASS))
    contradiction = len(named) > 1
    label = LEUKOCYTE_WITHOUT_CLASS if contradiction else (named or [first.label])[0]
    kept = replace(first, label=label)
    said = f"lines {', '.join(str(row.line) for row in same)} name one box {', '.join(named)}"
    if kept != first:
        fault = Fault.CONTRADICTION if contradiction else Fault.DOUBLED
        reason = said if contradiction else f"line {others[0].line} knows the class of this box"
        cleaned.changes.append(change_of(cleaned.table, first, Action.MENDED, fault, reason, kept.text))
    for row in others:
        if contradiction:
            fault, reason = Fault.CONTRADICTION, said
        elif (row.box_xyxy, row.label) == (first.box_xyxy, first.label):
            fault, reason = Fault.REPEATED, f"line {first.line} says the same"
        else:
            fault, reason = Fault.DOUBLED, f"line {first.line} boxes the same cell"
        cleaned.changes.append(change_of(cleaned.table, row, Action.DROPPED, fault, reason))
    return kept


def drop_copies(tables: Sequence[Cleaned], images: Mapping[Path, Mapping[str, KnownImage]]) -> None:
    """Drop the rows of images whose bytes an earlier image has, and tell where the two disagree.

    An image is the first of its bytes only if a row of it was kept.

    Args:
        tables: are changed.
        images: what is known by NAME, by path of the table; a table that is absent has no images.
    """
    boxes: dict[Path, dict[tuple[XYXY, str], None]] = defaultdict(dict)
    first_of: dict[str, tuple[Path, str]] = {}
    for _, row, image in _rows_with_images(tables, images):
        boxes[image.path][row.box_xyxy, row.label] = None
        first_of.setdefault(image.sha256, (image.path, row.name))
    copies: dict[tuple[Path, int], Change] = {}
    disagreeing: dict[Path, Change] = {}
    for cleaned, row, image in _rows_with_images(tables, images):
        path, name = first_of[image.sha256]
        if path == image.path:
            continue
        reason = f"the bytes are those of {name}"
        copies[cleaned.table.path, row.line] = change_of(
            cleaned.table, row, Action.DROPPED, Fault.COPY, reason
        )
        if boxes[path].keys() != boxes[image.path].keys() and image.path not in disagreeing:
            reason = f"{name} has {_listed(boxes[path])}, and this one {_listed(boxes[image.path])}"
            told = change_of(cleaned.table, row, Action.KEPT, Fault.COPIES_DISAGREE, reason)
            disagreeing[image.path] = told
            cleaned.changes.append(replace(told, line=None))
    for cleaned in tables:
        path = cleaned.table.path
        cleaned.changes += [copies[path, row.line] for row in cleaned.rows if (path, row.line) in copies]
        cleaned.rows = [row for row in cleaned.rows if (path, row.line) not in copies]


def _rows_with_images(
    tables: Sequence[Cleaned], images: Mapping[Path, Mapping[str, KnownImage]]
) -> Iterator[tuple[Cleaned, CleanRow, KnownImage]]:
    for cleaned in tables:
        known = images.get(cleaned.table.path, {})
        for row in cleaned.rows:
            if row.name in known:
                yield cleaned, row, known[row.name]


def _listed(boxes: Mapping[tuple[XYXY, str], None]) -> str:
    return "; ".join(f"{','.join(map(number_text, box))},{label}" for box, label in boxes)


def tell_lost_boxes(cleaned: Cleaned) -> None:
    """Name the images of which some boxes were dropped and others kept."""
    lost: dict[str, list[Change]] = defaultdict(list)
    for change in cleaned.changes:
        if change.action is Action.DROPPED and change.fault not in _NO_LOSS:
            lost[change.name].append(change)
    kept: dict[str, int] = defaultdict(int)
    for row in cleaned.rows:
        kept[row.name] += 1
    for name, drops in lost.items():
        if kept[name]:
            lines = ", ".join(f"{change.line} ({change.fault})" for change in drops)
            reason = f"dropped were the lines {lines}, kept {kept[name]} others"
            cleaned.changes.append(
                Change(cleaned.table.label, None, name, Action.KEPT, Fault.LOST_SOME, reason, drops[0].before)
            )
