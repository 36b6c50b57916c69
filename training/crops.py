"""Crops to train a classifier on: single cells as the station cuts them out, varied, and drawn in balance."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from build_engines.checkpoint import CropGeometry
from build_engines.graphs import normalise
from edge.geometry import crop, crop_region
from training.annotations import AnnotatedImage, read_pixels
from training.augment import Variation, cut_off, jitter_box, turn, vary_station
from training.targets import BoxKey, Sample, box_key

_ROOM = 0.6
"""Around a cell that is turned, in box sides: for the largest --margin and the jitter of a box."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One annotated leukocyte.

    Attributes:
        image: that it is in.
        box_xyxy: float32 [4], pixels of the image.
        label: class code.
    """

    image: AnnotatedImage
    box_xyxy: NDArray[np.float32]
    label: str

    @property
    def source(self) -> str:
        """The collection that it comes from."""
        return self.image.source

    @property
    def cells(self) -> tuple[str, ...]:
        """The class, as that of the only cell."""
        return (self.label,)

    @property
    def keys(self) -> tuple[BoxKey, ...]:
        """The box, as the only one."""
        return (box_key(self.image.name, self.box_xyxy),)

    def read(self, margin_px: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Its part of the image with room for a crop, uint8 [H, W, 3], and its box there, float32 [4]."""
        rgb = read_pixels(self.image)
        height, width = rgb.shape[:2]
        left, top, right, bottom = crop_region(self.box_xyxy, margin_px, _ROOM, "square")
        left, top = max(left, 0), max(top, 0)
        around = rgb[top : min(bottom, height), left : min(right, width)]
        return around, self.box_xyxy - np.array([left, top, left, top], np.float32)


def cells_of(images: Sequence[AnnotatedImage]) -> list[Cell]:
    """Every leukocyte that has a class."""
    return [
        Cell(image, box, label)
        for image in images
        for box, label in zip(image.boxes_xyxy, image.labels, strict=True)
        if label
    ]


class CropDataset(Dataset[tuple[Tensor, Tensor]]):
    """Crops as the station makes them: (uint8 [S, S, 3] RGB, float32 [C] target). Read when asked for."""

    def __init__(
        self,
        cells: Sequence[Cell],
        targets: Tensor,
        geometry: CropGeometry,
        variation: Variation | None = None,
        seed: int = 0,
    ) -> None:
        """`targets` is float32 [N, C]; `variation` None gives the plain crops of the true boxes."""
        self.cells, self.targets = cells, targets
        self.geometry, self.variation, self.seed = geometry, variation, seed

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        geometry = self.geometry
        rgb, box = self.cells[index].read(geometry.margin_px)
        if self.variation is not None:
            rng = np.random.default_rng((self.seed, int(torch.randint(2**31, ()).item())))
            rgb, box = cut_off(rgb, box, self.variation.cut, rng)
            rgb, boxes = turn(rgb, box[None], rng)
            box = jitter_box(boxes[0], shift=0.06, scale=0.12, rng=rng)
        rgb = crop(rgb, box, geometry.crop_size, geometry.margin_px, geometry.margin_fraction, geometry.shape)
        if self.variation is not None:
            rgb = vary_station(rgb, self.variation, rng)
        return torch.from_numpy(rgb), self.targets[index]


def normalised(crops: Tensor, geometry: CropGeometry) -> Tensor:
    """uint8 [N, S, S, 3] to float32 [N, 3, S, S], the classifier's own scale, channels last in memory."""
    return normalise(crops.permute(0, 3, 1, 2).float() / 255, geometry.mean, geometry.std)


def balanced_weights(samples: Sequence[Sample]) -> list[float]:
    """Chance of each sample to be drawn: rare classes more often, and in each class its rare sources.

    The square root on both lies between the natural frequencies (which forget the rare) and equal ones
    (which learn five images by heart).
    """
    of_class = Counter(sample.label for sample in samples)
    of_group = Counter((sample.label, sample.source) for sample in samples)
    weights = {}
    for (label, source), count in of_group.items():
        shares = {s: math.sqrt(n) for (one, s), n in of_group.items() if one == label}
        weights[label, source] = math.sqrt(of_class[label]) * shares[source] / sum(shares.values()) / count
    return [weights[sample.label, sample.source] for sample in samples]
