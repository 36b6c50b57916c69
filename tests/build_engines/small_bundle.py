"""A detector and a classifier with random weights, and the bundle that the command builds of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner

from build_engines.build import main
from build_engines.bundle_build import golden_smears
from build_engines.checkpoint import Checkpoint, CropGeometry, TileGeometry, yolox_network
from edge.bundle import Bundle, embedded_bundle
from edge.demo.renderer import draw_field, draw_tile
from edge.geometry import letterbox
from tests.build_engines.untrained import ULTRALYTICS_LAYERS, spread_outputs, spread_yolox_outputs

TINY = {"depth": 0.1, "width": 0.125, "depthwise": False}
CLASSES = ("LY", "MO", "PNN")


def save_detector(path: Path, architecture: dict[str, Any], tile_size: int) -> None:
    """An untrained YOLOX that finds things on the images of the self-test and of the gate: on others it may
    answer anything.
    """
    network = yolox_network(**architecture, class_count=1)
    smears = [*map(draw_tile, (1, 2, 3, 100, 101, 102)), draw_field(1, cells=4, size_wh=(1024, 768))]
    tiles = np.stack([letterbox(smear.rgb, tile_size, "top_left")[0] for smear in smears])
    spread_yolox_outputs(network, torch.from_numpy(tiles))
    geometry = TileGeometry(tile_size, background=(240.0, 215.0, 191.0))
    Checkpoint("yolox", architecture, (), geometry, network.state_dict(), {"data": "none"}).save(path)


def save_ultralytics_detector(
    ultralytics: ModuleType, path: Path, classes: Sequence[str], tile_size: int
) -> None:
    """The same of ultralytics: three convolutions, which are exported in a second."""
    model = ultralytics.YOLO("yolo11n.yaml", verbose=False)
    layers = {**ULTRALYTICS_LAYERS, "nc": len(classes)}
    network = ultralytics.nn.tasks.DetectionModel(layers, nc=len(classes), verbose=False)
    torch.manual_seed(0)
    tiles = np.stack([letterbox(smear.rgb, tile_size, "centre")[0] for smear in golden_smears()])
    spread_outputs(network, torch.from_numpy(tiles))
    network.names, network.args = dict(enumerate(classes)), {"imgsz": tile_size}
    model.model = network
    model.save(path)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A detector and a classifier with random weights, small enough for a test."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("checkpoints")
    save_detector(folder / "detector.pt", TINY, 96)
    name = "test_efficientnet"
    classifier = timm.create_model(name, num_classes=len(CLASSES))
    cells = {"LY": 60, "MO": 7, "PNN": 51}
    Checkpoint(
        "timm", {"name": name}, CLASSES, CropGeometry(64), classifier.state_dict(), {"cells": cells}
    ).save(folder / "classifier.pt")
    return folder / "detector.pt", folder / "classifier.pt"


@pytest.fixture(scope="session")
def built(checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """By the command, in place of a damaged bundle that stood there."""
    detector, classifier = map(str, checkpoints)
    out = tmp_path_factory.mktemp("out") / "small"
    shutil.copytree(embedded_bundle(), out)
    (out / "golden.npz").unlink()
    args = ["--detector", detector, "--classifier", classifier, "--out", str(out), "--gate-images", "3"]
    result = CliRunner().invoke(main, [*args, "--threshold", "0.3"])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("small-")
    return Bundle.load(out)
