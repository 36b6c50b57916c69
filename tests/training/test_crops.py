"""Crops as the station makes them, varied, and drawn in balance."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from build_engines.checkpoint import CropGeometry
from edge.geometry import crop
from edge.images import decode
from training.annotations import AnnotatedImage, read_pixels
from training.augment import VARIATIONS, Variation
from training.crops import Cell, CropDataset, balanced_weights, cells_of, normalised
from training.targets import targets_of

GEOMETRY = CropGeometry(64)
Smears = list[AnnotatedImage]


class TestCells:
    def test_each_keeps_its_pixels_its_class_and_its_source(self, smears: Smears) -> None:
        for cell, smear in zip(cells_of(smears), smears, strict=True):
            assert (cell.label, cell.source) == (smear.labels[0], smear.source)
            seen = crop(*cell.read(0), 48, margin_fraction=0.15)
            whole = crop(decode(smear.path.read_bytes()), smear.boxes_xyxy[0], 48, margin_fraction=0.15)
            assert np.array_equal(seen, whole)

    def test_without_a_class_is_none(self, smears: Smears) -> None:
        assert cells_of([replace(smears[0], labels=(None,))]) == []


class TestCrops:
    def test_for_validation_are_the_stations(self, cells: list[Cell]) -> None:
        image, target = CropDataset(cells, targets_of(cells, ("LY", "PNN")), GEOMETRY)[0]
        pixels = read_pixels(cells[0].image)
        plain = crop(pixels, cells[0].box_xyxy, 64, 0, GEOMETRY.margin_fraction, GEOMETRY.shape)
        assert np.array_equal(image.numpy(), plain)
        assert target.tolist() == [0, 1]

    def test_for_training_differ_each_time_and_follow_torchs_generator(self, cells: list[Cell]) -> None:
        dataset = CropDataset(cells, targets_of(cells, ("LY", "PNN")), GEOMETRY, VARIATIONS["strong"])

        def series() -> list[bytes]:
            torch.manual_seed(5)
            return [dataset[0][0].numpy().tobytes() for _ in range(4)]

        assert len(set(series())) == 4
        assert series() == series()

    def test_for_training_end_in_repeated_pixels_where_the_cell_was_cut_off(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "noise.png")
        box = np.float32([[60, 60, 140, 140]])
        cell = cells_of([AnnotatedImage("noise.png", tmp_path / "noise.png", box, ("LY",), "lab")])

        def cut_ones(chance: float) -> int:
            torch.manual_seed(5)
            variation = replace(VARIATIONS["none"], cut=chance)
            dataset = CropDataset(cell, targets_of(cell, ("LY",)), GEOMETRY, variation)
            images = [dataset[0][0].numpy() for _ in range(20)]
            laid = [np.rot90(image, quarter) for image in images for quarter in range(4)]
            ends = np.array([np.array_equal(one[0], one[1]) for one in laid])
            return int(ends.reshape(20, 4).any(1).sum())

        assert cut_ones(0.0) == 0
        assert cut_ones(1.0) > 10

    @pytest.mark.parametrize("variation", [None, VARIATIONS["none"]])
    @pytest.mark.parametrize(("margin_fraction", "margin_px"), [(0.4, 0.0), (0.15, 60.0)])
    def test_have_the_pixels_around_a_cell_whatever_the_margin(
        self, margin_fraction: float, margin_px: float, variation: Variation | None, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "noise.png")
        box = np.float32([[140, 130, 160, 170]])
        cells = cells_of([AnnotatedImage("noise.png", tmp_path / "noise.png", box, ("LY",), "lab")])
        geometry = CropGeometry(64, margin_px=margin_px, margin_fraction=margin_fraction)
        dataset = CropDataset(cells, targets_of(cells, ("LY",)), geometry, variation)

        def series() -> list[bytes]:
            torch.manual_seed(5)
            return [dataset[0][0].numpy().tobytes() for _ in range(20)]

        found = series()
        monkeypatch.setattr(Cell, "read", lambda *_: (noise, box[0]))
        assert found == series()

    def test_are_normalised_by_the_networks_mean_and_deviation(self) -> None:
        geometry = CropGeometry(1, mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.4))
        planes = normalised(torch.tensor([[[[51, 153, 255]]]], dtype=torch.uint8), geometry)
        assert planes.flatten().tolist() == pytest.approx([0.0, 1.0, 1.0], abs=1e-5)
        assert planes.shape == (1, 3, 1, 1)


class TestBalancedWeights:
    def cells(self, counts: dict[tuple[str, str], int]) -> list[Cell]:
        box = np.zeros(4, np.float32)
        images = {
            source: AnnotatedImage("a.jpg", Path("a.jpg"), box[None], (None,), source) for _, source in counts
        }
        return [Cell(images[source], box, label) for (label, source), n in counts.items() for _ in range(n)]

    @pytest.mark.parametrize(
        ("counts", "shares"),
        [
            ({("LY", "a"): 5}, {("LY", "a"): 1.0}),
            ({("LY", "a"): 100, ("BA", "a"): 1}, {("LY", "a"): 10 / 11, ("BA", "a"): 1 / 11}),
            ({("LY", "a"): 90, ("LY", "b"): 10}, {("LY", "a"): 0.75, ("LY", "b"): 0.25}),
            (
                {("LY", "a"): 90, ("LY", "b"): 10, ("BA", "b"): 25},
                {("LY", "a"): 0.5, ("LY", "b"): 1 / 6, ("BA", "b"): 1 / 3},
            ),
        ],
    )
    def test_are_square_roots_of_class_and_then_of_source(
        self, counts: dict[tuple[str, str], int], shares: dict[tuple[str, str], float]
    ) -> None:
        cells = self.cells(counts)
        weights = balanced_weights(cells)
        found: Counter[tuple[str, str]] = Counter()
        for cell, weight in zip(cells, weights, strict=True):
            found[cell.label, cell.source] += weight / sum(weights)  # type: ignore[assignment]
        assert dict(found) == pytest.approx(shares)
