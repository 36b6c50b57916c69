"""Primitives that a drawn smear is made of: textures, outlines, nuclei, granules, and how dye absorbs light.

Everything is drawn as *density*: the optical density of each colour channel, float32 [H,W,3] RGB. Light
that passes a smear is `lamp * exp(-density)` (Beer-Lambert), so two red cells on top of each other come out
darker without any special case. Masks and concentrations are float32 [h,w]; a *patch* is a small one around
one cell, in pixels of the patch. Angles are radians, sizes pixels.
"""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage: TypeAlias = NDArray[np.float32]
Range: TypeAlias = tuple[float, float]

_ANGLES = 512
_SUBPIXEL_BITS = 4
"""OpenCV's drawing functions take fixed-point coordinates; 4 bits are sixteenths of a pixel."""


@dataclass(frozen=True, slots=True)
class Stain:
    """How a laboratory's slides look: the colour (RGB, 0 to 255) that each substance shows on the screen."""

    share: float
    """How often the renderer picks this stain; the shares sum to 1."""
    lamp: tuple[int, int, int]
    haemoglobin: tuple[int, int, int]
    chromatin: tuple[int, int, int]
    blue: tuple[int, int, int]
    """Basophilic cytoplasm."""
    pink: tuple[int, int, int]
    """Cytoplasm of maturing granulocytes."""
    eosin: tuple[int, int, int]
    """Granules of an eosinophil."""
    purple: tuple[int, int, int]
    """Azurophilic and basophilic granules."""


# fmt: off
STAINS = (
    # May-Gruenwald Giemsa on a cream ground, as digital morphology analysers show it
    Stain(0.55, (254, 231, 207), (200, 163, 163), (66, 34, 118),
          (146, 150, 198), (222, 192, 192), (192, 102, 110), (118, 44, 132)),
    # strong purple on white
    Stain(0.15, (238, 228, 238), (205, 165, 178), (72, 16, 126),
          (168, 158, 214), (222, 176, 212), (214, 120, 130), (120, 24, 122)),
    # pale Wright under a grey lamp, tan red cells, violet nuclei
    Stain(0.12, (203, 209, 198), (188, 160, 140), (122, 104, 196),
          (168, 172, 214), (192, 180, 200), (202, 134, 124), (126, 90, 170)),
    # yellowish lamp, bluish red cells, magenta nuclei
    Stain(0.10, (206, 194, 170), (132, 124, 142), (108, 36, 112),
          (136, 124, 158), (176, 144, 154), (166, 104, 104), (124, 38, 98)),
    # mint ground, strongly eosinophilic red cells, blue-grey nuclei
    Stain(0.08, (206, 236, 220), (212, 108, 140), (62, 62, 112),
          (132, 150, 190), (204, 196, 206), (216, 112, 116), (92, 52, 118)),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Slide:
    """One smear as its seed makes it. `lamp` is the light of an empty spot, float32 [3] RGB 0 to 255; the
    substances are their density at concentration 1, float32 [3] RGB."""

    px_per_um: float
    lamp: FloatImage
    haemoglobin: FloatImage
    chromatin: FloatImage
    blue: FloatImage
    pink: FloatImage
    eosin: FloatImage
    purple: FloatImage


def prepare_slide(rng: np.random.Generator, px_per_um: float) -> Slide:
    """A slide of a random stain; strength and hue of each substance and the lamp's white vary a little."""
    stain = STAINS[int(rng.choice(len(STAINS), p=[stain.share for stain in STAINS]))]
    strength = rng.normal(1.0, 0.08)

    def density(colour: tuple[int, int, int]) -> FloatImage:
        ratio = np.clip(np.array(colour) / np.array(stain.lamp), 0.02, 1.2)
        hue = rng.normal(1.0, 0.05, 3)
        return as_float(-np.log(ratio) * strength * rng.normal(1.0, 0.06) * hue)

    lamp = np.clip(np.array(stain.lamp) * rng.normal(1.0, 0.018, 3) * rng.normal(0.99, 0.03), 120, 255)
    return Slide(
        px_per_um,
        as_float(lamp),
        density(stain.haemoglobin),
        density(stain.chromatin),
        density(stain.blue),
        density(stain.pink),
        density(stain.eosin),
        density(stain.purple),
    )


def smooth_noise(rng: np.random.Generator, shape_hw: tuple[int, int], grain_px: float) -> FloatImage:
    """Random clouds of about `grain_px` in size: float32 [h,w], mean about 0, standard deviation about 1."""
    height, width = shape_hw
    grain = max(1.0, grain_px)
    coarse_hw = (max(2, round(height / grain)), max(2, round(width / grain)))
    coarse = rng.standard_normal(coarse_hw, dtype=np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) if grain > 1 else coarse
    # Interpolating between independent values averages them: bring the contrast back.
    return as_float(fine) * np.float32(1.0 if grain == 1 else 1.3)


def ragged_radii(
    rng: np.random.Generator, raggedness: float, elongation: float = 1.0, spikes: int = 0
) -> FloatImage:
    """An outline that is nearly a circle of radius 1: float32 [512], the radius at equal steps of angle.

    `raggedness` is the relative amplitude of dents, `elongation` long axis over short axis, `spikes` the
    number of small regular points along the edge (a crenated red cell).
    """
    angle = np.linspace(0.0, 2 * np.pi, _ANGLES, endpoint=False)
    turned = angle - rng.uniform(0, np.pi)
    stretch = np.sqrt(elongation)
    radii = 1.0 / np.hypot(np.cos(turned) / stretch, np.sin(turned) * stretch)
    for harmonic in range(2, 8):
        amplitude = raggedness * rng.normal() * 3.0 / harmonic**1.6
        radii += amplitude * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    if spikes:
        uneven = 0.05 + 0.03 * np.cos(angle + rng.uniform(0, 2 * np.pi))
        radii += uneven * np.cos(spikes * angle + rng.uniform(0, 2 * np.pi) + 1.5 * np.cos(angle))
    return as_float(np.clip(radii, 0.35, 1.9))


def relative_radius(
    radii: FloatImage, radius_px: float, centre_xy: tuple[float, float], size: int
) -> FloatImage:
    """Distance from the centre in units of the outline: float32 [size,size], 1 on the outline."""
    across = np.arange(size, dtype=np.float32)
    x, y = np.meshgrid(across - np.float32(centre_xy[0]), across - np.float32(centre_xy[1]))
    distance, angle = cv2.cartToPolar(x, y)
    steps = (as_float(angle) * np.float32(_ANGLES / (2 * np.pi))).astype(np.int32) % _ANGLES
    return as_float(distance) / (radii[steps] * np.float32(radius_px))


def inside(relative: FloatImage, radius_px: float, edge_px: float = 1.0) -> FloatImage:
    """The mask of an outline from `relative_radius`: 1 within, 0 without, `edge_px` between."""
    return as_float(np.clip((1.0 - relative) * np.float32(radius_px / edge_px) + 0.5, 0.0, 1.0))


def blurred(image: FloatImage, sigma_px: float) -> FloatImage:
    """A Gaussian blur, float32 in and out, any number of channels."""
    return as_float(cv2.GaussianBlur(image, (0, 0), max(sigma_px, 0.05)))


def chain(
    rng: np.random.Generator, beads_xyr: NDArray[np.float64], join: float, size: int, bumpiness: float
) -> FloatImage:
    """A nucleus: a chain of rounded beads melted together, float32 mask [size,size].

    Args:
        beads_xyr: [n,3] centre and radius of each bead, pixels of the patch.
        join: width of the strand between neighbours over the width of the beads, 0 to 1.
        size: side of the patch.
        bumpiness: how far clouds of noise push the edge in and out, 0 to about 0.3.
    """
    canvas = np.zeros((size, size), np.uint8)
    fixed = np.rint(beads_xyr * (1 << _SUBPIXEL_BITS)).astype(int)
    for x, y, radius in fixed.tolist():
        cv2.circle(canvas, (x, y), max(radius, 8), 255, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    for near, far in zip(fixed[:-1].tolist(), fixed[1:].tolist(), strict=True):
        thickness = max(1, round((near[2] + far[2]) * join / (1 << _SUBPIXEL_BITS)))
        cv2.line(canvas, (near[0], near[1]), (far[0], far[1]), 255, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    radius_px = float(beads_xyr[:, 2].mean())
    melted = blurred(as_float(canvas / np.float32(255)), 0.13 * radius_px)
    bumps = smooth_noise(rng, (size, size), 0.55 * radius_px) * np.float32(bumpiness)
    # The slope of a blurred edge is about 1 / (2.5 sigma): steepen it to a ramp of about a pixel.
    steepness = np.float32(0.3 * radius_px)
    return as_float(np.clip((melted - 0.5 + bumps * melted * (1 - melted) * 2) * steepness + 0.5, 0, 1))


def granules(
    rng: np.random.Generator, where: FloatImage, count: int, radius_px: Range, strength: Range = (0.5, 1.0)
) -> FloatImage:
    """Round grains strewn over a mask: float32 [h,w] concentration, 0 to 1; some of `count` miss the mask."""
    height, width = where.shape
    canvas = np.zeros((height, width), np.uint8)
    ys, xs = np.nonzero(where > 0.5)
    if len(xs) == 0 or count == 0:
        return as_float(canvas)
    picks = rng.integers(0, len(xs), count)
    one = 1 << _SUBPIXEL_BITS
    centres = np.stack([xs[picks], ys[picks]], axis=1) * one + rng.integers(0, one, (count, 2))
    sizes = (rng.uniform(*radius_px, count) * one).astype(int)
    inks = (rng.uniform(*strength, count) * 255).astype(int)
    for (x, y), radius, ink in zip(centres.tolist(), sizes.tolist(), inks.tolist(), strict=True):
        cv2.circle(canvas, (x, y), radius, ink, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    return as_float(canvas / np.float32(255)) * where


def red_cell(
    rng: np.random.Generator, radius_px: float, pallor: float, shift_xy: tuple[float, float]
) -> FloatImage:
    """The haemoglobin of one red cell: float32 [s,s] concentration around 1, middle in the middle.

    `pallor` is how much paler the middle is, 0 (a dense cell) to 1 (a ring); `shift_xy` moves the cell by a
    part of a pixel.
    """
    spikes = int(rng.integers(11, 17)) if rng.random() < 0.015 else 0
    elongation = 1.0 + abs(rng.normal(0, 0.12)) + (rng.uniform(0.3, 0.8) if rng.random() < 0.05 else 0.0)
    radii = ragged_radii(rng, 0.03 + 0.04 * rng.random(), elongation, spikes)
    size = 2 * int(np.ceil(radius_px * 1.5)) + 3
    relative = relative_radius(radii, radius_px, (size / 2 + shift_xy[0], size / 2 + shift_xy[1]), size)
    middle = relative_radius(
        ragged_radii(rng, 0.06, elongation),
        radius_px * rng.uniform(0.4, 0.72),
        (size / 2 + rng.normal(0, 0.05) * radius_px, size / 2 + rng.normal(0, 0.05) * radius_px),
        size,
    )
    depth = np.float32(pallor * rng.uniform(0.7, 1.2))
    biconcave = 1.0 - depth * np.exp(-(middle ** np.float32(rng.uniform(2.4, 6.0))))
    rim = 1.0 + 0.16 * np.exp(-(((relative - 0.93) / 0.06) ** 2))
    return as_float(biconcave * rim * np.float32(rng.uniform(0.88, 1.1))) * inside(relative, radius_px, 1.5)


def stamp(
    density: FloatImage, patch: FloatImage, cover: FloatImage | None, corner_xy: tuple[int, int]
) -> None:
    """Lay a patch on a density map, in place; what falls outside the map is dropped.

    Args:
        density: [H,W,3], changed.
        patch: [h,w,3] density that is added.
        cover: [h,w], the share of what lay there that the patch pushes away; None pushes nothing.
        corner_xy: where the patch's top left pixel goes, may be negative.
    """
    height, width = density.shape[:2]
    left, top = max(corner_xy[0], 0), max(corner_xy[1], 0)
    right = min(corner_xy[0] + patch.shape[1], width)
    bottom = min(corner_xy[1] + patch.shape[0], height)
    if left >= right or top >= bottom:
        return
    window = (
        slice(top - corner_xy[1], bottom - corner_xy[1]),
        slice(left - corner_xy[0], right - corner_xy[0]),
    )
    target = density[top:bottom, left:right]
    if cover is not None:
        target *= 1.0 - cover[window][..., None]
    target += patch[window]


def photograph(rng: np.random.Generator, density: FloatImage, lamp: FloatImage) -> NDArray[np.uint8]:
    """What the camera makes of a density map: uint8 [H,W,3] RGB.

    It adds uneven light, blur, sharpening, colour fringes and noise.
    """
    height, width = density.shape[:2]
    light = as_float(cv2.exp(-density))
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] - np.float32(rng.normal(0, 0.2))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(rng.normal(0, 0.2))
    tilt = rng.normal(0, 0.012, 2).astype(np.float32)
    shade = 1.0 - np.float32(rng.uniform(0.0, 0.06)) * (x * x + y * y) + tilt[0] * x + tilt[1] * y
    light *= lamp
    light *= shade[..., None]
    light = blurred(light, rng.uniform(0.5, 1.3))
    sharpening = np.float32(rng.uniform(0.0, 0.6))
    light += (light - blurred(light, 2.0)) * sharpening
    for channel in (0, 2):
        # Lateral colour: red and blue land a part of a pixel beside green.
        dx, dy = rng.normal(0, 0.35, 2)
        shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        plane = np.ascontiguousarray(light[..., channel])
        light[..., channel] = cv2.warpAffine(plane, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    light += grain * np.float32(rng.uniform(0.6, 3.0))
    return np.asarray(np.clip(light + 0.5, 0, 255), dtype=np.uint8)


def as_float(image: object) -> FloatImage:
    """The same values as float32; OpenCV's return type says nothing of the element type."""
    return np.asarray(image, dtype=np.float32)
