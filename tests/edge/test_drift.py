"""A run of images unlike the training images is told once, and once that it is over."""

from edge.cells import Unlikeness
from edge.drift import Drift

LIKE = Unlikeness(0.5)
DARK = Unlikeness(1.5, "background darker, blurred")


def told(drift: Drift, images: list[Unlikeness]) -> list[int]:
    """At which of the images something changes."""
    return [place for place, image in enumerate(images, 1) if drift.note(image)]


def test_one_in_three_is_no_run_of_the_first_images() -> None:
    assert told(Drift(), [DARK] * 19 + [LIKE] * 100) == []


def test_a_run_is_told_once_however_long_it_is() -> None:
    drift = Drift()
    assert told(drift, [LIKE] * 100 + [DARK] * 500) == [120]
    assert drift.is_on
    assert str(drift) == "50 of the last 50 images are unlike the training images (mostly: background darker)"


def test_its_end_is_told_once_and_a_number_at_the_border_tells_nothing() -> None:
    drift = Drift()
    assert told(drift, [DARK] * 20) == [20]
    assert told(drift, [LIKE] * 30 + ([DARK] * 15 + [LIKE] * 35) * 4) == []
    assert told(drift, [LIKE] * 200) == [6]
    assert not drift.is_on


def test_few_marked_images_are_no_run() -> None:
    assert told(Drift(), ([DARK] + [LIKE] * 9) * 50) == []


def test_what_is_told_counts_the_marked_ones_among_the_recent() -> None:
    drift = Drift()
    told(drift, [Unlikeness(1.5, "blurred")] * 10 + [LIKE] * 4 + [DARK] * 12)
    assert str(drift) == "22 of the last 26 images are unlike the training images (mostly: blurred)"
    told(drift, [LIKE] * 40)
    assert str(drift) == "10 of the last 50 images are unlike the training images (mostly: background darker)"
