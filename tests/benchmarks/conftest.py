"""A pair of small untrained networks, as weights for the usual way and as a bundle for the station."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from build_engines.bundle_build import build_bundle, golden_smears
from build_engines.checkpoint import Checkpoint, CropGeometry
from build_engines.compact import with_half_weights
from build_engines.families import import_ultralytics
from build_engines.networks import load_networks
from edge.demo.renderer import draw_tile
from edge.geometry import letterbox
from tests.build_engines.untrained import ULTRALYTICS_LAYERS, spread_outputs

TILE_SIZE, THRESHOLD = 96, 0.25
CLASSES = ("LY", "MO", "PNN")


@dataclass(frozen=True)
class Pair:
    """The same weights for both sides, and images."""

    detector: Path
    classifier: Path
    bundle: Path
    images: tuple[Path, ...]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for one another longer than these small networks take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Untrained: they find something in each image, and name it somehow."""
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YOLO_CONFIG_DIR", str(folder / "ultralytics"))
        ultralytics = import_ultralytics()
        model = ultralytics.YOLO("yolo11n.yaml", verbose=False)
        torch.manual_seed(2)
        smears = [*golden_smears(), *(draw_tile(seed, size_wh=(180, 160)) for seed in (5, 6, 7))]
        tiles = np.stack([letterbox(smear.rgb, TILE_SIZE, "centre")[0] for smear in smears])
        network = ultralytics.nn.tasks.DetectionModel({**ULTRALYTICS_LAYERS, "nc": 1}, nc=1, verbose=False)
        spread_outputs(network, torch.from_numpy(tiles))
        # A bundle rounds its weights to 16 bits; here both sides get the rounded ones of the detector.
        network = with_half_weights(network, torch.zeros(1, 3, TILE_SIZE, TILE_SIZE))
        network.names, network.args = {0: "leukocyte"}, {"imgsz": TILE_SIZE}
        model.model = network
        model.save(folder / "detector.pt")
        classifier = timm.create_model("test_efficientnet", num_classes=len(CLASSES))
        geometry = CropGeometry(64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        Checkpoint(
            "timm", {"name": "test_efficientnet"}, CLASSES, geometry, classifier.state_dict(), {"cells": {}}
        ).save(folder / "classifier.pt")
        networks = load_networks(folder / "detector.pt", folder / "classifier.pt", TILE_SIZE)
        build_bundle(
            networks, folder / "bundle", name="small", threshold=THRESHOLD,
            images={str(index): smear.rgb for index, smear in enumerate(smears)}, images_are="drawn smears",
        )  # fmt: skip
        images = []
        for index, smear in enumerate(smears[4:]):
            path = folder / f"{index}.png"  # whose decoders agree to the last bit
            cv2.imwrite(str(path), smear.rgb[..., ::-1])
            images.append(path)
        yield Pair(folder / "detector.pt", folder / "classifier.pt", folder / "bundle", tuple(images))
    shutil.rmtree(folder)
