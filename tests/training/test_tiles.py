"""A tile shows its cells where its boxes are, however the image was laid, scaled and cut."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from build_engines.checkpoint import TileGeometry
from edge.geometry import LETTERBOX_PAD
from training import tiles
from training.annotations import AnnotatedImage
from training.augment import VARIATIONS
from training.tiles import TileDataset, source_weights

SIZE = 128
PAPER, CELL = (240, 240, 240), (20, 30, 250)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Tiles are drawn from torch's generator, which a loader seeds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


def image(folder: Path, name: str, size_wh: tuple[int, int], boxes: list[list[int]]) -> AnnotatedImage:
    """White paper with a blue rectangle in each box."""
    rgb = np.full((size_wh[1], size_wh[0], 3), PAPER, np.uint8)
    for left, top, right, bottom in boxes:
        rgb[top:bottom, left:right] = CELL
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), rgb[..., ::-1])
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return AnnotatedImage(path.name, path, corners, (None,) * len(boxes), "lab")


@pytest.fixture
def images(tmp_path: Path) -> list[AnnotatedImage]:
    """A tile, a wide one with cells at its border, one without cells, and a field that is kept smaller."""
    return [
        image(tmp_path, "tile", (150, 140), [[40, 50, 100, 110]]),
        image(tmp_path, "wide", (200, 100), [[0, 10, 50, 60], [150, 40, 200, 100]]),
        image(tmp_path, "empty", (120, 120), []),
        image(
            tmp_path,
            "field",
            (1664, 1248),
            [[100 + 400 * n, 300 * n, 300 + 400 * n, 200 + 300 * n] for n in range(4)],
        ),
    ]


def drawn(dataset: TileDataset, index: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` drawings of a tile and its boxes."""
    for _ in range(count):
        tile, padded = dataset[index]
        assert tile.shape == (SIZE, SIZE, 3)
        assert tile.dtype == torch.uint8
        assert padded.shape == (tiles._MAX_CELLS, 4)
        assert padded.dtype == torch.float32
        used = padded.any(1)
        assert not padded[int(used.sum()) :].any()  # the empty rows come last
        yield tile.numpy(), padded[used].numpy()


def is_cell(tile: np.ndarray) -> np.ndarray:
    return (tile[..., 2] > 150) & (tile[..., 0] < 130)


def check_boxes_on_cells(tile: np.ndarray, boxes: np.ndarray) -> None:
    """Every box lies in the tile and is full of cell."""
    assert (boxes >= 0).all()
    assert (boxes <= SIZE).all()
    for left, top, right, bottom in boxes:
        inner = is_cell(tile)[
            int(np.ceil(top)) + 1 : int(bottom) - 1, int(np.ceil(left)) + 1 : int(right) - 1
        ]
        assert inner.size
        assert inner.all()


@pytest.mark.parametrize("index", range(4))
def test_boxes_lie_on_their_cells(index: int, images: list[AnnotatedImage]) -> None:
    dataset = TileDataset(images, TileGeometry(SIZE), VARIATIONS["none"])
    counts = set()
    for tile, boxes in drawn(dataset, index, 60):
        check_boxes_on_cells(tile, boxes)
        counts.add(len(boxes))
    assert len(counts) > 3  # of one image and of grids of several


@pytest.mark.parametrize("index", range(4))
def test_cells_without_a_box_are_cut_by_the_tile_or_tiny(
    index: int, images: list[AnnotatedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_GRID_CHANCES", (1.0, 0.0, 0.0, 0.0))
    dataset = TileDataset(images, TileGeometry(SIZE), VARIATIONS["none"])
    for tile, boxes in drawn(dataset, index, 40):
        left_over = is_cell(tile)
        for left, top, right, bottom in boxes:
            rows, columns = (
                slice(max(int(top) - 1, 0), int(bottom) + 2),
                slice(max(int(left) - 1, 0), int(right) + 2),
            )
            left_over[rows, columns] = False
        for left, top, width, height, _ in cv2.connectedComponentsWithStats(left_over.astype(np.uint8))[2][
            1:
        ]:
            is_cut = min(left, top) == 0 or max(left + width, top + height) == SIZE
            assert is_cut or min(width, height) <= 7


@pytest.mark.parametrize("grid", [1, 2, 3, 4])
def test_a_grid_shows_grid_by_grid_images(grid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_GRID_CHANCES", [float(side == grid) for side in (1, 2, 3, 4)])
    monkeypatch.setattr(tiles, "_AS_SERVED_CHANCE", 1.0)
    one_cell = [image(tmp_path, "one", (100, 100), [[25, 25, 75, 75]])]
    dataset = TileDataset(one_cell, TileGeometry(SIZE), VARIATIONS["none"])
    most = 0
    for tile, boxes in drawn(dataset, 0, 40):
        check_boxes_on_cells(tile, boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (sides <= SIZE / grid * 1.3 / 2 + 2).all()
        most = max(most, len(boxes))
    assert most == grid * grid


@pytest.mark.parametrize("anchor", ["top_left", "centre"])
def test_a_tile_as_served_is_the_stations_letterbox(
    anchor: str, images: list[AnnotatedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_GRID_CHANCES", (1.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(tiles, "_AS_SERVED_CHANCE", 1.0)
    dataset = TileDataset(images, TileGeometry(SIZE, anchor), VARIATIONS["none"])  # type: ignore[arg-type]
    for tile, boxes in drawn(dataset, 1, 10):  # 200 x 100, so half of the tile is padding
        padding = np.abs(tile.astype(int) - LETTERBOX_PAD).max(2) <= 1
        assert padding.sum() == SIZE * SIZE // 2
        assert padding[0, 0] == (anchor == "centre")
        assert len(boxes) == 2
        check_boxes_on_cells(tile, boxes)


@pytest.mark.parametrize("size", [64, SIZE, 1024])
def test_an_image_is_made_no_smaller_than_twice_a_tile_before_it_is_turned(size: int, tmp_path: Path) -> None:
    wide = image(tmp_path, "wide.png", (2000, 400), [[100, 100, 300, 300]])
    dataset = TileDataset([wide], TileGeometry(size), VARIATIONS["none"])
    rgb, _ = dataset._turned(0, np.random.default_rng(0))
    assert max(rgb.shape[:2]) == min(2 * size, 2000)


def test_what_is_drawn_depends_on_torchs_generator_alone(images: list[AnnotatedImage]) -> None:
    dataset = TileDataset(images, TileGeometry(SIZE), VARIATIONS["strong"], seed=3)

    def series(torch_seed: int, of: TileDataset = dataset) -> list[bytes]:
        torch.manual_seed(torch_seed)
        return [of[index % 4][0].numpy().tobytes() for index in range(6)]

    assert series(1) == series(1)
    assert series(1) != series(2)
    other_seed = TileDataset(images, TileGeometry(SIZE), VARIATIONS["strong"], seed=4)
    assert series(1) != series(1, other_seed)


def test_more_cells_than_a_tile_holds_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_GRID_CHANCES", (1.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(tiles, "_AS_SERVED_CHANCE", 1.0)
    monkeypatch.setattr(tiles, "_MAX_CELLS", 60)
    boxes = [[12 * x, 12 * y, 12 * x + 9, 12 * y + 9] for x in range(10) for y in range(10)]
    dataset = TileDataset(
        [image(tmp_path, "crowd", (128, 128), boxes)], TileGeometry(SIZE), VARIATIONS["none"]
    )
    assert [len(found) for _, found in drawn(dataset, 0, 3)] == [60, 60, 60]


def test_a_large_source_gets_a_larger_share_but_not_by_its_size(tmp_path: Path) -> None:
    one = image(tmp_path, "one", (20, 20), [])
    small = AnnotatedImage(one.name, one.path, one.boxes_xyxy, (), "small")
    weights = source_weights([one] * 100 + [small] * 4)
    large_share, small_share = sum(weights[:100]), sum(weights[100:])
    assert large_share / small_share == pytest.approx(25**0.3)
