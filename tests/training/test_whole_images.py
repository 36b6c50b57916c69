"""Whole images are shown to a network in training as the station shows them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from build_engines.checkpoint import CropGeometry
from edge.classification import inputs_of
from edge.geometry import CropShape
from edge.manifest import ClassifierSpec, GraphFiles
from training.annotations import AnnotatedImage, read_pixels
from training.augment import VARIATIONS
from training.targets import targets_of
from training.whole_images import WholeImageDataset, alone, whole_images_of

CLASSES = ("LY", "PNN")


def image_of(name: str, boxes: Sequence[np.ndarray], labels: Sequence[str | None]) -> AnnotatedImage:
    return AnnotatedImage(name, Path(name), np.stack(boxes), tuple(labels), "lab")


def images(*labels: tuple[str | None, ...]) -> list[AnnotatedImage]:
    return [image_of(f"{n}.jpg", [np.float32([0, 0, 9, 9])] * len(one), one) for n, one in enumerate(labels)]


MIXED = images(("PNN",), ("PNN", "PNN"), ("PNN", "LY"), ("LY", None), ("PNN",))


@pytest.mark.parametrize(
    ("several", "names"), [(False, ["0.jpg", "1.jpg", "4.jpg"]), (True, ["0.jpg", "1.jpg", "2.jpg", "4.jpg"])]
)
def test_those_with_a_nameless_cell_or_several_classes_are_left_out_and_counted(
    several: bool, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    kept = whole_images_of(MIXED, several=several)
    assert [one.image.name for one in kept] == names
    assert [one.label for one in kept if len(set(one.cells)) == 2] == (["LY"] if several else [])  # the rarer
    assert f"of 5 images {5 - len(names)} are left out: 1 with a cell without a class" in caplog.text
    assert [one.image.name for one in alone(kept)] == ["0.jpg", "4.jpg"]


def test_every_class_on_an_image_is_a_target() -> None:
    assert targets_of(whole_images_of(MIXED, several=True), CLASSES).tolist() == [
        [0, 1],
        [0, 1],
        [1, 1],
        [0, 1],
    ]


@pytest.mark.parametrize("shape", ["square", "stretched"])
def test_are_shown_as_by_the_station(smears: list[AnnotatedImage], shape: CropShape) -> None:
    geometry = CropGeometry(64, shape=shape, view="tile", margin_fraction=0.0)
    whole = whole_images_of(smears, several=False)
    shown, target = WholeImageDataset(whole, targets_of(whole, CLASSES), geometry)[0]
    files = GraphFiles(fp32="a", fp16="b")
    spec = ClassifierSpec(
        name="", graph=files, crop_size=64, view="tile", margin_px=0, margin_fraction=0, shape=shape
    )
    assert np.array_equal(shown, inputs_of(read_pixels(smears[0]), smears[0].boxes_xyxy, spec)[0])
    assert target.tolist() == [0, 1]


def test_are_varied_for_training_by_torchs_generator(smears: list[AnnotatedImage]) -> None:
    whole = whole_images_of(smears, several=False)
    geometry = CropGeometry(64, view="tile")
    dataset = WholeImageDataset(whole, targets_of(whole, CLASSES), geometry, VARIATIONS["strong"])

    def series() -> list[bytes]:
        torch.manual_seed(5)
        return [dataset[0][0].numpy().tobytes() for _ in range(3)]

    assert len(set(series())) == 3
    assert series() == series()
