"""Mirrored and turned views of a network's input, whose answers are averaged (test-time augmentation)."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.geometry import Boxes

Flip = Literal["hflip", "vflip"]
Turn = Literal["hflip", "vflip", "rot90", "rot180", "rot270"]
"""hflip swaps left and right, vflip top and bottom; rotations are by degrees, counter-clockwise."""

_QUARTERS = {"rot90": 1, "rot180": 2, "rot270": 3}


def turned(batch: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """Square images uint8 [B, S, S, 3], each turned; a copy."""
    if turn == "hflip":
        view = batch[:, :, ::-1]
    elif turn == "vflip":
        view = batch[:, ::-1]
    else:
        view = np.rot90(batch, _QUARTERS[turn], axes=(1, 2))
    return np.ascontiguousarray(view)


def flipped_back(boxes_xyxy: Boxes, flip: Flip, side_px: int) -> Boxes:
    """Boxes float32 [..., 4] in pixels of a flipped tile, as they stand on the tile itself."""
    x1, y1, x2, y2 = np.moveaxis(boxes_xyxy, -1, 0)
    if flip == "hflip":
        x1, x2 = side_px - x2, side_px - x1
    else:
        y1, y2 = side_px - y2, side_px - y1
    return np.stack([x1, y1, x2, y2], axis=-1)
