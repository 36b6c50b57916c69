"""Stain, camera and orientation: what differs from one station to the next, drawn at random.

A model is judged on stations it never saw, so that colours are varied far beyond those of the training
images. Images are uint8 [H, W, 3] RGB, boxes float32 [n, 4] xyxy in their pixels; every function takes
its random generator and leaves its inputs as they are.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]

_STAIN_OPTICAL_DENSITY = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Rows: haematoxylin, eosin and a residual, as RGB optical density (Ruifrok and Johnston 2001). A blood
smear's azure and eosin lie close to the first two."""

_DENSITY_OF_LEVEL = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


@dataclass(frozen=True, slots=True)
class Variation:
    """How far stations may differ. 0 switches a part off.

    Attributes:
        stain: spread of the amount of each stain (factor 1 ± stain, as Tellez et al. 2018 do).
        tone: spread of the exponent of the camera's tone curve, its natural logarithm's.
        mixing: spread of the crosstalk between the colour channels of stain and camera.
        light: spread of exposure and white balance, in optical density.
        optics: chance of blur, sharpening, resampling, noise and JPEG, each apart.
        blur: standard deviation of the strongest, as a part of the picture's shorter side; at least 1.8 px.
        cut: chance that the image ends in a cell; of crops only, see `cut_off`.
        hue: share of what turns one colour into another, 0 to 1: crosstalk, white balance, tone curves of the
            channels, and that one stain takes while another does not. At 0 all stains vary alike, and all
            channels of the light.
    """

    stain: float = 0.0
    tone: float = 0.0
    mixing: float = 0.0
    light: float = 0.0
    optics: float = 0.0
    blur: float = 0.0
    cut: float = 0.0
    hue: float = 1.0


VARIATIONS = {
    "none": Variation(),
    "mild": Variation(stain=0.10, mixing=0.03, light=0.05, optics=0.15),
    "strong": Variation(stain=0.35, mixing=0.12, light=0.15, optics=0.30),
    "extreme": Variation(stain=0.55, mixing=0.22, light=0.25, optics=0.35),
    "widest": Variation(stain=0.70, tone=0.35, mixing=0.40, light=0.25, optics=0.50, blur=0.03, cut=0.4),
}


def vary_station(rgb: Image, variation: Variation, rng: np.random.Generator) -> Image:
    """The same cells as another station might have stained and photographed them.

    How far from the given one that station is, is drawn first: the training images' own stations count, too.
    """
    distance = rng.uniform()
    colour = replace(
        variation,
        stain=variation.stain * distance,
        tone=variation.tone * distance,
        mixing=variation.mixing * distance,
        light=variation.light * distance,
    )
    return _vary_optics(_vary_colour(rgb, colour, rng), variation, rng)


def _vary_colour(rgb: Image, variation: Variation, rng: np.random.Generator) -> Image:
    """One affine map of optical density: tone curves, stains, crosstalk, exposure, white balance."""
    stains = _STAIN_OPTICAL_DENSITY / np.linalg.norm(_STAIN_OPTICAL_DENSITY, axis=1, keepdims=True)
    amounts = rng.uniform(-variation.stain, variation.stain, 3)
    amount = np.diag(1 + variation.hue * amounts + (1 - variation.hue) * amounts.mean())
    matrix = np.linalg.inv(stains) @ amount @ stains
    matrix = matrix @ (np.eye(3) + rng.normal(0, 1, (3, 3)) * variation.mixing * variation.hue)
    matrix *= np.exp(rng.normal(0, 1) * variation.stain / 2)
    if variation.tone:  # the density of a level to the power of g is g times its density
        tones = rng.normal(0, variation.tone, 3)
        matrix = np.diag(np.exp(variation.hue * tones + (1 - variation.hue) * tones.mean())) @ matrix
    ground = rng.normal(0, 1) * variation.light + rng.normal(0, 1, 3) * variation.light / 2 * variation.hue
    density = cv2.LUT(rgb, _DENSITY_OF_LEVEL)
    density = cv2.transform(density, np.hstack([matrix.T, ground[:, None]]).astype(np.float32))
    return np.asarray(np.clip(cv2.exp(-density) * 256 - 0.5, 0, 255), np.uint8)


def _vary_optics(rgb: Image, variation: Variation, rng: np.random.Generator) -> Image:
    chance = variation.optics
    if rng.random() < chance:  # another camera's pixels
        scale = rng.uniform(0.4, 0.9)
        height, width = rgb.shape[:2]
        small = cv2.resize(
            rgb, (max(int(width * scale), 8), max(int(height * scale), 8)), interpolation=cv2.INTER_AREA
        )
        rgb = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < chance:  # out of focus
        strongest_px = max(1.8, variation.blur * min(rgb.shape[:2]))
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, strongest_px)), np.uint8)
    if rng.random() < chance:  # sharpened by the camera
        soft = cv2.GaussianBlur(rgb, (0, 0), 1.5)
        amount = rng.uniform(0.2, 1.2)
        rgb = np.asarray(cv2.addWeighted(rgb, 1 + amount, soft, -amount, 0), np.uint8)
    if rng.random() < chance:
        noise = rng.normal(0, rng.uniform(2, 10), rgb.shape).astype(np.float32)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if rng.random() < chance:
        quality = int(rng.integers(35, 92))
        coded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        rgb = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return rgb


def turn(rgb: Image, boxes_xyxy: Boxes, rng: np.random.Generator) -> tuple[Image, Boxes]:
    """One of the eight ways to lay a slide: quarter turns and a mirror."""
    boxes = boxes_xyxy.copy()
    height, width = rgb.shape[:2]
    if rng.random() < 0.5:
        rgb = rgb[:, ::-1]
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    if rng.random() < 0.5:
        rgb = rgb[::-1]
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    if rng.random() < 0.5:
        rgb = rgb.transpose(1, 0, 2)
        boxes = boxes[:, [1, 0, 3, 2]]
    return np.ascontiguousarray(rgb), boxes


def cut_off(rgb: Image, box_xyxy: Boxes, chance: float, rng: np.random.Generator) -> tuple[Image, Boxes]:
    """With that chance the image begins at a line through the cell or beside it, as on the border of a field.

    What lies left of a line, above one, or both is gone: up to 0.35 of the box's width and height. `turn`
    brings the lines to the other sides.
    """
    if rng.random() >= chance:
        return rgb, box_xyxy
    sides = box_xyxy[2:] - box_xyxy[:2]
    corner = box_xyxy[:2] + rng.uniform(-0.15, 0.35, 2) * sides
    corner[rng.choice(2)] *= rng.random() < 0.25
    left, top = np.clip(corner, 0, np.array(rgb.shape[1::-1]) - 1).astype(int)
    return rgb[top:, left:], np.maximum(box_xyxy - np.tile([left, top], 2), 0).astype(np.float32)


def jitter_box(box_xyxy: Boxes, shift: float, scale: float, rng: np.random.Generator) -> Boxes:
    """A box as a detector might have drawn it: moved and scaled by parts of its sides, float32 [4]."""
    sides = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    moved = box_xyxy + np.tile(rng.uniform(-shift, shift, 2), 2) * sides
    grown = rng.uniform(-scale, scale, 4) * sides / 2 * np.array([-1, -1, 1, 1])
    return np.asarray(moved + grown, np.float32)
