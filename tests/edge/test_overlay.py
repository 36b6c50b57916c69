"""Annotated copies."""

from pathlib import Path

import numpy as np
from PIL import Image

from edge.cells import Finding
from edge.overlay import annotate, save_overlay
from edge.records import State
from edge.tasks import ImageResult


def finding(*box: float, label: str = "LY") -> Finding:
    return Finding(tuple(map(float, box)), label, 0.9, 0.8, {label: 0.8})


def test_the_box_is_drawn_in_the_colour_of_the_lineage_and_the_original_is_kept() -> None:
    rgb = np.full((300, 400, 3), 200, np.uint8)
    rgb.flags.writeable = False  # as the decoder gives it
    picture = annotate(rgb, [finding(100, 120, 200, 220), finding(250, 120, 350, 220, label="MO")])
    assert picture[170, 100].tolist() == [230, 159, 0]
    assert picture[170, 250].tolist() == [0, 114, 178]
    assert (picture[130:210, 110:190] == 200).all()  # the cell itself stays clear
    assert (rgb == 200).all()


def test_labels_stay_inside_the_picture() -> None:
    rgb = np.full((120, 160, 3), 200, np.uint8)
    for corner in ((0, 0), (150, 0), (0, 110), (150, 110)):
        x, y = corner
        picture = annotate(rgb, [finding(x, y, x + 9, y + 9)])
        assert picture.shape == rgb.shape
        assert (picture != rgb).any(2).sum() > 300


def test_copies_of_samples_with_equal_names_do_not_meet(tmp_path: Path) -> None:
    rgb = np.zeros((40, 50, 3), np.uint8)
    for sample in ("", "a", "a/b"):
        result = ImageResult(Path("/in/x.png"), sample, State.DONE, is_new=True, rgb=rgb)
        save_overlay(tmp_path, result)
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert made == ["a/b/x.png.jpg", "a/x.png.jpg", "x.png.jpg"]
    with Image.open(tmp_path / "a/x.png.jpg") as picture:
        assert picture.size == (50, 40)


def test_an_image_that_was_not_read_gets_no_copy(tmp_path: Path) -> None:
    save_overlay(tmp_path, ImageResult(Path("x.jpg"), "", State.REJECTED, "empty", is_new=True))
    assert list(tmp_path.iterdir()) == []
