"""The limit lets about as many training images be marked as it is told to; what it never saw is marked."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.appearance import NAMES, WITHOUT_CELLS, Floats, appearance_of
from edge.cells import Finding
from edge.demo.renderer import draw_tile
from edge.likeness import Likeness
from edge.manifest import TrainingImages
from tests.real_files import data_path
from training.annotations import AnnotatedImage, read_beside, read_pixels
from training.appearances import describe, left_out, marked_of
from training.errors import AnnotationError

Boxes = NDArray[np.float32]


def normal(mean: float, count: int, seed: int = 0, deviation: float = 0.1) -> Floats:
    return np.random.default_rng(seed).normal(mean, deviation, (count, len(NAMES)))


def test_of_new_images_of_the_same_sources_about_the_given_part_is_marked() -> None:
    known = describe({"a": normal(0, 300), "b": normal(3, 100, 1)}, 0.05)
    for mean in (0, 3):
        share = marked_of(known, normal(mean, 2000, 2))
        assert 0.02 < share.fraction < 0.10
        assert 0.5 < share.median_ratio < 1


def test_without_cells_about_the_same_part_is_marked() -> None:
    known = describe({"a": normal(0, 300)}, 0.05)
    assert 0.02 < marked_of(known, normal(0, 2000, 2)[:, :WITHOUT_CELLS]).fraction < 0.10


def test_a_source_that_was_left_out_is_marked() -> None:
    shares = left_out({"a": normal(0, 100), "b": normal(1, 60, 1), "a again": normal(0, 80, 2)}, 0.05)
    assert shares["b"].fraction == 1
    assert shares["a"].fraction < 0.2
    assert (shares["b"].images, shares["b"].marked) == (60, 60)


def test_one_source_alone_cannot_be_left_out() -> None:
    assert left_out({"a": normal(0, 100)}, 0.05) == {}


def test_a_small_source_counts_as_much_as_a_large_one_in_the_limit() -> None:
    """The large one has heavy tails, which alone would set the limit."""
    heavy = np.random.default_rng(0).standard_t(2, (2000, len(NAMES)))
    alone = describe({"heavy": heavy}, 0.05).limit
    assert describe({"heavy": heavy, "calm": normal(50, 40, 1)}, 0.05).limit < alone


def test_a_number_that_never_varies_leaves_room_for_others() -> None:
    still = normal(0, 50)
    still[:, 0] = 0.0
    known = describe({"a": still}, 0.05)
    nearly = still[0].copy()
    nearly[0] = 0.005
    assert not Likeness(known).judge(nearly).is_marked


@pytest.mark.parametrize(
    ("appearances", "message"),
    [
        ({}, "No source has 20 images"),
        ({"tiny": normal(0, 19)}, "The source tiny has 19 images in which a cell is found, 20 are needed"),
    ],
)
def test_too_few_images_are_refused(appearances: dict[str, Floats], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        describe(appearances, 0.05)


def looked_at(rgb: NDArray[np.uint8], boxes: Boxes) -> Floats:
    findings = [Finding(tuple(map(float, box)), "PNN", 0.9, 0.9, {"PNN": 1.0}) for box in boxes]  # type: ignore[arg-type]
    appearance = appearance_of(rgb, findings)
    assert appearance is not None
    return appearance


@pytest.fixture(scope="module")
def images() -> dict[str, list[AnnotatedImage]]:
    """Real images of five sources by their annotated boxes, a hundred at most of each."""
    files = [data_path(f"smears/{name}.csv") for name in ("train", "detection_only_train")]
    found: dict[str, list[AnnotatedImage]] = {}
    for image in read_beside(files):
        found.setdefault(image.source, []).append(image)
    return {name: found[name][:100] for name in ("bccd", "bcd", "lmu_aml", "pbc", "raabin_txl")}


@pytest.fixture(scope="module")
def appearances(images: dict[str, list[AnnotatedImage]]) -> dict[str, Floats]:
    return {
        source: np.array([looked_at(read_pixels(one), one.boxes_xyxy) for one in of_source])
        for source, of_source in images.items()
    }


@pytest.fixture(scope="module")
def known(appearances: dict[str, Floats]) -> TrainingImages:
    return describe({source: numbers[::2] for source, numbers in appearances.items()}, 0.025)


def test_real_images_of_the_same_sources_are_mostly_not_marked(
    appearances: dict[str, Floats], known: TrainingImages
) -> None:
    marked = [marked_of(known, numbers[1::2]).marked for numbers in appearances.values()]
    assert sum(marked) <= 0.1 * sum(len(numbers[1::2]) for numbers in appearances.values())


@pytest.mark.parametrize("source", ["bcd", "lmu_aml", "raabin_txl", "pbc"])
def test_a_real_source_of_another_stain_and_camera_is_marked(
    appearances: dict[str, Floats], source: str
) -> None:
    assert left_out(appearances, 0.025)[source].fraction > 0.9


def test_drawn_smears_are_unlike_real_ones(known: TrainingImages) -> None:
    smears = [draw_tile(seed) for seed in range(20)]
    drawn = np.array([looked_at(smear.rgb, smear.boxes_xyxy) for smear in smears])
    assert marked_of(known, drawn).fraction > 0.6


def words(known: TrainingImages, numbers: Sequence[Floats]) -> list[str]:
    likeness = Likeness(known)
    return [likeness.judge(one).because for one in numbers]


def test_blur_and_a_dim_lamp_are_called_by_their_names(
    images: dict[str, list[AnnotatedImage]], known: TrainingImages
) -> None:
    of_pbc = [(read_pixels(one), one.boxes_xyxy) for one in images["pbc"][1:40:2]]
    blurred = [looked_at(np.asarray(cv2.GaussianBlur(rgb, (0, 0), 3)), boxes) for rgb, boxes in of_pbc]
    dim = [looked_at((rgb * 0.7).astype(np.uint8), boxes) for rgb, boxes in of_pbc]
    yellow = [looked_at((rgb * [1, 1, 0.7]).astype(np.uint8), boxes) for rgb, boxes in of_pbc]
    for numbers, expected in (
        (blurred, "blurred"),
        (dim, "background darker"),
        (yellow, "background yellower"),
    ):
        told = words(known, numbers)
        assert sum(expected in because for because in told) >= 0.8 * len(told), told
