"""Tiles to train a detector on: an image as it is served, one nearer or farther, or a grid of several."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from build_engines.checkpoint import TileGeometry
from edge.geometry import LETTERBOX_PAD, Letterbox, clip_boxes, letterbox
from training.annotations import AnnotatedImage, read_pixels
from training.augment import Variation, turn, vary_station

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]

_GRID_CHANCES = (0.55, 0.25, 0.12, 0.08)
"""Of grids with 1, 2, 3 and 4 images a side: the farther ones teach the small cells of camera fields."""

_AS_SERVED_CHANCE = 0.4
_LEAST_VISIBLE = 0.35
"""A cell of which less is left after cutting is no target: nobody would mark it."""

_LEAST_SIDE_PX = 6
_MAX_CELLS = 300


class TileDataset(Dataset[tuple[Tensor, Tensor]]):
    """(uint8 [S, S, 3] RGB tile, float32 [300, 4] xyxy boxes in tile pixels, unused rows 0).

    Images are read when they are asked for.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        geometry: TileGeometry,
        variation: Variation,
        seed: int = 0,
    ) -> None:
        self.images, self.geometry, self.variation, self.seed = images, geometry, variation, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, int(torch.randint(2**31, ()).item())))
        grid = int(rng.choice(len(_GRID_CHANCES), p=_GRID_CHANCES)) + 1
        if grid == 1:
            tile, boxes = self._single(index, rng)
        else:
            others = rng.integers(len(self.images), size=grid * grid - 1)
            tile, boxes = self._grid([index, *map(int, others)], grid, rng)
        tile = vary_station(tile, self.variation, rng)
        padded = np.zeros((_MAX_CELLS, 4), np.float32)
        padded[: len(boxes[:_MAX_CELLS])] = boxes[:_MAX_CELLS]
        return torch.from_numpy(tile), torch.from_numpy(padded)

    def _turned(self, index: int, rng: np.random.Generator) -> tuple[Image, Boxes]:
        image = self.images[index]
        rgb = read_pixels(image)
        longest_px = 2 * self.geometry.tile_size  # what is larger is turned and scaled in vain
        scale = min(longest_px / max(rgb.shape[:2]), 1.0)
        if scale < 1:
            size_wh = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
            rgb = np.asarray(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        return turn(rgb, image.boxes_xyxy * np.float32(scale), rng)

    def _single(self, index: int, rng: np.random.Generator) -> tuple[Image, Boxes]:
        rgb, boxes = self._turned(index, rng)
        size = self.geometry.tile_size
        if rng.random() < _AS_SERVED_CHANCE:
            tile, placement = letterbox(rgb, size, self.geometry.anchor)
            return tile, _visible(placement.to_tile(boxes), (size, size))
        height, width = rgb.shape[:2]
        scale = size / max(height, width) * float(np.exp(rng.uniform(np.log(0.35), np.log(1.8))))
        return _placed(rgb, boxes, scale, size, rng)

    def _grid(self, indices: Sequence[int], grid: int, rng: np.random.Generator) -> tuple[Image, Boxes]:
        size = self.geometry.tile_size
        edges = np.linspace(0, size, grid + 1).round().astype(int)
        tile = np.empty((size, size, 3), np.uint8)
        every = []
        for place, index in enumerate(indices):
            row, column = divmod(place, grid)
            left, top = edges[column], edges[row]
            side = max(edges[column + 1] - left, edges[row + 1] - top)
            rgb, boxes = self._turned(index, rng)
            scale = side / min(rgb.shape[:2]) * float(np.exp(rng.uniform(np.log(0.7), np.log(1.3))))
            part, boxes = _placed(rgb, boxes, scale, side, rng)
            width, height = edges[column + 1] - left, edges[row + 1] - top
            tile[top : top + height, left : left + width] = part[:height, :width]
            every.append(_visible(boxes, (width, height)) + np.array([left, top, left, top], np.float32))
        return tile, np.concatenate(every)


def _placed(
    rgb: Image, boxes: Boxes, scale: float, size: int, rng: np.random.Generator
) -> tuple[Image, Boxes]:
    """An image scaled and laid at a random place of a tile, cut where it is larger."""
    height, width = rgb.shape[:2]
    scaled_wh = max(round(width * scale), 1), max(round(height * scale), 1)
    interpolation = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    scaled = cv2.resize(rgb, scaled_wh, interpolation=interpolation)
    offset = [int(rng.integers(min(size - side, 0), max(size - side, 0) + 1)) for side in scaled_wh]
    tile = np.full((size, size, 3), LETTERBOX_PAD, np.uint8)
    (x, y), (inner_w, inner_h) = offset, scaled_wh
    shown = scaled[max(-y, 0) : size - y, max(-x, 0) : size - x]
    tile[max(y, 0) : max(y, 0) + shown.shape[0], max(x, 0) : max(x, 0) + shown.shape[1]] = shown
    placement = Letterbox((inner_w / width, inner_h / height), (x, y), (width, height))
    return tile, _visible(placement.to_tile(boxes), (size, size))


def _visible(boxes: Boxes, size_wh: tuple[int, int]) -> Boxes:
    """Boxes cut at the border, without those of which too little is left."""
    clipped = clip_boxes(boxes, size_wh)
    sides, full = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = (sides.prod(1) >= _LEAST_VISIBLE * full.prod(1)) & (sides.min(1, initial=np.inf) >= _LEAST_SIDE_PX)
    visible: Boxes = clipped[kept]
    return visible


def source_weights(images: Sequence[AnnotatedImage]) -> list[float]:
    """Chance of each image to be drawn: a source of n images gets a share that grows as n ** 0.3 only."""
    of_source = Counter(image.source for image in images)
    return [of_source[image.source] ** -0.7 for image in images]
