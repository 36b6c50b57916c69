"""What an engine is held against: images, and the FP32 reference's answers to them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build_engines.errors import BuildError
from edge.backends.base import Outputs
from edge.bundle import Bundle, Golden, Known
from edge.classification import inputs_of
from edge.demo.renderer import draw_tile
from edge.errors import ImageRejected
from edge.geometry import Boxes, letterbox
from edge.images import decode
from edge.manifest import ClassifierSpec, DetectorSpec, NetworkSpec
from edge.walking import images_below

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Run = Callable[[Image], Outputs]
"""A graph on whatever computes it: from a batch to the outputs by name."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Images and what the reference answers to them.

    Attributes:
        answers: of each network, to tiles or to crops of what was found in them.
        names: what each input is, for people, by network.
        images: which images they are, in words.
    """

    answers: Golden
    names: tuple[tuple[str, ...], ...]
    images: str

    def joined(self, other: "Reference") -> "Reference":
        """Both, one after the other; of the same networks."""
        return Reference(
            Golden(
                tuple(map(_joined, self.answers.detectors, other.answers.detectors)),
                tuple(map(_joined, self.answers.classifiers, other.answers.classifiers)),
            ),
            tuple(ours + theirs for ours, theirs in zip(self.names, other.names, strict=True)),
            f"{self.images} and {other.images}",
        )


def golden_reference(bundle: Bundle) -> Reference:
    """The known answers that a bundle carries, which are torch's."""
    golden = bundle.golden()
    names = tuple(
        tuple(f"golden {kind} {index + 1}" for index in range(len(known.inputs)))
        for kind, networks in (("tile", golden.detectors), ("crop", golden.classifiers))
        for known in networks
    )
    return Reference(golden, names, f"{len(golden.detectors[0].inputs)} golden tiles")


def reference_answers(
    runs: Sequence[Run],
    specs: Sequence[NetworkSpec],
    images: Mapping[str, Image],
    threshold: float,
    most_crops: int,
    images_are: str,
) -> Reference:
    """A reference's own answers to images, as tiles and as crops of what the first detector found.

    Args:
        runs: the reference, for each network.
        specs: the networks; the first is a detector.
        images: uint8 [H, W, 3] RGB each, by name.
        threshold: least score of what is cropped.
        most_crops: crops beyond it are left out.
        images_are: what they are, in words.

    Returns:
        Inputs and answers of each network; none of a classifier where nothing was found.
    """
    detectors, classifiers, names = [], [], []
    boxes: dict[str, Boxes] = {}
    for run, spec in zip(runs, specs, strict=True):
        if isinstance(spec, DetectorSpec):
            known, found = _of_detector(run, spec, images, threshold)
            detectors.append(known)
            names.append(tuple(images))
            boxes = boxes or found
            continue
        inputs, of = _crops(spec, images, boxes, most_crops)
        classifiers.append(Known(inputs, _copied(run(inputs)) if len(inputs) else {}))
        names.append(of)
    return Reference(Golden(tuple(detectors), tuple(classifiers)), tuple(names), images_are)


def _of_detector(
    run: Run, spec: DetectorSpec, images: Mapping[str, Image], threshold: float
) -> tuple[Known, dict[str, Boxes]]:
    """A detector's answers, and the boxes above the threshold in pixels of the images."""
    tiles, answers, boxes = [], [], {}
    for name, rgb in images.items():
        tile, placement = letterbox(rgb, spec.tile_size, spec.anchor, spec.pad)
        tiles.append(tile)
        answers.append(_copied(run(tile[None])))
        found = answers[-1]["scores"][0] > threshold
        boxes[name] = placement.to_image(answers[-1]["boxes"][0][found])
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    return Known(np.stack(tiles), outputs), boxes


def _crops(
    spec: ClassifierSpec, images: Mapping[str, Image], boxes: Mapping[str, Boxes], most: int
) -> tuple[Image, tuple[str, ...]]:
    """What a classifier is shown of the images, and what each is."""
    crops: list[Image] = []
    names: list[str] = []
    for name, rgb in images.items():
        if len(boxes[name]):
            found = inputs_of(rgb, boxes[name], spec)
            crops.extend(found)
            cells = [f"cell {index + 1} of {name}" for index in range(len(found))]
            names += [name] if spec.view == "tile" else cells
    return np.array(crops[:most], np.uint8), tuple(names[:most])


def _joined(ours: Known, theirs: Known) -> Known:
    if not len(theirs.inputs):
        return ours
    outputs = {name: np.concatenate([ours.outputs[name], theirs.outputs[name]]) for name in ours.outputs}
    return Known(np.concatenate([ours.inputs, theirs.inputs]), outputs)


def _copied(outputs: Outputs) -> Outputs:
    """Answers that stay: an engine's own are its memory, and the next run's."""
    return {name: values.copy() for name, values in outputs.items()}


def spread(count: int, most: int) -> list[int]:
    """Indices of up to `most` of `count` things, evenly over all."""
    chosen = min(count, most)
    return [index * count // chosen for index in range(chosen)]


def gate_images(folder: Path | None, most: int) -> tuple[dict[str, Image], str]:
    """Up to `most` images spread over a folder by name, or drawn smears without one; and what they are.

    Raises:
        BuildError: the folder holds no image that can be read.
        StationError: a folder in it may not be read.
    """
    if folder is None:
        seeds = range(100, 100 + most)
        return {f"drawn smear {seed}": draw_tile(seed).rgb for seed in seeds}, f"{most} drawn smears"
    paths = images_below(folder)
    images = {}
    for path in (paths[index] for index in spread(len(paths), most)):
        try:
            images[path.relative_to(folder).as_posix()] = decode(path.read_bytes())
        except (ImageRejected, OSError) as error:
            log.warning("%s is left out of the gate: %s", path.name, error)
    if not images:
        raise BuildError(f"{folder} holds no readable image; give smear images, or no folder for drawn ones.")
    return images, f"{len(images)} smear images"
