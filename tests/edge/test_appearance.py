"""What an image looks like, in numbers that change with what a person would see."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.appearance import NAMES, WITHOUT_CELLS, appearance_of
from edge.cells import Finding
from edge.demo.renderer import draw_field, draw_tile

Image = NDArray[np.uint8]


def finding(x1: float, y1: float, x2: float, y2: float) -> Finding:
    return Finding((x1, y1, x2, y2), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})


def drawn() -> tuple[Image, list[Finding]]:
    smear = draw_tile(3)
    return smear.rgb, [finding(*box) for box in smear.boxes_xyxy]


def number(rgb: Image, findings: list[Finding], name: str) -> float:
    appearance = appearance_of(rgb, findings)
    assert appearance is not None
    return float(appearance[NAMES.index(name)])


def light(rgb: Image, red: float = 1, green: float = 1, blue: float = 1) -> Image:
    return (rgb * np.array([red, green, blue])).astype(np.uint8)


def test_a_plain_image_has_the_optical_density_of_its_colour() -> None:
    rgb = np.full((40, 50, 3), (51, 255, 255), np.uint8)
    density = -np.log10(51 / 255)
    expected = [density / 3, density, -density / 2, 0, 0, 0, 0]
    assert appearance_of(rgb, []) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("background density", lambda rgb: light(rgb, 0.7, 0.7, 0.7)),
        ("background blue", lambda rgb: light(rgb, red=0.7)),
        ("background pink", lambda rgb: light(rgb, green=0.7)),
    ],
)
def test_light_changes_the_background_and_not_the_stain(name: str, change: object) -> None:
    rgb, cells = drawn()
    changed = change(rgb)  # type: ignore[operator]
    assert number(changed, cells, name) > number(rgb, cells, name) + 0.1
    for stain in ("stain density", "stain blue", "nucleus density", "nucleus pink"):
        assert number(changed, cells, stain) == pytest.approx(number(rgb, cells, stain), abs=0.03)


def test_a_blurred_image_is_less_sharp_whatever_its_contrast() -> None:
    rgb, cells = drawn()
    sharp = number(rgb, cells, "sharpness")
    assert number(np.asarray(cv2.GaussianBlur(rgb, (0, 0), 2)), cells, "sharpness") < sharp - 0.2
    pale = (255 - (255 - rgb.astype(int)) // 2).astype(np.uint8)
    assert number(pale, cells, "sharpness") == pytest.approx(sharp, abs=0.1)


def test_nuclei_are_looked_at_in_the_boxes() -> None:
    rgb = np.full((200, 200, 3), 230, np.uint8)
    cv2.circle(rgb, (60, 60), 20, (90, 30, 140), -1)  # a nucleus, which takes out most green
    at = [finding(30, 30, 90, 90)]
    assert number(rgb, at, "nucleus density") > 0.4
    assert number(rgb, at, "nucleus pink") > 0.3
    assert number(rgb, [finding(120, 120, 180, 180)], "nucleus density") == pytest.approx(0, abs=1e-9)
    assert number(rgb, at, "cell size") == pytest.approx(np.log(60))


def test_without_cells_the_first_numbers_are_the_same() -> None:
    rgb, cells = drawn()
    whole, without = appearance_of(rgb, cells), appearance_of(rgb, [])
    assert whole is not None
    assert without is not None
    assert (len(whole), len(without)) == (len(NAMES), WITHOUT_CELLS)
    assert np.array_equal(whole[:WITHOUT_CELLS], without)


@pytest.mark.parametrize(
    "box", [(-3, -3, 8, 8), (355, 355, 360, 360), (359.5, 0, 360, 0.5), (0, 0, 360, 360)]
)
def test_boxes_at_the_border_give_numbers(box: tuple[float, float, float, float]) -> None:
    rgb, _ = drawn()
    appearance = appearance_of(rgb, [finding(*box)])
    assert appearance is not None
    assert np.isfinite(appearance).all()


@pytest.mark.parametrize("shape", [(16, 16), (17, 3000), (3000, 17), (1200, 1600)])
@pytest.mark.parametrize("level", [0, 255])
def test_any_size_and_any_level_give_numbers(shape: tuple[int, int], level: int) -> None:
    appearance = appearance_of(np.full((*shape, 3), level, np.uint8), [finding(1, 1, 9, 9)])
    assert appearance is not None
    assert np.isfinite(appearance).all()


def test_an_image_of_a_few_pixels_has_no_appearance() -> None:
    assert appearance_of(np.zeros((15, 400, 3), np.uint8), []) is None


def test_a_field_is_told_by_a_sample_of_its_pixels() -> None:
    rgb = draw_field(2, 12).rgb
    whole = -np.log10(np.maximum(rgb, 1) / 255).mean()
    background, stain = number(rgb, [], "background density"), number(rgb, [], "stain density")
    assert background + stain == pytest.approx(whole, abs=0.01)
