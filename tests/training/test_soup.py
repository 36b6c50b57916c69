"""The mean of several trainings' weights, and what it tells of them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from build_engines.checkpoint import Checkpoint, CropGeometry, TileGeometry, build_network
from training.base_weights import begin_from
from training.loop import TrainingError
from training.soup import main, mean_of

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("PNN", "LY")
START = {"base_weights": "lite0.pth", "base_weights_sha256": "a" * 64}


def saved(path: Path, seed: int, **provenance: Any) -> Checkpoint:
    torch.manual_seed(seed)
    architecture = {"name": "test_efficientnet"}
    network = build_network("timm", architecture, len(CLASSES))
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))
    checkpoint = Checkpoint(
        "timm", architecture, CLASSES, CropGeometry(64), network.state_dict(), {**START, **provenance}
    )
    path.parent.mkdir(exist_ok=True)
    checkpoint.save(path)
    return checkpoint


def test_weights_and_running_statistics_are_the_mean(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.pt" for seed in range(3)]
    every = [saved(path, seed) for seed, path in enumerate(paths)]
    soup = mean_of(paths)
    assert any(name.endswith("running_var") for name in soup.weights)
    for name, tensor in soup.weights.items():
        wanted = torch.stack([one.weights[name].double() for one in every]).mean(0)
        assert tensor.dtype == every[0].weights[name].dtype
        assert torch.allclose(tensor.double(), wanted, atol=1e-6)
    assert (soup.classes, soup.geometry, soup.architecture) == (
        CLASSES,
        CropGeometry(64),
        {"name": "test_efficientnet"},
    )
    soup.network()


def test_its_provenance_has_what_all_share_and_what_each_has_alone(tmp_path: Path) -> None:
    paths = [tmp_path / "1.pt", tmp_path / "2.pt"]
    saved(paths[0], 0, data=["x"], variation="extreme", sources={"pbc": 3, "bccd": 1}, cells={"LY": 2})
    saved(paths[1], 1, data=["x"], variation="widest", sources={"pbc": 2, "lmu": 4}, cells={"LY": 2})
    assert mean_of(paths).provenance == {
        **START,
        "data": ["x"],
        "sources": {"pbc": 3, "bccd": 1, "lmu": 4},
        "cells": {"LY": 2},
        "mean_of": [
            {"variation": "extreme", "sources": {"pbc": 3, "bccd": 1}},
            {"variation": "widest", "sources": {"pbc": 2, "lmu": 4}},
        ],
    }


def test_a_training_that_leaves_a_source_out_cannot_begin_from_a_mean_that_saw_it(tmp_path: Path) -> None:
    paths = [tmp_path / "a/best.pt", tmp_path / "b/best.pt"]
    saved(paths[0], 0, sources={"pbc": 3})
    saved(paths[1], 1, sources={"pbc": 3, "bccd": 1})
    ended = CliRunner().invoke(main, [*map(str, paths), "--out", str(tmp_path / "soup")])
    assert (ended.exit_code, ended.output.split()) == (0, [str(tmp_path / "soup/best.pt")])
    with pytest.raises(TrainingError, match=r"soup/best\.pt was trained on images of bccd"):
        begin_from(tmp_path / "soup/best.pt", ["bccd"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("PNN", "EO")}, r"2\.pt has the classes \('PNN', 'EO'\) and .*1\.pt \('PNN', 'LY'\)"),
        ({"geometry": CropGeometry(96)}, r"has the geometry CropGeometry\(crop_size=96"),
        ({"activation": "sigmoid"}, "has the activation sigmoid and .* softmax"),
        ({"provenance": {"base_weights_sha256": "b" * 64}}, "the weights bbbbbbbbbbbb and .* aaaaaaaaaaaa"),
        ({"provenance": {}}, "the weights unknown and"),
    ],
)
def test_unlike_networks_have_no_mean(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    paths = [tmp_path / "1.pt", tmp_path / "2.pt"]
    first = saved(paths[0], 0)
    replace(first, **changed).save(paths[1])
    with pytest.raises(TrainingError, match=said):
        mean_of(paths)


def test_detectors_of_other_images_have_the_mean_of_their_backgrounds(tmp_path: Path) -> None:
    paths = [tmp_path / "1.pt", tmp_path / "2.pt"]
    first = saved(paths[0], 0)
    for path, level in zip(paths, (240.0, 230.0), strict=True):
        replace(first, geometry=TileGeometry(416, background=(level, 215.0, 191.0))).save(path)
    assert mean_of(paths).geometry == TileGeometry(416, background=(235.0, 215.0, 191.0))
    replace(first, geometry=TileGeometry(416)).save(paths[1])
    with pytest.raises(TrainingError, match=r"background=None\) and"):
        mean_of(paths)


def test_two_that_began_from_nothing_have_no_mean(tmp_path: Path) -> None:
    paths = [tmp_path / "1.pt", tmp_path / "2.pt"]
    for path in paths:
        replace(saved(path, 0), provenance={"base_weights": "none"}).save(path)
    with pytest.raises(
        TrainingError, match=r"began from the weights unknown and .* from the weights unknown"
    ):
        mean_of(paths)


def test_last_layers_that_began_from_other_random_numbers_have_no_mean(tmp_path: Path) -> None:
    paths = [tmp_path / "1.pt", tmp_path / "2.pt"]
    for seed, path in enumerate(paths):
        saved(path, seed, schedule={"seed": seed})
    with pytest.raises(TrainingError, match=r"aaaa and seed 1 and .* aaaa+ and seed 0"):
        mean_of(paths)
    for seed, path in enumerate(paths):  # of an earlier training the last layer is taken over, too
        saved(path, seed, schedule={"seed": seed}, begun_from={"sources": {"pbc": 3}})
    assert mean_of(paths).provenance["mean_of"] == [{"schedule": {"seed": 0}}, {"schedule": {"seed": 1}}]


def test_a_figure_that_is_no_number_parts_nothing_that_is_shared(tmp_path: Path) -> None:
    paths = [tmp_path / "1.pt", tmp_path / "2.pt"]
    for path in paths:
        saved(path, 0, begun_from={"sources": {"bccd": 3}, "validation": {"score": math.nan}})
    mean = mean_of(paths)
    mean.save(tmp_path / "mean.pt")
    assert mean.provenance["mean_of"] == [{}, {}]
    with pytest.raises(TrainingError, match="trained on images of bccd"):
        begin_from(tmp_path / "mean.pt", ["bccd"])


@pytest.mark.parametrize(("n", "said"), [(1, "1 were given, 1 of"), (2, "2 were given, 1 of")])
def test_one_training_has_no_mean(tmp_path: Path, n: int, said: str) -> None:
    saved(tmp_path / "1.pt", 0)
    with pytest.raises(TrainingError, match=f"two trainings at least, each once; {said} them different"):
        mean_of([tmp_path / "1.pt"] * n)


def test_no_training_is_overwritten_by_the_mean_but_an_earlier_mean_is(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}/best.pt" for name in "abc"]
    for seed, path in enumerate(paths):
        saved(path, seed)
    before = paths[2].read_bytes()
    for out, code in (("c", 78), ("mean", 0), ("mean", 0)):
        ended = CliRunner().invoke(main, [*map(str, paths[:2]), "--out", str(tmp_path / out)])
        assert ended.exit_code == code
        assert (
            "c/best.pt is a training and no mean of several; give another folder" in ended.output
        ) == bool(code)
    assert paths[2].read_bytes() == before
