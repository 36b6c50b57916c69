"""An image is held against the nearest source of training images, and told in what it differs."""

import numpy as np
import pytest
from pydantic import ValidationError

from edge.appearance import NAMES, WITHOUT_CELLS, Floats
from edge.bundle import Bundle, embedded_bundle
from edge.likeness import Likeness
from edge.manifest import ImageSource, Manifest, TrainingImages

ONES = np.ones(len(NAMES))


def source(name: str, mean: float, deviation: float = 1.0) -> ImageSource:
    correlation = tuple(tuple(row) for row in np.eye(len(NAMES)).tolist())
    numbers = len(NAMES)
    return ImageSource(
        name=name,
        images=50,
        mean=(mean,) * numbers,
        deviation=(deviation,) * numbers,
        correlation=correlation,
    )


def known(*sources: ImageSource, limit: float = 2.0, limit_without_cells: float = 2.0) -> TrainingImages:
    return TrainingImages(
        statistics=NAMES, sources=sources, limit=limit, limit_without_cells=limit_without_cells
    )


TWO = Likeness(known(source("left", 0.0), source("right", 20.0)))


@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_an_image_like_any_one_source_is_not_marked(mean: float) -> None:
    found = TWO.judge(ONES * (mean + 0.5))
    assert (found.is_marked, found.because) == (False, "")
    assert found.ratio == pytest.approx(0.25)


def test_an_image_between_two_sources_is_unlike_both() -> None:
    assert TWO.judge(ONES * 10).is_marked


@pytest.mark.parametrize(
    ("name", "by", "words"),
    [
        ("background density", 9, "background darker"),
        ("background density", -9, "background brighter"),
        ("stain blue", 9, "stained bluer"),
        ("sharpness", -9, "blurred"),
        ("cell size", 9, "cells larger"),
    ],
)
def test_the_words_name_what_differs(name: str, by: float, words: str) -> None:
    assert TWO.judge(by * (np.array(NAMES) == name)).because == words


def test_the_greatest_two_differences_are_named_the_greatest_first() -> None:
    appearance = np.zeros(len(NAMES))
    appearance[[0, 6, 7]] = 8, -9, 7
    assert TWO.judge(appearance).because == "blurred, background darker"


def test_the_difference_is_from_the_source_that_most_numbers_agree_with() -> None:
    """The wide source is nearer, but its cells and stain are others."""
    likeness = Likeness(known(source("narrow", 0.0), source("wide", 10.0, deviation=4.0)))
    assert likeness.judge(16 * (np.array(NAMES) == "background density")).because == "background darker"
    assert TWO.judge(ONES * 20 + 9 * (np.array(NAMES) == "sharpness")).because == "sharper or noisier"


def test_an_image_without_cells_has_a_limit_of_its_own() -> None:
    likeness = Likeness(known(source("one", 0.0), limit=1.0, limit_without_cells=4.0))
    assert likeness.judge(2 * ONES).ratio == pytest.approx(2)
    assert likeness.judge(2 * ONES[:WITHOUT_CELLS]).ratio == pytest.approx(0.5)


def test_numbers_that_vary_together_must_do_so_here() -> None:
    """Both are within their own deviations; together they are not."""
    correlation = np.eye(len(NAMES))
    correlation[0, 1] = correlation[1, 0] = 0.99
    of_two = source("one", 0.0).model_copy(update={"correlation": tuple(map(tuple, correlation.tolist()))})
    likeness = Likeness(known(of_two))
    together, against = np.zeros((2, len(NAMES)))
    together[:2], against[:2] = (1.5, 1.5), (1.5, -1.5)
    assert not likeness.judge(together).is_marked
    assert likeness.judge(against).is_marked
    assert likeness.judge(against).because  # whatever is the greatest difference


def test_without_cells_the_numbers_of_cells_are_unknown_and_not_their_mean() -> None:
    """Cells vary with the background here: were they at their mean, it would be stranger than it is."""
    correlation = np.eye(len(NAMES))
    correlation[0, 8] = correlation[8, 0] = 0.99
    of_two = source("one", 0.0).model_copy(update={"correlation": tuple(map(tuple, correlation.tolist()))})
    darker = 3 * (np.arange(WITHOUT_CELLS) == 0)
    assert Likeness(known(of_two)).judge(darker).ratio == pytest.approx(3 / np.sqrt(WITHOUT_CELLS) / 2)


def changed(**update: object) -> TrainingImages:
    return TrainingImages.model_validate({**known(source("one", 0.0)).model_dump(), **update})


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (
            {"statistics": ("redness",)},
            "it has the statistics redness, this version measures background density",
        ),
        ({"sources": ()}, "at least 1 item"),
        ({"limit": 0.0}, "greater than 0"),
        ({"sources": ({**source("s", 0.0).model_dump(), "mean": (1.0,)},)}, "s has 1, 11 numbers where 11"),
        (
            {"sources": ({**source("s", 0.0).model_dump(), "correlation": np.ones((11, 11)).tolist()},)},
            "the correlation of s is not positive definite",
        ),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(update: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(**update)


def test_a_bundle_without_statistics_is_written_as_before() -> None:
    manifest = Bundle.load(embedded_bundle()).manifest
    without = manifest.model_copy(update={"training_images": None})
    assert "training_images" not in without.dump()
    of_two = manifest.model_copy(update={"training_images": known(source("one", 0.0))})
    assert Manifest.model_validate_json(of_two.dump()) == of_two


def test_judging_does_not_change_the_numbers() -> None:
    appearance: Floats = ONES * 3
    TWO.judge(appearance)
    assert np.array_equal(appearance, ONES * 3)
