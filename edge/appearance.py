"""What an image looks like, in eleven numbers that cost little and that a person can be told in words.

Colours are optical densities, -log10(I / 255) of each channel, in which stains add up and light does not
matter to their hue (Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution",
Anal Quant Cytol Histol 23, 2001; Macenko et al., "A method for normalizing histology slides for quantitative
analysis", ISBI 2009). Of each colour there are three numbers, whatever stain and light it comes from:
    density   mean of the three channels
    blue      red minus blue: what takes more red than blue out of the light looks blue
    pink      green minus the mean of red and blue: what takes green out of it looks pink
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.cells import Finding

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number of an image.

    Attributes:
        less, more: what an image is called that has less or more of it than others.
    """

    name: str
    less: str
    more: str


STATISTICS: tuple[Statistic, ...] = (
    Statistic("background density", "background brighter", "background darker"),
    Statistic("background blue", "background yellower", "background bluer"),
    Statistic("background pink", "background greener", "background pinker"),
    Statistic("stain density", "stained weaker", "stained stronger"),
    Statistic("stain blue", "stained redder", "stained bluer"),
    Statistic("stain pink", "stained greener", "stained pinker"),
    Statistic("sharpness", "blurred", "sharper or noisier"),
    Statistic("nucleus density", "nuclei paler", "nuclei darker"),
    Statistic("nucleus blue", "nuclei redder", "nuclei bluer"),
    Statistic("nucleus pink", "nuclei greener", "nuclei pinker"),
    Statistic("cell size", "cells smaller", "cells larger"),
)
"""In the order of the numbers that `appearance_of` gives."""

NAMES = tuple(statistic.name for statistic in STATISTICS)
WITHOUT_CELLS = 7
"""So many, the first, do not need a cell."""

_LEVELS = np.arange(256)
_DENSITY = -np.log10(np.maximum(_LEVELS, 1) / 255)
_PIXELS = 6000
"""About so many stand for the whole image, in a grid, and so many in whole rows for its sharpness."""
_BACKGROUND = 0.9
"""The background is as bright as this part of the pixels at most, in each channel."""
_LEAST_SIDE_PX = 16
_MOST_CELLS = 8
_CELL_GRID = 24
_INNER = 0.8
"""Of a box's sides: its corners show what lies around the cell."""
_NUCLEUS = 0.4
"""The nucleus is as dark in green, which Romanowsky's stains take out most, as this part of the inner box."""
_NEAR_PX, _FAR_PX = 1, 4


def appearance_of(rgb: Image, findings: Sequence[Finding]) -> Floats | None:
    """The numbers of one image.

    The background is the brightest tenth's darkest level, the stain what the mean pixel has beyond it, the
    nucleus what the darkest two fifths of the cells' boxes have beyond it. Sharpness is log(d1 / d4): d1 and
    d4 are mean differences of green between pixels 1 and 4 apart in a row, so that contrast cancels. Cell
    size is log(sqrt(area)) of the median box.

    Args:
        rgb: uint8 [H, W, 3].
        findings: of that image, boxes in its pixels; the first eight, the surest, are looked at.

    Returns:
        float64, in the order of `STATISTICS`: all of them, or without findings the first `WITHOUT_CELLS`;
        None of an image with a side under 16 px.
    """
    height, width = rgb.shape[:2]
    if min(height, width) < _LEAST_SIDE_PX:
        return None
    step = max(1, round((height * width / _PIXELS) ** 0.5))
    sample = rgb[step // 2 :: step, step // 2 :: step]
    counts = [np.bincount(sample[..., channel].ravel(), minlength=256) for channel in range(3)]
    background = _DENSITY[[int(np.searchsorted(np.cumsum(c), _BACKGROUND * c.sum())) for c in counts]]
    mean = np.array([c @ _DENSITY / c.sum() for c in counts])
    of_image = (*_axes(background), *_axes(mean - background), _sharpness(rgb))
    if not findings:
        return np.array(of_image)
    boxes = [finding.box_xyxy for finding in findings[:_MOST_CELLS]]
    size = np.median([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]) ** 0.5
    nucleus = _axes(_nucleus(rgb, boxes) - background)
    return np.array((*of_image, *nucleus, np.log(max(float(size), 1.0))))


def _axes(density: Floats) -> tuple[float, float, float]:
    red, green, blue = map(float, density)
    return (red + green + blue) / 3, red - blue, green - (red + blue) / 2


def _sharpness(rgb: Image) -> float:
    height, width = rgb.shape[:2]
    step = max(1, height * width // _PIXELS)
    rows = rgb[step // 2 :: step, :, 1] if step < height else rgb[height // 2 : height // 2 + 1, :, 1]
    green = rows.astype(np.float32)
    near, far = (float(np.abs(green[:, apart:] - green[:, :-apart]).mean()) for apart in (_NEAR_PX, _FAR_PX))
    return float(np.log((near + 0.05) / (far + 0.05)))  # no difference at all is no sharpness


def _nucleus(rgb: Image, boxes: Sequence[tuple[float, float, float, float]]) -> Floats:
    """Mean optical density of the darkest pixels of the boxes, [3]."""
    height, width = rgb.shape[:2]
    parts = []
    for x1, y1, x2, y2 in boxes:
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        half_x, half_y = (x2 - x1) * _INNER / 2, (y2 - y1) * _INNER / 2
        left = min(max(int(x - half_x), 0), width - 1)
        top = min(max(int(y - half_y), 0), height - 1)
        right, bottom = max(int(x + half_x), left + 1), max(int(y + half_y), top + 1)
        step = max(1, int(max(right - left, bottom - top) / _CELL_GRID))
        parts.append(rgb[top:bottom:step, left:right:step].reshape(-1, 3))
    pixels = np.concatenate(parts)
    green = pixels[:, 1]
    count = max(1, int(_NUCLEUS * len(green)))
    dark = pixels[green <= np.partition(green, count - 1)[count - 1]]
    mean: Floats = _DENSITY[dark].mean(axis=0)
    return mean
