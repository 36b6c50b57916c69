"""Letterbox, crop and boxes: there and back again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.geometry import (
    LETTERBOX_PAD,
    Anchor,
    CropShape,
    box_areas,
    clip_boxes,
    crop,
    crop_region,
    iou_matrix,
    letterbox,
)

sides = st.integers(1, 3000)
anchors = st.sampled_from(["centre", "top_left"])
tile_sizes = st.sampled_from([96, 416, 640])


@st.composite
def image_and_box(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """An image of any size (its pixels do not matter) and a box inside it."""
    width, height = draw(sides), draw(sides)
    x = sorted(draw(st.tuples(st.floats(0, width, width=32), st.floats(0, width, width=32))))
    y = sorted(draw(st.tuples(st.floats(0, height, width=32), st.floats(0, height, width=32))))
    rgb = np.broadcast_to(np.uint8(7), (height, width, 3))
    return rgb, np.array([[x[0], y[0], x[1], y[1]]], np.float32)


@given(image_and_box(), tile_sizes, anchors)
@settings(max_examples=150)
def test_a_box_comes_back_from_the_tile_as_it_went(
    image: tuple[np.ndarray, np.ndarray], size: int, anchor: Anchor
) -> None:
    rgb, boxes = image
    _, placement = letterbox(rgb, size, anchor)
    back = placement.to_image(placement.to_tile(boxes))
    # float32 holds tile coordinates to 2**-14 px; in the image that is so many times more as it is larger.
    tolerance_px = 1e-3 * max(1.0, *(1 / scale for scale in placement.scale_xy))
    np.testing.assert_allclose(back, boxes, atol=tolerance_px)


@given(image_and_box(), tile_sizes, anchors)
@settings(max_examples=150)
def test_the_image_fills_the_tile_along_its_longer_side_and_the_rest_is_pad(
    image: tuple[np.ndarray, np.ndarray], size: int, anchor: Anchor
) -> None:
    rgb, _ = image
    tile, placement = letterbox(rgb, size, anchor)
    assert tile.shape == (size, size, 3)
    assert tile.dtype == np.uint8
    shown = np.argwhere((tile == 7).all(2))
    (top, left), (bottom, right) = shown.min(0), shown.max(0) + 1
    assert max(bottom - top, right - left) == size
    assert (tile == LETTERBOX_PAD).all(2).sum() == size * size - len(shown)
    height, width = rgb.shape[:2]
    corners = placement.to_tile(np.array([[0, 0, width, height]], np.float32))[0]
    np.testing.assert_allclose(corners, [left, top, right, bottom], atol=1e-3)


@pytest.mark.parametrize(
    ("anchor", "left", "top"),
    [
        ("centre", 0, 12),  # 25 px are left over: 12 above, 13 below, as ultralytics rounds
        ("top_left", 0, 0),
    ],
)
def test_anchors_place_as_the_frameworks_do(anchor: Anchor, left: int, top: int) -> None:
    _, placement = letterbox(np.zeros((75, 100, 3), np.uint8), 100, anchor)
    assert placement.offset_xy == (left, top)


def test_a_cell_stays_where_its_box_is() -> None:
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[100:200, 300:420] = 255
    tile, placement = letterbox(rgb, 416, "centre")
    x1, y1, x2, y2 = placement.to_tile(np.array([[300, 100, 420, 200]], np.float32))[0].round().astype(int)
    bright = np.argwhere(tile[..., 0] > 200)
    assert abs(bright.min(0) - [y1, x1]).max() <= 1
    assert abs(bright.max(0) + 1 - [y2, x2]).max() <= 1


def test_boxes_past_the_padding_are_clipped_to_the_image() -> None:
    _, placement = letterbox(np.zeros((50, 100, 3), np.uint8), 100, "centre")
    back = placement.to_image(np.array([[-10, 0, 110, 100]], np.float32))
    assert back.tolist() == [[0, 0, 100, 50]]


def test_shrinking_averages_so_that_thin_lines_do_not_vanish() -> None:
    rgb = np.zeros((1000, 1000, 3), np.uint8)
    rgb[:, ::10] = 250
    tile, _ = letterbox(rgb, 100)
    assert tile.min() > 10


@given(image_and_box(), st.floats(0, 20), st.floats(0, 1), st.sampled_from(["square", "stretched"]))
@settings(max_examples=150)
def test_a_crop_of_any_box_has_the_size_that_was_asked_for(
    image: tuple[np.ndarray, np.ndarray], margin_px: float, margin_fraction: float, shape: CropShape
) -> None:
    rgb, boxes = image
    out = crop(rgb, boxes[0], 32, margin_px, margin_fraction, shape)
    assert out.shape == (32, 32, 3)
    assert (out == 7).all()  # beyond the border stands the border, not a colour of ours


@pytest.mark.parametrize(
    ("box", "margin_px", "margin_fraction", "shape", "region"),
    [
        ((10, 20, 50, 40), 0, 0, "stretched", (10, 20, 50, 40)),  # the box itself
        ((10, 20, 50, 40), 0, 0, "square", (10, 10, 50, 50)),  # the shorter side grows both ways
        ((10, 20, 50, 40), 16, 0, "stretched", (-6, 4, 66, 56)),  # pixels on each side
        ((10, 20, 50, 40), 0, 0.25, "stretched", (0, 10, 60, 50)),  # a part of the longer side
        ((10, 20, 50, 40), 2, 0.25, "square", (-2, -2, 62, 62)),  # both, then squared
    ],
)
def test_the_margin_is_on_each_side(
    box: tuple[float, ...],
    margin_px: float,
    margin_fraction: float,
    shape: CropShape,
    region: tuple[int, ...],
) -> None:
    assert crop_region(np.array(box, np.float32), margin_px, margin_fraction, shape) == region


def test_a_crop_shows_what_is_in_the_box() -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    rgb[30:60, 40:70] = (10, 200, 30)
    out = crop(rgb, np.array([40, 30, 70, 60], np.float32), 30)
    assert (out == (10, 200, 30)).all()
    with_margin = crop(rgb, np.array([40, 30, 70, 60], np.float32), 60, margin_fraction=0.5)
    inside = (with_margin == (10, 200, 30)).all(2)
    assert inside[16:44, 16:44].all()
    assert not inside[:14].any()


@pytest.mark.parametrize(
    ("box", "before_px", "behind_px"),
    [
        ((40, 32, 68, 60), (0, 0), (0, 0)),
        ((0, 0, 28, 28), (1, 1), (0, 0)),  # the margin reaches over the left upper corner
        ((72, 52, 100, 80), (0, 0), (1, 1)),
    ],
)
def test_a_crop_of_its_own_size_has_the_pixels_and_beyond_the_border_those_of_the_border(
    box: tuple[int, ...], before_px: tuple[int, int], behind_px: tuple[int, int]
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    out = crop(rgb, np.array(box, np.float32), 30, margin_px=1)
    left, top, right, bottom = box
    inside = rgb[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
    padding = [*zip(before_px, behind_px, strict=True), (0, 0)]
    np.testing.assert_array_equal(out, np.pad(inside, padding, "edge"))


def test_clipping_and_areas() -> None:
    boxes = np.array([[-5, 2, 20, 8], [4, 4, 2, 9]], np.float32)
    assert clip_boxes(boxes, (10, 6)).tolist() == [[0, 2, 10, 6], [4, 4, 2, 6]]
    assert box_areas(boxes).tolist() == [150, 0]  # a box that is turned inside out has no area


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),  # the same
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),  # half over half
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # touching
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),  # one inside the other
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),  # nothing with nothing
    ],
)
def test_intersection_over_union(a: tuple[int, ...], b: tuple[int, ...], iou: float) -> None:
    matrix = iou_matrix(np.array([a], np.float32), np.array([b, a], np.float32))
    assert matrix.shape == (1, 2)
    assert matrix[0, 0] == pytest.approx(iou)
