"""Cells that were read wrongly, and pictures of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from edge.geometry import Image, crop, crop_region
from training.annotations import LEUKOCYTE_WITHOUT_CLASS

WRONG_CLASS, MISSED, FALSE_DETECTION = "wrong class", "missed", "false detection"

_COLOURS = {WRONG_CLASS: "tab:orange", MISSED: "tab:red", FALSE_DETECTION: "tab:purple"}
_COLUMNS, _CROP_SIZE, _CROP_MARGIN = 8, 160, 0.4


@dataclass(frozen=True, slots=True)
class Mistake:
    """One cell that was read wrongly.

    Attributes:
        kind: WRONG_CLASS, MISSED or FALSE_DETECTION.
        box_xyxy: the true box, or the predicted one of a false detection; pixels of the image.
        truth: None for a false detection and for a missed cell without a class.
        confidence: probability of the wrong class, or detection score of a false detection.
    """

    kind: str
    image: str
    source: str
    box_xyxy: tuple[float, ...]
    truth: str | None
    predicted: str | None
    confidence: float | None


def draw_mistakes(
    mistakes: Sequence[Mistake], read_image: Callable[[str], Image | None], path: Path, per_kind: int = 24
) -> None:
    """A PNG of the first mistakes of each kind, each cell with its surroundings and its box."""
    groups = [list(islice((one for one in mistakes if one.kind == kind), per_kind)) for kind in _COLOURS]
    rows = [group[at : at + _COLUMNS] for group in groups for at in range(0, len(group), _COLUMNS)]
    figure = Figure(figsize=(1.6 * _COLUMNS, 1.95 * max(len(rows), 1)), layout="constrained")
    grid = figure.subplots(max(len(rows), 1), _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for mistake_row, axes_row in zip(rows, grid, strict=False):
        for mistake, axes in zip(mistake_row, axes_row, strict=False):
            _draw_mistake(mistake, read_image(mistake.image), axes)
    if not rows:
        figure.suptitle("No mistakes")
    figure.savefig(path, dpi=110)


def _draw_mistake(mistake: Mistake, rgb: Image | None, axes: Axes) -> None:
    colour = _COLOURS[mistake.kind]
    if rgb is not None:
        box = np.array(mistake.box_xyxy, np.float32)
        axes.imshow(crop(rgb, box, _CROP_SIZE, margin_fraction=_CROP_MARGIN))
        left, top, right, _ = crop_region(box, 0.0, _CROP_MARGIN, "square")
        scale = _CROP_SIZE / (right - left)
        x1, y1, x2, y2 = (box - np.array([left, top, left, top], np.float32)) * scale
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5))
    truth = mistake.truth or LEUKOCYTE_WITHOUT_CLASS
    title = {
        WRONG_CLASS: f"{truth} → {mistake.predicted} {mistake.confidence or 0:.2f}",
        MISSED: f"{truth}, missed",
        FALSE_DETECTION: f"no cell → {mistake.predicted} {mistake.confidence or 0:.2f}",
    }[mistake.kind]
    axes.set_title(f"{title}\n{mistake.image}", fontsize=7, color=colour, parse_math=False)
