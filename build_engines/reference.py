"""What an engine is held against: images, and the FP32 reference's answers to them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build_engines.errors import BuildError
from edge.bundle import Bundle, ClassifierSpec, DetectorSpec, Golden
from edge.demo.renderer import draw_tile
from edge.errors import ImageRejected
from edge.geometry import crop, letterbox
from edge.images import IMAGE_SUFFIXES, decode
from edge.selftest import Outputs

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Run = Callable[[Image], Outputs]
"""A graph on whatever computes it: from a batch to the outputs by name."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Images and what the reference answers to them.

    Attributes:
        answers: tiles, crops of what was found in them, and the answers.
        tile_names, crop_names: what each is, for people.
        images: which images they are, in words.
    """

    answers: Golden
    tile_names: tuple[str, ...]
    crop_names: tuple[str, ...]
    images: str

    def joined(self, other: "Reference") -> "Reference":
        """Both, one after the other."""
        ours, theirs = self.answers.arrays(), other.answers.arrays()
        arrays = {
            key: np.concatenate([half[key] for half in (ours, theirs) if key in half])
            for key in {**ours, **theirs}
        }
        return Reference(
            Golden.of_arrays(arrays),
            self.tile_names + other.tile_names,
            self.crop_names + other.crop_names,
            f"{self.images} and {other.images}",
        )


def golden_reference(bundle: Bundle) -> Reference:
    """The known answers that a bundle carries, which are torch's."""
    golden = bundle.golden()
    return Reference(
        golden,
        tuple(f"golden tile {index + 1}" for index in range(len(golden.tiles))),
        tuple(
            f"golden crop {index + 1}" for index in range(0 if golden.crops is None else len(golden.crops))
        ),
        f"{len(golden.tiles)} golden tiles",
    )


def reference_answers(
    detector: Run,
    classifier: Run | None,
    detector_spec: DetectorSpec,
    classifier_spec: ClassifierSpec | None,
    images: Mapping[str, Image],
    threshold: float,
    most_crops: int,
    images_are: str,
) -> Reference:
    """A reference's own answers to images, as tiles and as crops of what was found.

    Args:
        detector, classifier: the reference.
        images: uint8 [H, W, 3] RGB each, by name.
        threshold: least score of what is cropped.
        most_crops: crops beyond it are left out.
        images_are: what they are, in words.
    """
    tiles, crops, crop_names = [], [], []
    answers: list[Outputs] = []
    for name, rgb in images.items():
        tile, placement = letterbox(rgb, detector_spec.tile_size, detector_spec.anchor, detector_spec.pad)
        tiles.append(tile)
        answers.append(_copied(detector(tile[None])))
        found = answers[-1]["scores"][0] > threshold
        if classifier_spec:
            boxes = placement.to_image(answers[-1]["boxes"][0][found])
            crop_names += [f"cell {index + 1} of {name}" for index in range(len(boxes))]
            crops += [
                crop(rgb, box, classifier_spec.crop_size, classifier_spec.margin_px,
                     classifier_spec.margin_fraction, classifier_spec.shape)
                for box in boxes
            ]  # fmt: skip
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    if classifier is None or not crops:
        return Reference(Golden(np.stack(tiles), outputs, None, {}), tuple(images), (), images_are)
    chosen = np.stack(crops[:most_crops])
    golden = Golden(np.stack(tiles), outputs, chosen, _copied(classifier(chosen)))
    return Reference(golden, tuple(images), tuple(crop_names[:most_crops]), images_are)


def _copied(outputs: Outputs) -> Outputs:
    """Answers that stay: an engine's own are its memory, and the next run's."""
    return {name: values.copy() for name, values in outputs.items()}


def gate_images(folder: Path | None, most: int) -> tuple[dict[str, Image], str]:
    """Up to `most` images spread over a folder by name, or drawn smears without one; and what they are."""
    if folder is None:
        seeds = range(100, 100 + most)
        return {f"drawn smear {seed}": draw_tile(seed).rgb for seed in seeds}, f"{most} drawn smears"
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    images = {}
    for path in paths[:: max(len(paths) // most, 1)][:most]:
        try:
            images[path.relative_to(folder).as_posix()] = decode(path.read_bytes())
        except ImageRejected as error:
            log.warning("%s is left out of the gate: %s", path.name, error)
    if not images:
        raise BuildError(f"{folder} holds no readable image; give smear images, or no folder for drawn ones.")
    return images, f"{len(images)} smear images"
