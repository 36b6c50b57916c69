"""What the leukocytes of ten classes look like, and how one of them is drawn.

The classes are codes of `edge.cells`. Drawings: they resemble cells, and say nothing of any patient.
"""

from dataclasses import dataclass

import numpy as np

from edge.demo.drawing import (
    FloatImage,
    Range,
    Slide,
    as_float,
    blurred,
    chain,
    granules,
    inside,
    ragged_radii,
    relative_radius,
    smooth_noise,
    stamp,
)


@dataclass(frozen=True, slots=True)
class Recipe:
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
RECIPES = {
    "PNN": Recipe(
        0.36, (13.0, 15.5), beads=(3, 5), bead_radius=(0.24, 0.32), arc_radius=(0.38, 0.5),
        arc_sweep=(2.6, 4.7), join=(0.15, 0.9), eccentricity=(0, 0.14), clumping=0.27, pink=(0.7, 1.2),
        blue=(0.0, 0.25), dust=0.22, grains=(0, 25), grain_um=(0.1, 0.18)),
    "EO": Recipe(
        0.08, (13.0, 15.5), beads=(2, 3), bead_radius=(0.31, 0.4), arc_radius=(0.42, 0.5),
        arc_sweep=(1.9, 3.0), join=(0.05, 0.35), eccentricity=(0.08, 0.26), clumping=0.3,
        darkness=(0.78, 1.0), pink=(0.1, 0.4), eosin=(0.3, 0.5), orange_grains=520),
    "BA": Recipe(
        0.05, (11.5, 14.5), 0.04, (1.0, 1.35), beads=(2, 4), bead_radius=(0.44, 0.56),
        arc_radius=(0.28, 0.4), arc_sweep=(2.0, 4.0), join=(0.6, 0.95), bumpiness=0.3, darkness=(0.8, 1.1),
        clumping=0.36, pink=(0.6, 1.2), blue=(0.1, 0.5), dust=0.5, grains=(180, 420), grain_um=(0.16, 0.36),
        grains_on_nucleus=0.75),
    "LY": Recipe(
        0.22, (9.5, 12.0), bead_radius=(0.82, 0.94), eccentricity=(0, 0.09), clumping=0.27,
        darkness=(0.88, 1.15), blue=(0.6, 1.15), blue_rim=0.4),
    "MO": Recipe(
        0.09, (14.5, 19.0), 0.07, (1.0, 1.35), beads=(3, 5), bead_radius=(0.38, 0.48),
        arc_radius=(0.28, 0.44), arc_sweep=(1.6, 3.0), join=(0.75, 1.0), eccentricity=(0, 0.2),
        bumpiness=0.28, darkness=(0.75, 1.0), clumping=0.34, blue=(0.55, 1.0), pink=(0.0, 0.35), dust=0.15,
        vacuoles=(0, 22)),
    "Er": Recipe(
        0.04, (9.5, 12.0), 0.035, (1.0, 1.3), bead_radius=(0.5, 0.64), eccentricity=(0.05, 0.36),
        bumpiness=0.06, darkness=(1.15, 1.4), clumping=0.3, blue=(0.4, 1.2), pink=(0.3, 0.7),
        blue_rim=0.15),
    "M": Recipe(
        0.04, (12.5, 15.5), beads=(2, 2), bead_radius=(0.55, 0.7), arc_radius=(0.14, 0.22),
        arc_sweep=(1.2, 2.2), eccentricity=(0.18, 0.34), clumping=0.31, bumpiness=0.16, pink=(0.6, 1.1),
        blue=(0.2, 0.55), dust=0.55, grains=(20, 110), grain_um=(0.1, 0.22), grains_on_nucleus=0.2),
    "MM": Recipe(
        0.04, (12.5, 15.0), beads=(5, 5), bead_radius=(0.35, 0.45), arc_radius=(0.44, 0.54),
        arc_sweep=(1.7, 2.6), eccentricity=(0.12, 0.3), clumping=0.29, bumpiness=0.15, pink=(0.6, 1.1),
        blue=(0.15, 0.45), dust=0.45, grains=(5, 60), grain_um=(0.1, 0.2)),
    "PM": Recipe(
        0.04, (14.0, 18.5), 0.025, (1.0, 1.2), bead_radius=(0.7, 0.88), eccentricity=(0.08, 0.22),
        clumping=0.22, darkness=(0.68, 0.92), nucleoli=3, blue=(0.6, 1.1), pink=(0.2, 0.6), blue_rim=0.3,
        dust=0.9, grains=(180, 420), grain_um=(0.12, 0.26), grains_on_nucleus=0.6),
    "Thromb": Recipe(
        0.04, (7.5, 10.0), 0.08, (1.0, 1.4), beads=(0, 0), blue=(0.3, 0.75), pink=(0.1, 0.5), dust=1.0,
        grains=(60, 170), grain_um=(0.13, 0.28)),
}
# fmt: on
DRAWN_CLASSES: tuple[str, ...] = tuple(RECIPES)
"""The codes of the classes that can be drawn; a seed chooses by their order."""


def _nucleus(rng: np.random.Generator, recipe: Recipe, radius_px: float, size: int) -> FloatImage:
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


def _chromatin(rng: np.random.Generator, recipe: Recipe, nucleus: FloatImage, px_per_um: float) -> FloatImage:
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
    recipe = RECIPES[label]
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
