import numpy as np
import pytest
from numpy.typing import NDArray

from edge.cells import cell_class
from edge.demo.drawing import prepare_slide
from edge.demo.leukocytes import DRAWN_CLASSES, draw_leukocyte
from edge.demo.renderer import DrawnSmear, draw_field, draw_tile

SMALL_FIELD_WH = (800, 600)


def assert_inside(smear: DrawnSmear) -> None:
    height, width = smear.rgb.shape[:2]
    left, top, right, bottom = smear.boxes_xyxy.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    assert (right - left > 10).all()
    assert (bottom - top > 10).all()


def extent_xyxy(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize("draw", [draw_tile, lambda seed: draw_field(seed, 3, SMALL_FIELD_WH)])
def test_same_seed_gives_same_pixels_and_truth(draw) -> None:  # type: ignore[no-untyped-def]
    first, second = draw(7), draw(7)
    np.testing.assert_array_equal(first.rgb, second.rgb)
    np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert first.labels == second.labels


def test_another_seed_gives_another_smear() -> None:
    assert (draw_tile(1, "LY").rgb != draw_tile(2, "LY").rgb).mean() > 0.5


def test_the_ten_classes_are_classes_of_the_challenge() -> None:
    assert len(set(DRAWN_CLASSES)) == 10
    assert [cell_class(code).code for code in DRAWN_CLASSES] == list(DRAWN_CLASSES)


@pytest.mark.parametrize("label", DRAWN_CLASSES)
def test_a_tile_shows_the_class_asked_for_near_its_middle(label: str) -> None:
    smear = draw_tile(3, label)
    assert smear.labels == (label,)
    assert smear.boxes_xyxy.shape == (1, 4)
    assert smear.boxes_xyxy.dtype == np.float32
    assert_inside(smear)
    left, top, right, bottom = smear.boxes_xyxy[0].tolist()
    assert left < 180 < right
    assert top < 181 < bottom


def test_a_tile_without_a_wish_shows_every_class_in_time() -> None:
    assert {draw_tile(seed, size_wh=(64, 64)).labels[0] for seed in range(80)} == set(DRAWN_CLASSES)


@pytest.mark.parametrize("label", DRAWN_CLASSES)
def test_the_box_is_tight_around_what_was_drawn(label: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        density = np.zeros((400, 400, 3), np.float32)
        slide = prepare_slide(rng, px_per_um=10.0)
        box = draw_leukocyte(rng, density, slide, label, (190.3, 205.8), 70.0)
        np.testing.assert_allclose(box, extent_xyxy(density.max(axis=2) > 0.02), atol=3)


def test_the_box_of_a_cut_cell_ends_where_the_image_ends() -> None:
    rng = np.random.default_rng(0)
    density = np.zeros((300, 300, 3), np.float32)
    box = draw_leukocyte(rng, density, prepare_slide(rng, 10.0), "MO", (290.0, 10.0), 70.0)
    assert box[1] == 0
    assert box[2] == 300
    assert 200 < box[0] < 240
    assert 60 < box[3] < 100


@pytest.mark.parametrize("label", ["PNN", "BA", "LY", "MO", "Er", "M", "MM", "PM"])
def test_the_box_of_a_tile_holds_its_stained_nucleus(label: str) -> None:
    for seed in range(4):
        smear = draw_tile(seed, label)
        # Chromatin takes away red light; red cells let most of it through.
        red = smear.rgb[..., 0].astype(float)
        left, top, right, bottom = smear.boxes_xyxy[0].astype(int)
        in_box = np.zeros(red.shape, bool)
        in_box[top:bottom, left:right] = True
        assert np.median(red[~in_box]) - np.percentile(red[in_box], 8) > 45


def test_an_eosinophil_is_redder_than_a_lymphocyte_of_the_same_slide() -> None:
    def redness(label: str) -> float:
        rng = np.random.default_rng(5)
        slide = prepare_slide(rng, px_per_um=10.0)
        density = np.zeros((200, 200, 3), np.float32)
        draw_leukocyte(rng, density, slide, label, (100.0, 100.0), 60.0)
        return float((density[..., 1] - density[..., 0]).sum() / density.sum())

    assert redness("EO") > redness("LY") + 0.05


def test_a_field_holds_as_many_cells_as_asked_for() -> None:
    smear = draw_field(11, cells=9, size_wh=(1200, 900))
    assert smear.boxes_xyxy.shape == (9, 4)
    assert smear.boxes_xyxy.dtype == np.float32
    assert len(smear.labels) == 9
    assert set(smear.labels) <= set(DRAWN_CLASSES)
    assert_inside(smear)


def test_cells_of_a_field_hardly_overlap() -> None:
    boxes = draw_field(4, cells=20, size_wh=(2000, 1500)).boxes_xyxy
    top_left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    np.fill_diagonal(shared, 0)
    assert (shared / area[:, None]).max() < 0.1


def test_a_field_can_be_without_leukocytes_and_still_shows_red_cells() -> None:
    smear = draw_field(2, cells=0, size_wh=SMALL_FIELD_WH)
    assert smear.boxes_xyxy.shape == (0, 4)
    assert smear.labels == ()
    # Haemoglobin takes away green light, under every lamp.
    covered, empty = np.percentile(smear.rgb[..., 1], [10, 95])
    assert empty - covered > 25


@pytest.mark.parametrize("size_wh", [(360, 363), (200, 640), (61, 47)])
def test_sizes_are_honoured(size_wh: tuple[int, int]) -> None:
    for smear in (draw_tile(1, size_wh=size_wh), draw_field(1, cells=2, size_wh=size_wh)):
        assert smear.rgb.shape == (size_wh[1], size_wh[0], 3)
        assert smear.rgb.dtype == np.uint8
        assert_inside(smear)


def test_a_class_that_cannot_be_drawn_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"SS.*use one of PNN"):
        draw_tile(0, "SS")


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        draw_field(0, cells=-1)
