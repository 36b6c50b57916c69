"""Draws blood smears with exact truth: what the demo shows where no real images are, and part
of what its model learnt.

These are drawings. They resemble smears enough to exercise a detector and a classifier, and say nothing of
any patient or of how a model does on real blood.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.demo.drawing import FloatImage, Slide, blurred, photograph, prepare_slide, red_cell, stamp
from edge.demo.leukocytes import DRAWN_CLASSES, RECIPES, draw_leukocyte


@dataclass(frozen=True, slots=True)
class DrawnSmear:
    """A drawn smear image and its truth.

    Attributes:
        rgb: uint8 [H,W,3] RGB.
        boxes_xyxy: float32 [n,4], tight around each leukocyte's visible outline; pixels, inside the image.
        labels: n class codes, one a box.
    """

    rgb: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: tuple[str, ...]


def _scatter_red_cells(
    rng: np.random.Generator, density: FloatImage, slide: Slide, taken_xyr: NDArray[np.float64]
) -> None:
    """Fill a density map with red cells and platelets that stay off the circles `taken_xyr` [n,3]."""
    height, width = density.shape[:2]
    radius_px = slide.px_per_um * rng.uniform(3.3, 3.9)
    pallor, unevenness = rng.uniform(0.25, 1.0), rng.uniform(0.03, 0.12)
    wanted = int(rng.uniform(0.35, 0.9) * width * height / (np.pi * radius_px**2)) + 1
    clumping, young = rng.uniform(0.05, 0.5), rng.uniform(0.0, 0.025)
    placed = np.full((wanted, 3), -1e6)
    count = 0
    for _ in range(4 * wanted):
        if count == wanted:
            break
        x, y = rng.uniform(-radius_px, width + radius_px), rng.uniform(-radius_px, height + radius_px)
        radius = radius_px * max(0.6, rng.normal(1.0, unevenness))
        near = rng.uniform(0.45, 0.85) if rng.random() < clumping else rng.uniform(0.92, 1.1)
        if (
            np.hypot(placed[:count, 0] - x, placed[:count, 1] - y) < near * (placed[:count, 2] + radius)
        ).any():
            continue
        if (
            np.hypot(taken_xyr[:, 0] - x, taken_xyr[:, 1] - y)
            < rng.uniform(0.88, 1.05) * (taken_xyr[:, 2] + radius)
        ).any():
            continue
        placed[count] = x, y, radius
        count += 1
        cell = red_cell(rng, radius, pallor, (x % 1 - 0.5, y % 1 - 0.5))
        dye = slide.haemoglobin
        if rng.random() < young:
            # A young red cell still has some of the blue of its precursors.
            dye = dye * np.float32(0.7) + slide.blue * np.float32(0.5)
        corner = (int(x - cell.shape[1] / 2), int(y - cell.shape[0] / 2))
        stamp(density, cell[..., None] * dye, np.minimum(cell, 1) * np.float32(0.4), corner)
    for _ in range(int(rng.poisson(rng.uniform(0.02, 0.1) * wanted))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = slide.px_per_um * rng.uniform(0.9, 1.7)
        if not (np.hypot(taken_xyr[:, 0] - x, taken_xyr[:, 1] - y) < taken_xyr[:, 2] + 2 * radius).any():
            draw_leukocyte(rng, density, slide, "Thromb", (x, y), radius)


def _draw(
    rng: np.random.Generator,
    slide: Slide,
    labels: tuple[str, ...],
    size_wh: tuple[int, int],
    in_the_middle: bool,
) -> DrawnSmear:
    width, height = size_wh
    radii = [slide.px_per_um * rng.uniform(*RECIPES[label].diameter_um) / 2 for label in labels]
    places = np.zeros((0, 3))
    for radius in radii:
        place = _middle(rng, size_wh) if in_the_middle else _free_place(rng, places, radius, size_wh)
        places = np.vstack([places, [*place, radius]])
    density = np.zeros((height, width, 3), np.float32)
    _scatter_red_cells(rng, density, slide, places)
    if rng.random() < 0.3:
        # The focus is on the leukocytes, which stand higher than the red cells.
        density = blurred(density, rng.uniform(0.5, 2.5))
    boxes = [
        draw_leukocyte(rng, density, slide, label, (x, y), radius)
        for label, (x, y, radius) in zip(labels, places.tolist(), strict=True)
    ]
    return DrawnSmear(
        photograph(rng, density, slide.lamp), np.array(boxes, np.float32).reshape(-1, 4), labels
    )


def _middle(rng: np.random.Generator, size_wh: tuple[int, int]) -> tuple[float, float]:
    x, y = np.clip(rng.normal(0.5, 0.02, 2), 0.4, 0.6) * size_wh
    return float(x), float(y)


def _free_place(
    rng: np.random.Generator, taken_xyr: NDArray[np.float64], radius_px: float, size_wh: tuple[int, int]
) -> tuple[float, float]:
    """A centre for a circle that touches no taken one, or the freest that was tried in a crowded field."""
    tried = rng.uniform(0, 1, (60, 2)) * size_wh
    margin = np.minimum(0.5 * radius_px, np.array(size_wh) / 2)
    inner = np.clip(tried, margin, size_wh - margin)
    gaps = np.full(len(inner), np.inf)
    for x, y, radius in taken_xyr.tolist():
        gaps = np.minimum(gaps, np.hypot(inner[:, 0] - x, inner[:, 1] - y) - 1.15 * (radius + radius_px))
    best = int(np.argmax(gaps >= 0)) if (gaps >= 0).any() else int(np.argmax(gaps))
    return float(inner[best, 0]), float(inner[best, 1])


def draw_tile(seed: int, label: str | None = None, size_wh: tuple[int, int] = (360, 363)) -> DrawnSmear:
    """A tile with one leukocyte near its middle, as a morphology analyser cuts them out.

    Args:
        seed: the same seed, label and size give the same pixels.
        label: one of `DRAWN_CLASSES`; None draws one of them.
        size_wh: width and height in pixels; the size of the cell does not follow it.

    Raises:
        ValueError: a label that cannot be drawn.
    """
    if label is not None and label not in RECIPES:
        raise ValueError(f"{label!r} cannot be drawn; use one of {', '.join(DRAWN_CLASSES)}.")
    rng = np.random.default_rng(seed)
    drawn = DRAWN_CLASSES[int(rng.integers(len(DRAWN_CLASSES)))]
    slide = prepare_slide(rng, px_per_um=rng.uniform(9.0, 11.4))
    return _draw(rng, slide, (label or drawn,), size_wh, in_the_middle=True)


def draw_field(seed: int, cells: int = 20, size_wh: tuple[int, int] = (2592, 1944)) -> DrawnSmear:
    """A camera's field with many leukocytes, some cut by its edge, in about the proportions of a busy smear.

    Args:
        seed: the same seed, count and size give the same pixels.
        cells: how many leukocytes; 0 gives red cells and platelets only.
        size_wh: width and height in pixels; the size of the cells does not follow it.

    Raises:
        ValueError: a negative count.
    """
    if cells < 0:
        raise ValueError(f"A field cannot hold {cells} leukocytes; ask for 0 or more.")
    rng = np.random.default_rng(seed)
    slide = prepare_slide(rng, px_per_um=rng.uniform(7.4, 10.0))
    shares = np.array([recipe.field_share for recipe in RECIPES.values()])
    picks = rng.choice(len(DRAWN_CLASSES), cells, p=shares / shares.sum())
    return _draw(rng, slide, tuple(DRAWN_CLASSES[pick] for pick in picks), size_wh, in_the_middle=False)
