"""Whole images to train a classifier on: as the station shows them to it, varied."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from build_engines.checkpoint import CropGeometry
from edge.geometry import crop, letterbox, stretched
from training.annotations import AnnotatedImage, read_pixels
from training.augment import Variation, jitter_box, turn, vary_station
from training.targets import BoxKey, box_key

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class WholeImage:
    """One image whose cells all have a class.

    Attributes:
        label: its class; of several the one that is the rarest among all images.
        cells: the class of each of its cells.
    """

    image: AnnotatedImage
    label: str
    cells: tuple[str, ...]

    @property
    def source(self) -> str:
        """The collection that it comes from."""
        return self.image.source

    @property
    def keys(self) -> tuple[BoxKey, ...]:
        """The true boxes in it."""
        return tuple(box_key(self.image.name, box) for box in self.image.boxes_xyxy)


def whole_images_of(images: Sequence[AnnotatedImage], *, several: bool) -> list[WholeImage]:
    """The images that a network can learn from; how many are left out is logged.

    Args:
        several: also those whose cells have different classes.
    """
    named = [image for image in images if image.labels and None not in image.labels]
    cells = [tuple(label for label in image.labels if label) for image in named]
    counts = Counter(label for labels in cells for label in set(labels))
    kept = [
        WholeImage(image, min(labels, key=lambda label: (counts[label], label)), labels)
        for image, labels in zip(named, cells, strict=True)
        if several or len(set(labels)) == 1
    ]
    if len(kept) < len(images):
        of_several = len(named) - len(kept)
        log.info(
            "of %d images %d are left out: %d with a cell without a class, %d with cells of several classes",
            len(images), len(images) - len(kept), len(images) - len(named), of_several,
        )  # fmt: skip
    return kept


def alone(images: Sequence[WholeImage]) -> list[WholeImage]:
    """Those of one cell: what is said of them can be held against its class."""
    return [one for one in images if len(one.cells) == 1]


class WholeImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images as the station shows them: (uint8 [S, S, 3] RGB, float32 [C] target). Read when asked for."""

    def __init__(
        self,
        images: Sequence[WholeImage],
        targets: Tensor,
        geometry: CropGeometry,
        variation: Variation | None = None,
        seed: int = 0,
    ) -> None:
        """`targets` is float32 [N, C]; `variation` None gives the plain images."""
        self.images, self.targets = images, targets
        self.geometry, self.variation, self.seed = geometry, variation, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        size = self.geometry.crop_size
        rgb = read_pixels(self.images[index].image)
        square = stretched(rgb, size) if self.geometry.shape == "stretched" else letterbox(rgb, size)[0]
        if self.variation is not None:
            rng = np.random.default_rng((self.seed, int(torch.randint(2**31, ()).item())))
            square = _varied(square, self.variation, rng)
        return torch.from_numpy(square), self.targets[index]


def _varied(square: NDArray[np.uint8], variation: Variation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turned, moved and scaled a little, and of another station. No cell of a tile is lost by it."""
    size = len(square)
    turned, frame = turn(square, np.array([[0, 0, size, size]], np.float32), rng)
    frame_xyxy = jitter_box(frame[0], shift=0.04, scale=0.08, rng=rng)
    return vary_station(crop(turned, frame_xyxy, size, shape="stretched"), variation, rng)
