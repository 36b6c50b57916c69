"""A field that is larger than a detector was trained on is read in overlapping windows, each cell once.

Windows overlap by at least the size of the largest cell. The image is parted into their cores, whose borders
run through the middle of the overlaps. So the window in whose core the centre of a cell lies shows all of the
cell, and what a window's border cuts has its centre in the core of the window beyond.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edge.fusion import Detections
from edge.geometry import SAME_CELL_IOU, Boxes, iou_matrix

_SLACK = 1 / 16
"""Of the overlap: how far outside its window's core a box is still taken, so that a cell on the border is not
lost where two windows see its centre a little apart. What is then taken twice overlaps by three quarters."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image.

    Attributes:
        region: left, top, right, bottom in whole pixels of the image.
        core: the same of the part for whose cells it answers; infinite where the image ends.
        slack: how far outside the core a centre may lie, in pixels.
    """

    region: tuple[int, int, int, int]
    core: tuple[float, float, float, float]
    slack: float


def windows_over(size_wh: tuple[int, int], window_px: int, overlap_px: int) -> list[Window]:
    """The fewest windows that cover an image, spread evenly; one of the whole image where that is no larger.

    Args:
        size_wh: the image's width and height in pixels.
        window_px: side of a window; along an axis on which the image is smaller, the image's.
        overlap_px: least overlap of two neighbours, less than `window_px`.
    """
    columns, rows = (_spans(size, window_px, overlap_px) for size in size_wh)
    return [
        Window(
            (column.start, row.start, column.end, row.end),
            (column.core_start, row.core_start, column.core_end, row.core_end),
            overlap_px * _SLACK,
        )
        for row in rows
        for column in columns
    ]


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    core_start: float
    core_end: float


def _spans(size: int, window: int, overlap: int) -> list[_Span]:
    """The windows of one axis."""
    if size <= window:
        return [_Span(0, size, -np.inf, np.inf)]
    steps = -((window - size) // (window - overlap))  # rounded up
    starts = [step * (size - window) // steps for step in range(steps + 1)]
    borders = [(after + before + window) / 2 for before, after in pairwise(starts)]
    return [
        _Span(start, start + window, low, high)
        for start, low, high in zip(starts, [-np.inf, *borders], [*borders, np.inf], strict=True)
    ]


def counted_once(windows: list[Window], found: list[Detections], threshold: float = 0.0) -> Detections:
    """The cells of an image from those of its windows, the highest score first.

    A cell no larger than the overlap is there once if its window finds it, and if no two cells overlap by an
    IoU above 0.5; a larger one may be cut at a border, or be there twice.

    Args:
        windows: as `windows_over` gives them.
        found: in each, in pixels of the window.
        threshold: what scores less changes nothing of what has it.
    """
    kept, inside = zip(*map(_answered, windows, found), strict=True)
    # The window that answers for a cell speaks first: the other one may show it cut.
    every = _joined(list(kept))
    order = np.lexsort((-every.scores, ~np.concatenate(inside), every.scores < threshold))
    every = every.take(order)
    of_window = np.repeat(np.arange(len(kept)), [len(one) for one in kept])[order]
    chosen = np.zeros(len(every), np.bool_)
    for place in range(len(every)):
        others = every.boxes_xyxy[chosen & (of_window != of_window[place])]
        ious = iou_matrix(every.boxes_xyxy[place : place + 1], others)
        chosen[place] = ious.max(initial=0) <= SAME_CELL_IOU
    unique = every.take(chosen)
    return unique.take(np.argsort(-unique.scores, kind="stable"))


def _answered(window: Window, found: Detections) -> tuple[Detections, NDArray[np.bool_]]:
    """What a window keeps, in pixels of the image, and which of it has its centre in the core itself."""
    boxes = found.boxes_xyxy + np.array(window.region[:2] * 2, np.float32)
    found = replace(found, boxes_xyxy=boxes)
    centres = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)
    outside = _beyond(centres, window.core)
    near = outside <= window.slack
    return found.take(near), outside[near] <= 0


def _beyond(centres_xy: Boxes, core: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """How far each centre lies outside along the axis where that is most, float32 [n]; 0 or less inside."""
    start, end = np.array(core, np.float32).reshape(2, 2)
    return np.asarray(np.maximum(start - centres_xy, centres_xy - end).max(1), np.float32)


def _joined(parts: list[Detections]) -> Detections:
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Detections(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
        np.concatenate([part.votes for part in parts]),
    )
