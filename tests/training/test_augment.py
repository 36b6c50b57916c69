"""What differs between stations may change everything about a cell but its place in the box."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from training.augment import VARIATIONS, Image, cut_off, jitter_box, turn, vary_station

HEIGHT, WIDTH = 60, 90
PAPER, CELL = (230, 220, 240), (90, 40, 140)


def seeded(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def cell_image() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [60, 90, 3] RGB with one cell, and its box."""
    rgb = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    rgb[5:20, 50:80] = CELL
    return rgb, np.float32([[50, 5, 80, 20]])


def smear() -> np.ndarray:
    """uint8 [60, 90, 3] RGB with every level in every channel."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


class TestTurn:
    def test_boxes_stay_on_their_cells_in_each_of_the_eight_layings(self) -> None:
        rgb, boxes = cell_image()
        layings = set()
        for seed in range(60):
            turned, turned_boxes = turn(rgb, boxes, seeded(seed))
            left, top, right, bottom = turned_boxes[0].astype(int)
            is_cell = (turned == CELL).all(2)
            assert is_cell[top:bottom, left:right].all()
            assert is_cell.sum() == (bottom - top) * (right - left) == 15 * 30
            layings.add((turned.shape, left, top))
        assert len(layings) == 8
        assert {shape for shape, _, _ in layings} == {(HEIGHT, WIDTH, 3), (WIDTH, HEIGHT, 3)}

    def test_an_image_without_cells_is_turned_too(self) -> None:
        rgb, _ = cell_image()
        turned = [turn(rgb, np.zeros((0, 4), np.float32), seeded(seed)) for seed in range(10)]
        assert all(boxes.shape == (0, 4) for _, boxes in turned)
        assert any(not np.array_equal(image, rgb) for image, _ in turned)


class TestVaryStation:
    def test_none_leaves_colours_within_one_level(self) -> None:
        rgb = smear()
        varied = vary_station(rgb, VARIATIONS["none"], seeded(1))
        assert np.abs(varied.astype(int) - rgb).max() <= 1

    @pytest.mark.parametrize("name", ["strong", "extreme", "widest"])
    def test_colours_change_and_the_image_keeps_its_shape(self, name: str) -> None:
        rgb, _ = cell_image()
        changes = []
        for seed in range(40):
            varied = vary_station(rgb, VARIATIONS[name], seeded(seed))
            assert varied.shape == rgb.shape
            assert varied.dtype == np.uint8
            changes.append(np.abs(varied.astype(int) - rgb).max())
        assert np.median(changes) > 10  # stations near the given one are drawn, too

    def test_without_hue_colours_change_and_hues_hardly_do(self) -> None:
        rgb, _ = cell_image()

        def hue(image: Image) -> float:
            planes = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL).astype(float)
            return float(np.angle((planes[..., 1] * np.exp(planes[..., 0] / 255 * 2j * np.pi)).sum()))

        shifts: dict[float, float] = {}
        for share in (0.0, 1.0):
            plain = replace(VARIATIONS["mild"], optics=0.0, hue=share)
            varied = [vary_station(rgb, plain, seeded(seed)) for seed in range(40)]
            turns = [np.angle(np.exp(1j * (hue(one) - hue(rgb)))) for one in varied]
            shifts[share] = float(np.abs(turns).mean())
            assert np.mean([np.abs(one.astype(int) - rgb).mean() for one in varied]) > 1
        assert shifts[0.0] < 0.2 * shifts[1.0]

    def test_variations_are_named_in_rising_order(self) -> None:
        rgb, _ = cell_image()

        def change(name: str) -> float:
            colours = replace(VARIATIONS[name], optics=0.0)
            varied = [vary_station(rgb, colours, seeded(seed)).astype(float) for seed in range(40)]
            return float(np.mean([np.abs(one - rgb).mean() for one in varied]))

        changes = [change(name) for name in ("none", "mild", "strong", "extreme", "widest")]
        assert changes == sorted(changes)
        assert changes[0] < 1 < changes[1]

    @pytest.mark.parametrize("name", list(VARIATIONS))
    def test_any_image_can_be_varied(self, name: str) -> None:
        awkward = [np.zeros((1, 1, 3), np.uint8), np.full((5, 300, 3), 255, np.uint8), smear()[::-1, ::-1]]
        for rgb in awkward:
            for seed in range(15):
                assert vary_station(rgb, VARIATIONS[name], seeded(seed)).shape == rgb.shape

    def test_optics_blur_or_sharpen_and_leave_the_mean_colour(self) -> None:
        rgb, _ = cell_image()
        optics_only = replace(VARIATIONS["none"], optics=1.0)
        varied = vary_station(rgb, optics_only, seeded(3)).astype(float)
        assert np.abs(varied - rgb).max() > 10
        assert varied.mean((0, 1)) == pytest.approx(rgb.mean((0, 1)), abs=4)

    def test_tone_curves_darken_and_lighten_each_channel_and_keep_white(self) -> None:
        rgb = np.stack([np.arange(256, dtype=np.uint8)] * 3, -1)[None]
        tone_only = replace(VARIATIONS["none"], tone=0.5)
        middle = np.array([vary_station(rgb, tone_only, seeded(seed))[0, 128] for seed in range(40)])
        ends = [vary_station(rgb, tone_only, seeded(seed))[0, -1].min() for seed in range(40)]
        assert min(ends) >= 254
        assert (middle.min(0) < 110).all()
        assert (middle.max(0) > 146).all()
        assert np.ptp(middle.astype(int), axis=1).max() > 10  # each channel has its own
        alike = replace(tone_only, hue=0.0)
        assert np.ptp(vary_station(rgb, alike, seeded(0))[0, 128].astype(int)) <= 1

    def test_the_strongest_blur_grows_with_the_picture(self) -> None:
        focus_only = replace(VARIATIONS["none"], optics=1.0)

        def sharpness(blur: float) -> float:
            rgb = np.kron(cell_image()[0], np.ones((4, 4, 1), np.uint8))
            varied = [vary_station(rgb, replace(focus_only, blur=blur), seeded(s)) for s in range(20)]
            return float(np.mean([cv2.Laplacian(one, cv2.CV_32F).std() for one in varied]))

        assert sharpness(0.03) < 0.9 * sharpness(0.0)


class TestCutOff:
    def test_at_most_a_third_of_a_cell_is_gone_and_the_box_is_what_is_left_of_it(self) -> None:
        rgb, boxes = cell_image()
        shares, lines = [], set()
        for seed in range(200):
            rest, box = cut_off(rgb, boxes[0], 1.0, seeded(seed))
            is_cell = (rest == CELL).all(2)
            left, top, right, bottom = box.astype(int)
            assert is_cell[top:bottom, left:right].all()
            assert is_cell.sum() == (bottom - top) * (right - left)
            shares.append(((right - left) / 30, (bottom - top) / 15))
            lines.add((rest.shape[1] < WIDTH, rest.shape[0] < HEIGHT))
        assert 0.63 < np.min(shares) < 0.7
        assert np.max(shares) == 1
        assert {(True, False), (False, True), (True, True)} <= lines

    def test_its_chance_is_that_of_a_cut(self) -> None:
        rgb, boxes = cell_image()
        n_cut = sum(cut_off(rgb, boxes[0], 0.3, seeded(s))[0].shape != rgb.shape for s in range(300))
        assert 60 < n_cut < 120

    def test_a_box_that_leaves_the_image_leaves_something_of_it(self) -> None:
        rgb, _ = cell_image()
        outside = np.float32([WIDTH - 2, HEIGHT - 2, WIDTH + 60, HEIGHT + 60])
        for seed in range(40):
            rest, box = cut_off(rgb, outside, 1.0, seeded(seed))
            assert rest.size
            assert (box[2:] > box[:2]).all()


class TestJitterBox:
    @pytest.mark.parametrize(("shift", "scale"), [(0.0, 0.0), (0.06, 0.0), (0.0, 0.12), (0.1, 0.3)])
    def test_no_corner_goes_farther_than_asked(self, shift: float, scale: float) -> None:
        box = np.float32([100, 50, 180, 90])
        moved = np.array([jitter_box(box, shift, scale, seeded(seed)) for seed in range(400)])
        sides = np.array([80, 40, 80, 40])
        farthest = np.abs(moved - box).max(0) / sides
        limit = shift + scale / 2
        assert (farthest <= limit + 1e-6).all()
        assert (farthest >= 0.8 * limit).all()
        assert moved.dtype == np.float32
        assert (moved[:, 2:] > moved[:, :2]).all()

    def test_a_shift_keeps_the_size(self) -> None:
        box = np.float32([100, 50, 180, 90])
        moved = jitter_box(box, 0.3, 0.0, seeded(2))
        assert moved[2:] - moved[:2] == pytest.approx([80, 40], abs=1e-4)
        assert not np.array_equal(moved, box)


Drawn = Callable[[np.random.Generator], tuple[np.ndarray, ...]]


def draws() -> dict[str, tuple[Drawn, tuple[np.ndarray, ...]]]:
    """Each function with the arrays that it is given."""
    rgb, boxes = cell_image()
    return {
        "turn": (lambda rng: turn(rgb, boxes, rng), (rgb, boxes)),
        "vary_station": (lambda rng: (vary_station(rgb, VARIATIONS["extreme"], rng),), (rgb,)),
        "cut_off": (lambda rng: cut_off(rgb, boxes[0], 0.5, rng), (rgb, boxes)),
        "jitter_box": (lambda rng: (jitter_box(boxes[0], 0.1, 0.1, rng),), (boxes,)),
    }


@pytest.mark.parametrize("name", ["turn", "vary_station", "cut_off", "jitter_box"])
class TestEveryDraw:
    def test_is_decided_by_its_generator_alone(self, name: str) -> None:
        draw, _ = draws()[name]
        results = [
            tuple(array.tobytes() for array in draw(seeded(seed))) for seed in (*range(10), *range(10))
        ]
        assert results[:10] == results[10:]
        assert len(set(results)) > 3

    def test_leaves_its_inputs_as_they_are(self, name: str) -> None:
        draw, inputs = draws()[name]
        before = [array.copy() for array in inputs]
        for seed in range(15):
            draw(seeded(seed))
        assert all(np.array_equal(array, copy) for array, copy in zip(inputs, before, strict=True))
