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
        mixing: spread of the crosstalk between the colour channels of stain and camera.
        light: spread of exposure and white balance, in optical density.
        optics: chance of blur, sharpening, resampling, noise and JPEG, each apart.
        hue: share of what turns one colour into another, 0 to 1: crosstalk, white balance, and that one stain
            takes while another does not. At 0 all stains vary alike, and all channels of the light.
    """

    stain: float
    mixing: float
    light: float
    optics: float
    hue: float = 1.0


VARIATIONS = {
    "none": Variation(0.0, 0.0, 0.0, 0.0),
    "mild": Variation(0.10, 0.03, 0.05, 0.15),
    "strong": Variation(0.35, 0.12, 0.15, 0.30),
    "extreme": Variation(0.55, 0.22, 0.25, 0.35),
}


def vary_station(rgb: Image, variation: Variation, rng: np.random.Generator) -> Image:
    """The same cells as another station might have stained and photographed them.

    How far from the given one that station is, is drawn first: the training images' own stations count, too.
    """
    distance = rng.uniform()
    colour = replace(
        variation,
        stain=variation.stain * distance,
        mixing=variation.mixing * distance,
        light=variation.light * distance,
    )
    return _vary_optics(_vary_colour(rgb, colour, rng), variation.optics, rng)


def _vary_colour(rgb: Image, variation: Variation, rng: np.random.Generator) -> Image:
    """One affine map of optical density: amount and ground of each stain, crosstalk, gamma, white balance."""
    stains = _STAIN_OPTICAL_DENSITY / np.linalg.norm(_STAIN_OPTICAL_DENSITY, axis=1, keepdims=True)
    amounts = rng.uniform(-variation.stain, variation.stain, 3)
    amount = np.diag(1 + variation.hue * amounts + (1 - variation.hue) * amounts.mean())
    matrix = np.linalg.inv(stains) @ amount @ stains
    matrix = matrix @ (np.eye(3) + rng.normal(0, 1, (3, 3)) * variation.mixing * variation.hue)
    matrix *= np.exp(rng.normal(0, 1) * variation.stain / 2)
    ground = rng.normal(0, 1) * variation.light + rng.normal(0, 1, 3) * variation.light / 2 * variation.hue
    density = cv2.LUT(rgb, _DENSITY_OF_LEVEL)
    density = cv2.transform(density, np.hstack([matrix.T, ground[:, None]]).astype(np.float32))
    return np.clip(cv2.exp(-density) * 256 - 0.5, 0, 255).astype(np.uint8)


def _vary_optics(rgb: Image, chance: float, rng: np.random.Generator) -> Image:
    if rng.random() < chance:  # another camera's pixels
        scale = rng.uniform(0.4, 0.9)
        height, width = rgb.shape[:2]
        small = cv2.resize(
            rgb, (max(int(width * scale), 8), max(int(height * scale), 8)), interpolation=cv2.INTER_AREA
        )
        rgb = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < chance:  # out of focus
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < chance:  # sharpened by the camera
        soft = cv2.GaussianBlur(rgb, (0, 0), 1.5)
        amount = rng.uniform(0.2, 1.2)
        rgb = cv2.addWeighted(rgb, 1 + amount, soft, -amount, 0)
    if rng.random() < chance:
        noise = rng.normal(0, rng.uniform(2, 10), rgb.shape).astype(np.float32)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if rng.random() < chance:
        quality = int(rng.integers(35, 92))
        rgb = cv2.imdecode(
            cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
        )
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


def jitter_box(box_xyxy: Boxes, shift: float, scale: float, rng: np.random.Generator) -> Boxes:
    """A box as a detector might have drawn it: moved and scaled by parts of its sides, float32 [4]."""
    sides = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    moved = box_xyxy + np.tile(rng.uniform(-shift, shift, 2), 2) * sides
    grown = rng.uniform(-scale, scale, 4) * sides / 2 * np.array([-1, -1, 1, 1])
    return (moved + grown).astype(np.float32)
