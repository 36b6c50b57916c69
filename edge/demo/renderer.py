"""Draws blood smears with exact truth: what the demo shows where no real images are, and part
of what its model learnt.

These are drawings. They resemble smears enough to exercise a detector and a classifier, and say nothing of
any patient or of how a model does on real blood.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.demo.drawing import (
    FloatImage,
    Range,
    Slide,
    as_float,
    blurred,
    chain,
    granules,
    inside,
    photograph,
    prepare_slide,
    ragged_radii,
    red_cell,
    relative_radius,
    smooth_noise,
    stamp,
)


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


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What one class of leukocyte looks like; pairs are the range a cell is drawn from.

    Lengths without a unit are in cell radii, concentrations 1 where the substance has its stain's colour.
    The nucleus is a chain of beads along an arc (see `drawing.chain`).
    """

    field_share: float
    diameter_um: Range
    raggedness: float = 0.03
    elongation: Range = (1.0, 1.15)
    beads: tuple[int, int] = (1, 1)
    bead_radius: Range = (0.5, 0.6)
    arc_radius: Range = (0.0, 0.0)
    arc_sweep: Range = (0.0, 0.0)
    join: Range = (1.0, 1.0)
    eccentricity: Range = (0.0, 0.0)
    bumpiness: float = 0.12
    darkness: Range = (0.92, 1.12)
    clumping: float = 0.2
    nucleoli: int = 0
    blue: Range = (0.0, 0.0)
    pink: Range = (0.0, 0.0)
    eosin: Range = (0.0, 0.0)
    blue_rim: float = 0.1
    dust: float = 0.0
    """Concentration of fine purple granulation in the cytoplasm."""
    grains: tuple[int, int] = (0, 0)
    grain_um: Range = (0.15, 0.3)
    grains_on_nucleus: float = 0.0
    orange_grains: int = 0
    vacuoles: tuple[int, int] = (0, 0)


# fmt: off
_RECIPES = {
    "PNN": _Recipe(
        0.36, (13.0, 15.5), beads=(3, 5), bead_radius=(0.24, 0.32), arc_radius=(0.38, 0.5),
        arc_sweep=(2.6, 4.7), join=(0.15, 0.9), eccentricity=(0, 0.14), clumping=0.27, pink=(0.7, 1.2),
        blue=(0.0, 0.25), dust=0.22, grains=(0, 25), grain_um=(0.1, 0.18)),
    "EO": _Recipe(
        0.08, (13.0, 15.5), beads=(2, 3), bead_radius=(0.31, 0.4), arc_radius=(0.42, 0.5),
        arc_sweep=(1.9, 3.0), join=(0.05, 0.35), eccentricity=(0.08, 0.26), clumping=0.3,
        darkness=(0.78, 1.0), pink=(0.1, 0.4), eosin=(0.3, 0.5), orange_grains=520),
    "BA": _Recipe(
        0.05, (11.5, 14.5), 0.04, (1.0, 1.35), beads=(2, 4), bead_radius=(0.44, 0.56),
        arc_radius=(0.28, 0.4), arc_sweep=(2.0, 4.0), join=(0.6, 0.95), bumpiness=0.3, darkness=(0.8, 1.1),
        clumping=0.36, pink=(0.6, 1.2), blue=(0.1, 0.5), dust=0.5, grains=(180, 420), grain_um=(0.16, 0.36),
        grains_on_nucleus=0.75),
    "LY": _Recipe(
        0.22, (9.5, 12.0), bead_radius=(0.82, 0.94), eccentricity=(0, 0.09), clumping=0.27,
        darkness=(0.88, 1.15), blue=(0.6, 1.15), blue_rim=0.4),
    "MO": _Recipe(
        0.09, (14.5, 19.0), 0.07, (1.0, 1.35), beads=(3, 5), bead_radius=(0.38, 0.48),
        arc_radius=(0.28, 0.44), arc_sweep=(1.6, 3.0), join=(0.75, 1.0), eccentricity=(0, 0.2),
        bumpiness=0.28, darkness=(0.75, 1.0), clumping=0.34, blue=(0.55, 1.0), pink=(0.0, 0.35), dust=0.15,
        vacuoles=(0, 22)),
    "Er": _Recipe(
        0.04, (9.5, 12.0), 0.035, (1.0, 1.3), bead_radius=(0.5, 0.64), eccentricity=(0.05, 0.36),
        bumpiness=0.06, darkness=(1.15, 1.4), clumping=0.3, blue=(0.4, 1.2), pink=(0.3, 0.7),
        blue_rim=0.15),
    "M": _Recipe(
        0.04, (12.5, 15.5), beads=(2, 2), bead_radius=(0.55, 0.7), arc_radius=(0.14, 0.22),
        arc_sweep=(1.2, 2.2), eccentricity=(0.18, 0.34), clumping=0.31, bumpiness=0.16, pink=(0.6, 1.1),
        blue=(0.2, 0.55), dust=0.55, grains=(20, 110), grain_um=(0.1, 0.22), grains_on_nucleus=0.2),
    "MM": _Recipe(
        0.04, (12.5, 15.0), beads=(5, 5), bead_radius=(0.35, 0.45), arc_radius=(0.44, 0.54),
        arc_sweep=(1.7, 2.6), eccentricity=(0.12, 0.3), clumping=0.29, bumpiness=0.15, pink=(0.6, 1.1),
        blue=(0.15, 0.45), dust=0.45, grains=(5, 60), grain_um=(0.1, 0.2)),
    "PM": _Recipe(
        0.04, (14.0, 18.5), 0.025, (1.0, 1.2), bead_radius=(0.7, 0.88), eccentricity=(0.08, 0.22),
        clumping=0.22, darkness=(0.68, 0.92), nucleoli=3, blue=(0.6, 1.1), pink=(0.2, 0.6), blue_rim=0.3,
        dust=0.9, grains=(180, 420), grain_um=(0.12, 0.26), grains_on_nucleus=0.6),
    "Thromb": _Recipe(
        0.04, (7.5, 10.0), 0.08, (1.0, 1.4), beads=(0, 0), blue=(0.3, 0.75), pink=(0.1, 0.5), dust=1.0,
        grains=(60, 170), grain_um=(0.13, 0.28)),
}
# fmt: on
DRAWN_CLASSES: tuple[str, ...] = tuple(_RECIPES)
"""The codes of the classes that can be drawn, in the order of the demo model's classes."""


def _nucleus(rng: np.random.Generator, recipe: _Recipe, radius_px: float, size: int) -> FloatImage:
    """The mask of a nucleus, float32 [size,size], for a cell of `radius_px` in the middle of the patch."""
    count = int(rng.integers(recipe.beads[0], recipe.beads[1] + 1))
    if count == 0:
        return np.zeros((size, size), np.float32)
    along = np.linspace(-0.5, 0.5, count) * rng.uniform(*recipe.arc_sweep) if count > 1 else np.zeros(1)
    arc = rng.uniform(*recipe.arc_radius)
    at = np.stack([np.cos(along), np.sin(along)], axis=1) * arc
    if count > 1:
        at += rng.normal(0, 0.05, at.shape)
    # An arc's beads lie on one side of its centre; the cell holds them around its middle, off it as asked.
    drift = rng.uniform(0, 2 * np.pi)
    at += np.array([np.cos(drift), np.sin(drift)]) * rng.uniform(*recipe.eccentricity) - 0.75 * at.mean(
        axis=0
    )
    turn = rng.uniform(0, 2 * np.pi)
    at = at @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    radii = rng.uniform(*recipe.bead_radius) * rng.uniform(0.88, 1.12, count)
    beads = np.column_stack([at * radius_px + size / 2, radii * radius_px])
    return chain(rng, beads, rng.uniform(*recipe.join), size, recipe.bumpiness)


def _chromatin(
    rng: np.random.Generator, recipe: _Recipe, nucleus: FloatImage, px_per_um: float
) -> FloatImage:
    """Concentration of chromatin, float32 [h,w]: clumps, paler gaps, a darker membrane, nucleoli."""
    fine = smooth_noise(rng, nucleus.shape, 0.25 * px_per_um)
    clumps = smooth_noise(rng, nucleus.shape, 0.6 * px_per_um)
    clouds = smooth_noise(rng, nucleus.shape, 2.2 * px_per_um)
    texture = 1.0 + np.float32(recipe.clumping) * (0.7 * fine + 0.85 * clumps + 0.3 * clouds)
    membrane = np.clip(nucleus - blurred(nucleus, 0.3 * px_per_um), 0, 1) * np.float32(0.5)
    spots = granules(
        rng, nucleus, int(rng.integers(0, recipe.nucleoli + 1)), (0.6 * px_per_um, 1.1 * px_per_um)
    )
    pale = 1.0 - 0.35 * blurred(spots, 0.25 * px_per_um)
    darkness = np.float32(rng.uniform(*recipe.darkness))
    return as_float(nucleus * np.clip(texture * pale + membrane, 0.4, 1.5) * darkness)


def draw_leukocyte(
    rng: np.random.Generator,
    density: FloatImage,
    slide: Slide,
    label: str,
    centre_xy: tuple[float, float],
    radius_px: float,
) -> tuple[int, int, int, int]:
    """Draw one leukocyte on a density map, in place.

    Args:
        density: float32 [H,W,3] RGB, changed.
        label: one of `DRAWN_CLASSES`.
        centre_xy: pixels of the map.
        radius_px: mean radius of the cell.

    Returns:
        The box (xyxy, whole pixels, inside the map) of the part of its outline that the map shows.
    """
    recipe = _RECIPES[label]
    um = slide.px_per_um
    size = 2 * int(np.ceil(radius_px * 1.6)) + 4
    corner = (round(centre_xy[0] - size / 2), round(centre_xy[1] - size / 2))
    radii = ragged_radii(rng, recipe.raggedness, rng.uniform(*recipe.elongation))
    relative = relative_radius(radii, radius_px, (size / 2, size / 2), size)
    frayed = smooth_noise(rng, (size, size), 1.5 * um) * np.float32(0.3 * recipe.raggedness)
    cell = inside(relative + frayed * (relative < 1.3), radius_px, 1.6)
    nucleus = _nucleus(rng, recipe, radius_px, size) * inside(relative / np.float32(0.97), radius_px, 1.5)
    cytoplasm = cell * (1.0 - nucleus)

    mottle = (
        1.0
        + 0.1 * smooth_noise(rng, (size, size), 0.45 * um)
        + 0.08 * smooth_noise(rng, (size, size), 2.0 * um)
    )
    edge = 1.0 + np.float32(recipe.blue_rim) * np.clip((relative - 0.7) / 0.3, 0, 1)
    body = cell * mottle * (1.0 - 0.75 * nucleus)
    vacuoles = granules(
        rng,
        cytoplasm,
        int(rng.integers(recipe.vacuoles[0], recipe.vacuoles[1] + 1)),
        (0.25 * um, 0.75 * um),
        (0.7, 1.0),
    )
    body = body * (1.0 - 0.9 * vacuoles)
    ink = (body * edge * np.float32(rng.uniform(*recipe.blue)))[..., None] * slide.blue
    ink += (body * np.float32(rng.uniform(*recipe.pink)))[..., None] * slide.pink
    ink += (body * np.float32(rng.uniform(*recipe.eosin)))[..., None] * slide.eosin
    ink += _chromatin(rng, recipe, nucleus, um)[..., None] * slide.chromatin

    open_to_grains = cytoplasm + np.float32(recipe.grains_on_nucleus) * nucleus * cell
    purple = granules(
        rng,
        cell,
        int(rng.integers(recipe.grains[0], recipe.grains[1] + 1)),
        (recipe.grain_um[0] * um, recipe.grain_um[1] * um),
    )
    dust = np.clip(smooth_noise(rng, (size, size), 0.28 * um) - 0.6, 0, 1.5) * np.float32(recipe.dust)
    if recipe.beads[1] == 0:
        # A platelet gathers its granules in the middle and leaves a clear rim.
        open_to_grains = open_to_grains * np.clip((0.95 - relative) / 0.25, 0, 1)
    ink += ((purple * 0.8 + dust * 0.7) * open_to_grains)[..., None] * slide.purple
    if recipe.orange_grains:
        orange = granules(rng, cytoplasm, recipe.orange_grains, (0.28 * um, 0.45 * um), (0.2, 1.0))
        ink += (blurred(orange, 0.08 * um) * cytoplasm * np.float32(0.75))[..., None] * slide.eosin

    stamp(density, ink, cell * np.float32(0.9), corner)
    return _visible_box(cell, corner, density.shape[1], density.shape[0])


def _visible_box(
    mask: FloatImage, corner_xy: tuple[int, int], width: int, height: int
) -> tuple[int, int, int, int]:
    """The xyxy box, in whole pixels of a map of `width` by `height`, of a mask laid at `corner_xy`."""
    columns = np.flatnonzero((mask >= 0.5).any(axis=0)) + corner_xy[0]
    rows = np.flatnonzero((mask >= 0.5).any(axis=1)) + corner_xy[1]
    left, right = np.clip([columns[0], columns[-1] + 1], 0, width).tolist()
    top, bottom = np.clip([rows[0], rows[-1] + 1], 0, height).tolist()
    return left, top, right, bottom


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
    radii = [slide.px_per_um * rng.uniform(*_RECIPES[label].diameter_um) / 2 for label in labels]
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
    if label is not None and label not in _RECIPES:
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
    shares = np.array([recipe.field_share for recipe in _RECIPES.values()])
    picks = rng.choice(len(DRAWN_CLASSES), cells, p=shares / shares.sum())
    return _draw(rng, slide, tuple(DRAWN_CLASSES[pick] for pick in picks), size_wh, in_the_middle=False)
