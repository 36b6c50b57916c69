"""A recipe of two detectors and two classifiers becomes one bundle, which edge-run runs as it runs any."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from click.testing import CliRunner

from build_engines import bundle_build
from build_engines.build import main
from build_engines.checkpoint import Checkpoint, CropGeometry
from build_engines.errors import BuildError
from build_engines.job import Job
from build_engines.networks import load_networks, load_recipe
from build_engines.onnx_export import export
from build_engines.recipe import Recipe, read_recipe, recipe_of
from build_engines.triton_repository import write_triton_repository
from edge import cli
from edge.bundle import Bundle
from edge.demo.renderer import draw_tile
from edge.errors import BackendError
from edge.geometry import crop, iou_matrix, letterbox, stretched
from edge.images import decode
from edge.overlay import encode_jpeg
from edge.pipeline import open_pipeline
from tests.build_engines.small_bundle import CLASSES, save_ultralytics_detector
from tests.build_engines.untrained import run

pytestmark = pytest.mark.timeout(400)

OTHER_CLASSES = ("PNN", "EO", "LY")
RECIPE = """
[fusion]
iou = 0.5

[[detector]]
checkpoint = "detector.pt"
weight = 2
tta = ["hflip"]

[[detector]]
checkpoint = "tiny.pt"
tile_size = 128
windows = { size_px = 700, overlap_px = 200 }

[[classifier]]
checkpoint = "classifier.pt"
weight = 0.457
tta = ["rot90"]

[[classifier]]
checkpoint = "whole.pt"
view = "tile"
weight = 0.543
only_when_alone = true
activation = "sigmoid"
"""


@pytest.fixture(scope="module")
def recipe(
    checkpoints: tuple[Path, Path], ultralytics: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Beside the checkpoints that it names."""
    torch.set_num_threads(1)
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("ensemble")
    for path in checkpoints:
        shutil.copy(path, folder)
    save_ultralytics_detector(ultralytics, folder / "tiny.pt", ("leukocyte",), 128)
    whole = timm.create_model("test_resnet", num_classes=len(OTHER_CLASSES))
    geometry = CropGeometry(64, shape="stretched", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    Checkpoint(
        "timm", {"name": "test_resnet"}, OTHER_CLASSES, geometry, whole.state_dict(), {"cells": {"EO": 52}}
    ).save(folder / "whole.pt")
    (folder / "ensemble.toml").write_text(RECIPE)
    return folder / "ensemble.toml"


@pytest.fixture(scope="module")
def ensemble(recipe: Path, built: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """By the command. Networks that the small bundle has are copied from it, not exported again."""

    def export_what_is_new(graph: Any, shape: Any, path: Path, **names: Any) -> None:
        if (built.path / path.name).exists():
            shutil.copy(built.path / path.name, path)
        else:
            export(graph, shape, path, **names)

    out = tmp_path_factory.mktemp("out") / "ensemble"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bundle_build, "export", export_what_is_new)
        args = ["--recipe", str(recipe), "--out", str(out), "--gate-images", "3", "--threshold", "0.3"]
        result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1].startswith("ensemble-")
    return Bundle.load(out)


def test_a_recipe_becomes_one_bundle_with_known_answers_of_every_network(ensemble: Bundle) -> None:
    stems = ("detector", "detector-2", "classifier", "classifier-2")
    assert {path.name for path in ensemble.path.iterdir()} == {
        *("manifest.json", "MODEL_CARD.md", "golden.npz"),
        *(f"{stem}{half}.onnx" for stem in stems for half in ("", ".fp16")),
    }
    manifest = ensemble.manifest
    assert manifest.classes == (*CLASSES, "EO")
    assert manifest.fusion.iou == 0.5
    assert [spec.classes for spec in manifest.classifiers] == [CLASSES, OTHER_CLASSES]
    assert [known.inputs.shape[1] for known in ensemble.golden().networks] == [96, 128, 64, 64]
    assert set(manifest.provenance) == {"detector", "detector 2", "classifier", "classifier 2"}
    written = json.loads((ensemble.path / "manifest.json").read_text())
    assert written["classifiers"][1] == {
        **{"name": "test_resnet", "graph": {"fp32": "classifier-2.onnx", "fp16": "classifier-2.fp16.onnx"}},
        **{"crop_size": 64, "view": "tile", "margin_px": 0.0, "margin_fraction": 0.0, "shape": "stretched"},
        **{"classes": list(OTHER_CLASSES), "weight": 0.543, "only_when_alone": True},
    }


def test_the_model_card_tells_all_networks_and_what_each_counts(ensemble: Bundle) -> None:
    card = (ensemble.path / "MODEL_CARD.md").read_text()
    assert "Detector: yolox, tiles of 96 px, also seen hflip, weight 2." in card
    assert "Detector: tiny, tiles of 128 px, fields in windows of 700 px, weight 1." in card
    assert "whole tiles of 64 px, only where one cell was found, weight 0.543." in card
    assert "| covered | LY (lymphocyte, 60), PNN (neutrophil, 51), EO (eosinophil, 52) |" in card
    assert "**classifier 2**" in card


def test_edge_run_gives_what_the_same_does_by_hand(ensemble: Bundle, tmp_path: Path) -> None:
    """With NumPy and ONNX Runtime on the bundle's files, image by image."""
    folder = tmp_path / "smears"
    folder.mkdir()
    for seed in (1, 2, 101):
        (folder / f"{seed}.jpg").write_bytes(encode_jpeg(draw_tile(seed).rgb))
    args = [folder, "--out", tmp_path / "out", "--bundle", ensemble.path, "--backend", "onnxruntime"]
    result = CliRunner().invoke(cli.run, [*map(str, args), "--precision", "f32"])
    assert result.exit_code == 0, result.output
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()):
        rows.setdefault(row["NAME"], []).append(row)
    by_hand = ByHand(ensemble.path)
    alone = 0
    with open_pipeline(ensemble, "onnxruntime", "f32") as pipeline:
        for path in sorted(folder.iterdir()):
            rgb = decode(path.read_bytes())
            boxes, scores = by_hand.find(rgb)
            for threshold in (0.3, (scores[0] + scores[1]) / 2, 0.05):
                chosen = scores >= threshold
                names = by_hand.name(rgb, boxes[chosen])
                findings = pipeline.read(rgb, detection_threshold=threshold)
                alone += len(findings) == 1
                np.testing.assert_allclose(
                    np.reshape([one.box_xyxy for one in findings], (-1, 4)), boxes[chosen], atol=1e-3
                )
                assert [one.detection_score for one in findings] == pytest.approx(scores[chosen], abs=1e-5)
                told = [[one.probabilities[code] for code in (*CLASSES, "EO")] for one in findings]
                np.testing.assert_allclose(np.reshape(told, (-1, 4)), names, atol=1e-5)
                if threshold == 0.3:
                    written = rows.pop(path.name, [])
                    assert [row["class"] for row in written] == [one.label for one in findings]
                    assert [float(row["detection_score"]) for row in written] == pytest.approx(
                        [one.detection_score for one in findings], abs=1e-3
                    )
    assert not rows
    assert alone >= 3  # the whole tile had its say, and not with 0.05


class ByHand:
    """The recipe above, written out: no code of the pipeline's but letterbox and crop."""

    def __init__(self, folder: Path) -> None:
        stems = ("detector", "detector-2", "classifier", "classifier-2")
        self.networks = [ort.InferenceSession(folder / f"{stem}.onnx") for stem in stems]

    def _run(self, index: int, batch: np.ndarray) -> list[np.ndarray]:
        session = self.networks[index]
        return session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(batch)})

    def find(self, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All fused boxes with scores, the surest first."""
        every = []
        detectors = ((0, 96, "top_left", (False, True)), (1, 128, "centre", (False,)))
        for index, side, anchor, views in detectors:
            tile, placement = letterbox(rgb, side, anchor)
            for is_flipped in views:
                boxes, scores = self._run(index, (tile[:, ::-1] if is_flipped else tile)[None])[:2]
                if is_flipped:
                    boxes = boxes[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + [side, 0, side, 0]
                boxes = placement.to_image(boxes[0].astype(np.float32))
                every += [(s, b) for s, b in zip(scores[0], boxes, strict=True) if s >= 0.01]
        clusters: list[list[tuple[float, np.ndarray]]] = []
        for score, box in sorted(every, key=lambda one: -one[0]):
            means = [np.average([b for _, b in c], axis=0, weights=[s for s, _ in c]) for c in clusters]
            ious = iou_matrix(box[None], np.array(means, np.float32).reshape(-1, 4))[0]
            if len(ious) and ious.max() > 0.5:
                clusters[ious.argmax()].append((score, box))
            else:
                clusters.append([(score, box)])
        fused = []
        for cluster in clusters:
            parts = [s for s, _ in cluster]
            box = np.average([b for _, b in cluster], axis=0, weights=parts)
            fused.append((np.mean(parts) * min(len(parts), 3) / 3, box))  # of 3 views, of weight 3 together
        fused.sort(key=lambda one: -one[0])
        return np.array([box for _, box in fused]), np.array([score for score, _ in fused])

    def name(self, rgb: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Probabilities of LY, MO, PNN and EO."""
        if not len(boxes):
            return np.empty((0, 4))
        crops = np.stack([crop(rgb, box, 64, 0, 0.15, "square") for box in boxes])
        cells = (self._run(2, crops)[0] + self._run(2, np.rot90(crops, axes=(1, 2)))[0]) / 2
        ours = np.column_stack([cells, np.zeros(len(cells))])
        if len(boxes) > 1:
            return ours
        neutrophil, eosinophil, lymphocyte = self._run(3, stretched(rgb, 64)[None])[0][0]
        return 0.457 * ours + 0.543 * np.array([[lymphocyte, 0, neutrophil, eosinophil]])


def test_several_lanes_give_the_same_findings(ensemble: Bundle) -> None:
    with open_pipeline(ensemble, "openvino", "f32") as pipeline:
        if pipeline.crowd is None:
            pytest.skip("this machine has one core")
        rgb = draw_tile(1).rgb
        ours, theirs = pipeline.read(rgb), pipeline.crowd.read(rgb)
        assert [one.label for one in ours] == [one.label for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.box_xyxy == pytest.approx(other.box_xyxy, abs=0.1)


def test_a_server_refuses_an_ensemble_in_one_sentence(ensemble: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"one detector and at most one classifier, and .* has 2 and 2"):
        write_triton_repository(ensemble, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[detector]]\ncheckpoint = 'd.pt'\nweigth = 2", r"detector\.0\.weigth: Extra inputs"),
        ("[[classifier]]\ncheckpoint = 'c.pt'", r"detector: Field required"),
        ("[[detector]\n", "is no TOML"),
        ("[[detector]]\ncheckpoint = 'd.pt'\nwindows = {size_px = 9, overlap_px = 5}", "at most half"),
        ("[[detector]]\ncheckpoint = 'd.pt'\nweight = 0", "greater than 0"),
        ("[[detector]]\ncheckpoint = 'd.pt'\nweight = inf", "finite number"),
        ("[[detector]]\ncheckpoint = 'd.pt'\ntile_size = -32", "greater than 0"),
        (None, "cannot be read"),
    ],
)
def test_a_recipe_that_is_not_understood_is_refused_by_the_key(
    text: str | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_text(text, "utf-8-sig")  # editors of Windows begin it with a mark
    with pytest.raises(BuildError, match=f"The recipe .*{said}"):
        read_recipe(path)


def test_a_recipe_and_networks_on_the_command_line_do_not_mix(recipe: Path, tmp_path: Path) -> None:
    args = ["--recipe", str(recipe), "--detector", "d.pt", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert "--recipe names all networks" in result.output


def test_networks_on_the_command_line_count_alike(checkpoints: tuple[Path, Path]) -> None:
    detector, classifier = checkpoints
    networks = load_recipe(recipe_of([detector, detector], [classifier, classifier], 128))
    assert [spec.side_px for spec in networks.specs] == [128, 128, 64, 64]
    assert {spec.weight for spec in networks.specs} == {1}
    assert [spec.graph.fp32 for spec in networks.specs] == [
        *("detector.onnx", "detector-2.onnx", "classifier.onnx", "classifier-2.onnx")
    ]


def test_a_classifier_that_is_not_always_asked_is_not_enough(checkpoints: tuple[Path, Path]) -> None:
    detector, classifier = checkpoints
    entries = {"detector": [{"checkpoint": detector}]}
    only_alone = {"classifier": [{"checkpoint": classifier, "only_when_alone": True}]}
    with pytest.raises(BuildError, match="no classifier was given that always does"):
        load_recipe(Recipe.model_validate(entries | only_alone))


def test_engines_are_built_of_every_network(ensemble: Bundle) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
    orders = Job(rtx, ensemble, ensemble.path, None, ("8.6",)).orders()
    assert [(order.onnx_path.name, order.side_px, order.batch) for order in orders] == [
        *(("detector.fp16.onnx", 96, batch) for batch in (1, 4)),
        *(("detector-2.fp16.onnx", 128, batch) for batch in (1, 4)),
        *(("classifier.fp16.onnx", 64, batch) for batch in (1, 4, 16)),
        *(("classifier-2.fp16.onnx", 64, batch) for batch in (1, 4, 16)),
    ]
    assert orders[0].output_names == {"boxes", "scores", "labels"}
    assert orders[-1].output_names == {"probabilities"}


@pytest.mark.filterwarnings("ignore:distutils Version classes:DeprecationWarning")
def test_an_ultralytics_classification_network_is_a_classifier(
    ultralytics: ModuleType, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolo11n-cls.yaml", verbose=False)
    network = ultralytics.nn.tasks.ClassificationModel("yolo11n-cls.yaml", nc=len(CLASSES), verbose=False)
    network.names, network.task = dict(enumerate(CLASSES)), "classify"
    model.model, model.ckpt = network, {"train_args": {"imgsz": 64, "task": "classify"}}
    model.save(tmp_path / "whole.pt")
    (built_of,) = load_networks(checkpoints[0], tmp_path / "whole.pt").classifiers
    assert built_of.classes == CLASSES
    assert (built_of.spec.side_px, built_of.spec.shape) == (64, "stretched")
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    expected, _ = run(network.eval(), crops.permute(0, 3, 1, 2) / 255)
    assert torch.allclose(run(built_of.graphs[0], crops), expected, atol=1e-3)
    with pytest.raises(BuildError, match=r"whole\.pt is a network for 'classify' and no detector"):
        load_networks(tmp_path / "whole.pt", None)
