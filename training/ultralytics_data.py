"""Annotated images as ultralytics reads them: classes, files, and the variation behind its mosaics."""

import logging
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from build_engines.families import import_ultralytics
from edge.cells import CELL_CLASSES
from edge.geometry import clip_boxes
from training.annotations import AnnotatedImage, read_pixels
from training.augment import Variation, turn, vary_station
from training.loop import TrainingError

import_ultralytics()  # switches its reports off, which it must find switched when it is first imported
from ultralytics.data.augment import BaseTransform, Compose  # noqa: E402
from ultralytics.data.dataset import YOLODataset  # noqa: E402
from ultralytics.utils import YAML  # noqa: E402

log = logging.getLogger(__name__)

LEUKOCYTE = "leukocyte"
"""The one class of a detector that only finds."""


def classes_of(images: Sequence[AnnotatedImage]) -> tuple[str, ...]:
    """Codes of the classes of the images that can be used, in the order of a differential count.

    Raises:
        TrainingError: there are fewer than two.
    """
    present = {label for image in images if None not in image.labels for label in image.labels}
    classes = tuple(one.code for one in CELL_CLASSES if one.code in present)
    if len(classes) < 2:
        raise TrainingError(
            f"A one-stage detector needs at least 2 classes and the training images have {len(classes)}; add "
            "images whose leukocytes all have a class, or train without --one-stage."
        )
    return classes


def usable_images(
    images: Sequence[AnnotatedImage], classes: tuple[str, ...], what: str
) -> list[AnnotatedImage]:
    """The images of which every leukocyte can be named; all of them for a detector that only finds.

    Raises:
        TrainingError: there is none.
    """
    if classes == (LEUKOCYTE,):
        usable = list(images)
    else:
        usable = [image for image in images if set(image.labels) <= set(classes)]
    if len(usable) < len(images):
        log.warning(
            "%d of %d %s images have a leukocyte without a class, or of one that no training image has,"
            " and were left out", len(images) - len(usable), len(images), what,
        )  # fmt: skip
    if not usable:
        raise TrainingError(
            f"None of the {len(images)} {what} images can be used; give images with boxes"
            f"{'' if classes == (LEUKOCYTE,) else ' of the classes ' + ', '.join(classes)}."
        )
    return usable


def write_dataset(
    training: Sequence[AnnotatedImage],
    validation: Sequence[AnnotatedImage],
    classes: Sequence[str],
    folder: Path,
    *,
    longest_side_px: int,
    variation: Variation,
) -> Path:
    """A dataset as ultralytics reads it, in a folder that is written anew; returns its `data.yaml`.

    Args:
        training: images whose labels are all in `classes`, unless that is `LEUKOCYTE` alone.
        validation: the same.
        classes: names in the order of their numbers.
        folder: of the dataset.
        longest_side_px: larger images are written down to this size.
        variation: of the training images when they are read; it travels in `data.yaml`, which is what
            ultralytics' launcher hands to its processes on several cards.
    """
    shutil.rmtree(folder, ignore_errors=True)  # its cache of labels does not notice every change
    for split, images in (("train", training), ("val", validation)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for index, image in enumerate(images):
            size_wh = _place_image(image, folder / "images" / split / f"{index:06d}", longest_side_px)
            numbers = [0 if label not in classes else classes.index(label) for label in image.labels]
            rows = np.column_stack([numbers, _relative_boxes(image, size_wh)])
            np.savetxt(folder / "labels" / split / f"{index:06d}.txt", rows, ["%d", *["%.6f"] * 4])
    description = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val"}
    described = {**description, "names": dict(enumerate(classes)), "variation": asdict(variation)}
    YAML.save(folder / "data.yaml", described)
    return folder / "data.yaml"


def _place_image(image: AnnotatedImage, place: Path, longest_side_px: int) -> tuple[int, int]:
    """Link or write an image to `place` (without suffix); returns the width and height that its boxes are in.

    Only a whole JPEG of a fitting size is linked. ultralytics reads other formats in another way than the
    station, and writes a JPEG that has bytes behind its end marker anew.
    """
    rgb, content = read_pixels(image), image.path.read_bytes()
    height, width = rgb.shape[:2]
    scale = longest_side_px / max(width, height)
    if scale >= 1 and content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9"):
        place.with_suffix(".jpg").symlink_to(image.path.resolve())
    else:
        if scale < 1:
            inner_wh = max(round(width * scale), 1), max(round(height * scale), 1)
            rgb = np.asarray(cv2.resize(rgb, inner_wh, interpolation=cv2.INTER_AREA), np.uint8)
        coded = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
        place.with_suffix(".png").write_bytes(coded.tobytes())  # cv2 would not tell of a full disk
    return width, height


def _relative_boxes(image: AnnotatedImage, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Centre x, centre y, width and height as parts of the image's sides, float32 [n, 4]."""
    boxes = clip_boxes(image.boxes_xyxy, size_wh)
    relative = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])
    return np.asarray(relative / np.array(size_wh * 2, np.float32))


class AnotherStation(BaseTransform):
    """Orientation, stain and camera of another station, as one of ultralytics' transforms."""

    def __init__(self, variation: Variation) -> None:
        self.variation = variation

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """`img` is uint8 [S, S, 3] BGR; `instances` hold the boxes in any of ultralytics' formats."""
        rng = np.random.default_rng(random.getrandbits(64))  # which ultralytics seeds, in its workers too
        rgb = cv2.cvtColor(labels["img"], cv2.COLOR_BGR2RGB)
        instances = labels["instances"]
        instances.convert_bbox("xyxy")
        instances.denormalize(*rgb.shape[1::-1])
        rgb, boxes = turn(rgb, instances.bboxes, rng)
        instances.update(boxes)
        labels["img"] = cv2.cvtColor(vary_station(rgb, self.variation, rng), cv2.COLOR_RGB2BGR)
        return labels


class SmearDataset(YOLODataset):
    """ultralytics' dataset with our variation behind its mosaics."""

    def __init__(self, *arguments: Any, variation: Variation, **options: Any) -> None:
        self.variation = variation
        super().__init__(*arguments, **options)

    def build_transforms(self, hyp: Any) -> Compose:
        """Called at the start, and once more when the mosaics end."""
        transforms = super().build_transforms(hyp)
        if self.augment:
            transforms.insert(-1, AnotherStation(self.variation))  # before the tile becomes a tensor
        return transforms
