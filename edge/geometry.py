"""Letterbox, crop and boxes: the only place that resizes, cuts or maps coordinates back.

Coordinates are continuous pixels: the left edge of the first pixel is 0, the right edge of the last
is the width, so that a box of the whole image is (0, 0, width, height) and resizing by `s` multiplies
every coordinate by `s`. Boxes are float32 [n, 4] xyxy unless a name says otherwise.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Anchor = Literal["centre", "top_left"]
CropShape = Literal["square", "stretched"]
Boxes = NDArray[np.float32]
Image = NDArray[np.uint8]

SAME_CELL_IOU = 0.5
"""Two boxes of one detector that overlap by more are one cell: docs/decisions/one-cell-one-box.md."""

LETTERBOX_PAD = 114
"""Grey level of the letterbox's padding; ultralytics and YOLOX both train with it."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image was placed on a tile: tile coordinate = image coordinate * scale + offset.

    Attributes:
        scale_xy: tile pixels per image pixel, each axis apart, since whole pixels round them apart.
        offset_xy: left and top padding in tile pixels.
        image_size_wh: the image's width and height in pixels.
    """

    scale_xy: tuple[float, float]
    offset_xy: tuple[int, int]
    image_size_wh: tuple[int, int]

    def to_tile(self, boxes_xyxy: Boxes) -> Boxes:
        """Boxes in image pixels, as they stand on the tile."""
        return boxes_xyxy * _twice(self.scale_xy) + _twice(self.offset_xy)

    def to_image(self, boxes_xyxy: Boxes) -> Boxes:
        """Boxes in tile pixels, as they stand in the image, clipped to it."""
        return clip_boxes((boxes_xyxy - _twice(self.offset_xy)) / _twice(self.scale_xy), self.image_size_wh)


def letterbox(
    rgb: Image, tile_size: int, anchor: Anchor = "centre", pad: int = LETTERBOX_PAD
) -> tuple[Image, Letterbox]:
    """Scale an image to fit a square tile, its aspect kept, and fill the rest with grey.

    Args:
        rgb: uint8 [H, W, 3].
        tile_size: side of the tile in pixels.
        anchor: "centre" as ultralytics trains (half a pixel of odd padding goes to the right and the
            bottom, `ultralytics.data.augment.LetterBox`), "top_left" as YOLOX does.
        pad: grey level of the padding.

    Returns:
        The tile, uint8 [tile_size, tile_size, 3], and the placement that leads back.
    """
    height, width = rgb.shape[:2]
    scale = min(tile_size / height, tile_size / width)
    inner_w, inner_h = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = ((tile_size - inner_w) // 2, (tile_size - inner_h) // 2) if anchor == "centre" else (0, 0)
    tile = np.empty((tile_size, tile_size, 3), np.uint8)
    tile[:top], tile[top + inner_h :], tile[:, :left], tile[:, left + inner_w :] = pad, pad, pad, pad
    _resize(rgb, tile[top : top + inner_h, left : left + inner_w])
    return tile, Letterbox((inner_w / width, inner_h / height), (left, top), (width, height))


def crop_region(
    box_xyxy: Boxes, margin_px: float, margin_fraction: float, shape: CropShape
) -> tuple[int, int, int, int]:
    """The part of an image that a crop shows, in whole image pixels; it may reach over the border.

    Args:
        box_xyxy: float [4] in image pixels.
        margin_px: added on each side, in image pixels.
        margin_fraction: added on each side, as a part of the box's longer side.
        shape: "square" widens the shorter side to the longer one; "stretched" keeps the box's aspect.
    """
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    margin = margin_px + margin_fraction * max(x2 - x1, y2 - y1)
    half_w, half_h = (x2 - x1) / 2 + margin, (y2 - y1) / 2 + margin
    if shape == "square":
        half_w = half_h = max(half_w, half_h)
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = round(centre_x - half_w), round(centre_y - half_h)
    width, height = max(round(2 * half_w), 1), max(round(2 * half_h), 1)
    return left, top, left + width, top + height


def crop(
    rgb: Image,
    box_xyxy: Boxes,
    crop_size: int,
    margin_px: float = 0.0,
    margin_fraction: float = 0.0,
    shape: CropShape = "square",
) -> Image:
    """One cell, cut out with a margin and resized to a square, uint8 [crop_size, crop_size, 3].

    Where the region reaches over the image's border, the border's pixels are repeated: they are the
    stain's own background, which a constant grey is not. Arguments as in `crop_region`.
    """
    left, top, right, bottom = crop_region(box_xyxy, margin_px, margin_fraction, shape)
    height, width = rgb.shape[:2]
    inside = rgb[
        min(max(top, 0), height - 1) : max(min(bottom, height), 1),
        min(max(left, 0), width - 1) : max(min(right, width), 1),
    ]
    over = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if any(over):
        inside = np.asarray(cv2.copyMakeBorder(inside, *over, cv2.BORDER_REPLICATE), np.uint8)
    return stretched(inside, crop_size)


def stretched(rgb: Image, size: int) -> Image:
    """A whole image as a square uint8 [size, size, 3], its aspect not kept."""
    return _resize(rgb, np.empty((size, size, 3), np.uint8))


def _resize(rgb: Image, target: Image) -> Image:
    """Bilinear as detectors are trained; averaging where shrinking past a half would skip pixels."""
    height, width = target.shape[:2]
    # Averaging four pixels is five times as fast as over another area; the last step evens out what it blurs.
    while rgb.shape[0] >= 4 * height and rgb.shape[1] >= 4 * width:
        half = (rgb.shape[1] // 2, rgb.shape[0] // 2)
        rgb = np.asarray(cv2.resize(rgb, half, interpolation=cv2.INTER_AREA), np.uint8)
    shrinks_past_half = width * 2 < rgb.shape[1] or height * 2 < rgb.shape[0]
    interpolation = cv2.INTER_AREA if shrinks_past_half else cv2.INTER_LINEAR
    cv2.resize(rgb, (width, height), target, interpolation=interpolation)
    return target


def clip_boxes(boxes_xyxy: Boxes, image_size_wh: tuple[int, int]) -> Boxes:
    """Boxes moved inside an image of the given width and height, in pixels."""
    return np.clip(boxes_xyxy, 0, _twice(image_size_wh))


def _twice(xy: tuple[float, float]) -> Boxes:
    """(x, y) as float32 [4] for both corners of a box."""
    return np.array(xy * 2, np.float32)


def box_areas(boxes_xyxy: Boxes) -> NDArray[np.float32]:
    """Areas, float32 [n], in square pixels; a box that is turned inside out has none."""
    sides: Boxes = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[np.float32]:
    """Intersection over union of every pair, float32 [n, m]; 0 where both boxes are empty."""
    top_left = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    bottom_right = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    intersection: Boxes = np.prod(np.maximum(bottom_right - top_left, 0), axis=2)
    union = box_areas(a_xyxy)[:, None] + box_areas(b_xyxy)[None, :] - intersection
    ious: Boxes = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return ious
