"""Drawn smears with their annotations, in memory and as the files that the commands read."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge.bundle import embedded_bundle
from edge.demo.renderer import draw_tile
from training.annotations import AnnotatedImage
from training.splits import main as split

if TYPE_CHECKING:
    from training.crops import Cell

CLASSES = ("PNN", "LY")
SMEARS = 8


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for one another longer than these small networks take."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ultralytics_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a settings folder of its own, so that the user's stays as it is."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))
        import training.ultralytics_data  # noqa: F401


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the charts takes longer than all the rest of an audit of a few rows."""
    monkeypatch.setattr("training.audit.page.draw_charts", lambda *_: {})


@pytest.fixture(scope="session")
def smears(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedImage]:
    """Eight drawn smears of one leukocyte each, 200 x 180 pixels, PNN and LY in turn, from two sources."""
    folder = tmp_path_factory.mktemp("smears") / "images"
    folder.mkdir()
    images = []
    for seed in range(SMEARS):
        smear = draw_tile(seed, CLASSES[seed % 2], size_wh=(200, 180))
        path = folder / f"{seed}.jpg"
        cv2.imwrite(str(path), smear.rgb[..., ::-1])
        images.append(AnnotatedImage(path.name, path, smear.boxes_xyxy, smear.labels, f"lab{seed // 4}"))
    return images


@pytest.fixture(scope="session")
def cells(smears: list[AnnotatedImage]) -> "list[Cell]":
    """The leukocytes of the same smears."""
    from training.crops import cells_of

    return cells_of(smears)


@pytest.fixture(scope="session")
def smears_csv(smears: list[AnnotatedImage]) -> Path:
    """The same smears as the commands take them: a CSV file beside the folder of images."""
    path = smears[0].path.parents[1] / "smears.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["NAME", "x1", "y1", "x2", "y2", "class"])
        for image in smears:
            for box, label in zip(image.boxes_xyxy, image.labels, strict=True):
                writer.writerow([image.name, *np.round(box, 2), label])
    return path


@pytest.fixture(scope="session")
def copied_csv(smears_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the same smears, to judge by: no image may be trained on, too."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(smears_csv.parent / "images", folder / "images")
    return Path(shutil.copy(smears_csv, folder))


@pytest.fixture
def folders(smears: list[AnnotatedImage], smears_csv: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Eight drawn smears of two sources split by source, and the embedded bundle for both."""
    with (tmp_path / "provenance.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["NAME", "source"])
        writer.writerows((one.name, one.source) for one in smears)
    given = [str(smears_csv), "--leave-one-source-out", "--provenance", str(tmp_path / "provenance.csv")]
    result = CliRunner().invoke(split, [*given, "--out", str(tmp_path / "sources")])
    assert result.exit_code == 0, result.output
    for name in ("without-lab0/bundle", "without-lab1"):
        shutil.copytree(embedded_bundle(), tmp_path / "bundles" / name)
    return tmp_path / "sources", tmp_path / "bundles"
