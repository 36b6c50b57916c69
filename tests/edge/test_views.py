"""Mirrored and turned views, and the way back."""

from typing import get_args

import numpy as np
import pytest

from edge.geometry import letterbox
from edge.views import Flip, Turn, flipped_back, turned


@pytest.mark.parametrize("flip", get_args(Flip))
def test_boxes_of_a_flipped_tile_come_back_to_what_they_show(flip: Flip) -> None:
    tile = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    box = np.array([[3, 5, 11, 21]], np.float32)
    flipped = turned(tile, flip)[0]
    x1, y1, x2, y2 = flipped_back(box, flip, 32)[0].astype(int)
    shown = flipped[5:21, 3:11]
    (back,) = turned(shown[None], flip)
    np.testing.assert_array_equal(tile[0, y1:y2, x1:x2], back)
    np.testing.assert_array_equal(flipped_back(flipped_back(box, flip, 32), flip, 32), box)


def test_turns_are_what_they_are_called() -> None:
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, 0, 1] = 255  # near the upper left corner
    places = {turn: tuple(np.argwhere(turned(image, turn)[0, :, :, 0])[0]) for turn in get_args(Turn)}
    assert places == {"hflip": (0, 2), "vflip": (3, 1), "rot90": (2, 0), "rot180": (3, 2), "rot270": (1, 3)}
    assert all(turned(image, turn).flags.c_contiguous for turn in get_args(Turn))


def test_a_flipped_box_of_a_letterboxed_image_lies_where_its_cell_lies() -> None:
    """Through the padding that only one side has."""
    image = np.full((40, 80, 3), 200, np.uint8)
    image[10:20, 8:24] = 0
    tile, placement = letterbox(image, 64, "top_left")
    dark = np.argwhere(turned(tile[None], "vflip")[0, :, :, 0] < 50)
    (y1, x1), (y2, x2) = dark.min(0), dark.max(0) + 1
    back = placement.to_image(flipped_back(np.array([[x1, y1, x2, y2]], np.float32), "vflip", 64))
    np.testing.assert_allclose(back, [[8, 10, 24, 20]], atol=1.5)
