"""Two checkpoints become a bundle that a station runs, or a sentence says why not."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper

from build_engines import bundle_build
from build_engines.build import main
from build_engines.bundle_build import build_bundle, golden_smears
from build_engines.checkpoint import Checkpoint, CheckpointError, CropGeometry
from build_engines.errors import BuildError
from build_engines.model_card import add_evaluation, model_card, replace_manifest
from build_engines.model_card import main as write_evaluation
from build_engines.networks import load_networks
from build_engines.reference import gate_images, spread
from edge.bundle import Bundle
from edge.demo.renderer import draw_tile
from edge.overlay import encode_jpeg
from edge.pipeline import open_pipeline
from tests.build_engines.small_bundle import CLASSES, save_ultralytics_detector

pytestmark = pytest.mark.timeout(400)
"""Four exports by torch's own exporter, which takes its time on a busy machine."""


def test_a_bundle_holds_both_precisions_golden_answers_and_a_card(built: Bundle) -> None:
    assert {path.name for path in built.path.iterdir()} == {
        *("manifest.json", "MODEL_CARD.md", "golden.npz", "detector.onnx", "detector.fp16.onnx"),
        *("classifier.onnx", "classifier.fp16.onnx"),
    }
    assert built.manifest.classes == CLASSES
    assert {(gate.backend, gate.precision) for gate in built.manifest.gates} >= {
        ("openvino", "f32"), ("onnxruntime", "f32"), ("onnxruntime", "f16"),
    }  # fmt: skip
    tiles, crops = built.golden().networks
    assert (tiles.outputs["scores"] > 0.3).any()
    assert len(crops.inputs)


def test_the_fp16_files_hold_an_fp16_body(built: Bundle) -> None:
    for name in ("detector", "classifier"):
        ops = {}
        for precision in ("", ".fp16"):
            model = onnx.shape_inference.infer_shapes(onnx.load(built.path / f"{name}{precision}.onnx"))
            types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
            ops[precision] = {
                types.get(node.output[0]) for node in model.graph.node if node.op_type == "Conv"
            }
        assert ops == {"": {onnx.TensorProto.FLOAT}, ".fp16": {onnx.TensorProto.FLOAT16}}


def test_a_station_runs_what_was_built(built: Bundle) -> None:
    for backend in ("openvino", "onnxruntime"):
        with open_pipeline(built, backend, "f32") as pipeline:
            findings = pipeline.read(draw_tile(1).rgb)
            assert findings
            assert {finding.label for finding in findings} <= set(CLASSES)


def test_the_model_card_tells_covered_experimental_and_unknown_classes(built: Bundle) -> None:
    card = (built.path / "MODEL_CARD.md").read_text()
    assert "| covered | LY (lymphocyte, 60), PNN (neutrophil, 51) |" in card
    assert "| experimental, under 50 training cells | MO (monocyte, 7) |" in card
    assert "SS (Sézary cell)" in card


def test_figures_of_an_evaluation_enter_manifest_and_card(built: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built.path, tmp_path / "copy"))
    evaluation = {"accuracy": 0.91234, "classes": [{"label": "LY", "f1": 0.8}], "mistakes": [1, 2]}
    changed = add_evaluation(folder, evaluation, "drawn smears")
    assert changed.manifest.accuracy == {
        "drawn smears": {"accuracy": 0.91234, "classes": [{"label": "LY", "f1": 0.8}]}
    }
    card = (folder / "MODEL_CARD.md").read_text()
    assert "## Accuracy: drawn smears" in card
    assert "- accuracy: 0.9123" in card
    assert "| LY | 0.8 |" in card
    assert Bundle.load(folder).id != built.id


def test_a_card_tells_calibration_and_intervals_but_no_curves(built: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built.path, tmp_path / "copy"))
    thresholds = built.manifest.thresholds.model_copy(update={"classification": 0.75})
    replace_manifest(folder, built.manifest.model_copy(update={"temperature": 1.5, "thresholds": thresholds}))
    measures = {"score": {"low": 0.7, "high": 0.8123}, "macro_f1": None}
    evaluation = {"coverage": [1], "intervals": {"confidence": 0.95, "measures": measures, "classes": {}}}
    add_evaluation(folder, evaluation, "drawn smears")
    card = (folder / "MODEL_CARD.md").read_text()
    assert "calibrated with the temperature 1.5." in card
    assert "unsure of its class where that has a probability under 0.75." in card
    assert "- intervals of 95 %: score 0.700 to 0.812\n" in card
    assert "coverage" not in card


@pytest.mark.parametrize("content", ["", "[]", '{"score": 0.8}', '{"annotations_sha256": "0", "shares": []}'])
def test_what_is_no_evaluation_enters_no_card(content: str, tmp_path: Path) -> None:
    (tmp_path / "likeness.json").write_text(content)
    arguments = [str(tmp_path), "--evaluation", str(tmp_path / "likeness.json"), "--name", "drawn smears"]
    result = CliRunner().invoke(write_evaluation, arguments)
    assert result.exit_code == 1
    assert "likeness.json is no report of an evaluation; give the report.json" in result.output


def test_a_bundle_whose_file_strays_from_torch_is_not_written(
    checkpoints: tuple[Path, Path], built: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged_export(graph: object, shape: object, path: Path, **names: object) -> None:
        """Stands in for the export: the files of the good bundle, with the largest weights changed."""
        model = onnx.load(built.path / path.name)
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((values * 1.5).astype(values.dtype), tensor.name))
        onnx.save(model, path)

    monkeypatch.setattr(bundle_build, "export", damaged_export)
    with pytest.raises(BuildError, match=r"was not written: \w+ in f32 strays from torch by"):
        build_bundle(
            load_networks(*checkpoints), tmp_path / "bundle", name="bad", threshold=0.3,
            images={"a tile": draw_tile(1).rgb}, images_are="a drawn smear",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def _not_read(folder: Path) -> list[str]:
    """Options with checkpoints whose reading would end in another sentence."""
    empty = folder / "empty.pt"
    empty.touch()
    return ["--detector", str(empty), "--classifier", str(empty)]


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    args = [*_not_read(tmp_path), "--out", str(tmp_path)]
    for manifest in (None, '{"name": "an app"}', "[]", "no JSON"):
        if manifest is not None:
            (tmp_path / "manifest.json").write_text(manifest)
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 1
        assert f"{tmp_path} is not empty and no bundle, so it is not replaced" in result.output
    assert (tmp_path / "thesis.txt").exists()


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*_not_read(tmp_path), "--out", "."])
    assert result.exit_code == 1
    assert "cannot take the place of . itself; give --out a name in it." in result.output


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(
    checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    detector, classifier = map(str, checkpoints)
    out = tmp_path / "file" / "bundle"
    args = ["--detector", detector, "--classifier", classifier, "--gate-images", "1", "--out", str(out)]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1
    assert f"{out} cannot be written (" in result.output


@pytest.mark.parametrize(
    ("count", "most", "chosen"), [(5, 3, [0, 1, 3]), (2, 3, [0, 1]), (9, 3, [0, 3, 6]), (0, 3, [])]
)
def test_images_are_spread_over_all(count: int, most: int, chosen: list[int]) -> None:
    assert spread(count, most) == chosen


def test_what_is_no_image_is_left_out_of_the_gate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "away.jpg")
    (tmp_path / "b.jpg").write_bytes(encode_jpeg(draw_tile(1).rgb))
    (tmp_path / "c.jpg").write_bytes(b"notes")
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir/b.jpg").write_bytes(encode_jpeg(draw_tile(2).rgb))  # a server's own small copy
    images, told = gate_images(tmp_path, 4)
    assert (list(images), told) == (["b.jpg"], "1 smear images")
    assert "c.jpg is left out of the gate" in caplog.text


def test_what_does_not_go_together_is_refused_in_one_sentence(
    checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    detector, classifier = checkpoints
    with pytest.raises(BuildError, match="does not name classes and no classifier was given"):
        load_networks(detector, None)
    with pytest.raises(BuildError, match=r"classifier\.pt is a classifier's checkpoint; give a detector's"):
        load_networks(classifier, classifier)
    with pytest.raises(BuildError, match=r"detector\.pt is a detector's checkpoint; give a classifier's"):
        load_networks(detector, detector)
    with pytest.raises(
        BuildError, match=r"detector\.pt does not become a graph: .* 21 places .* larger tile"
    ):
        load_networks(detector, classifier, tile_size=32)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_networks(tmp_path / "nothing.pt", None)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_networks(tmp_path / "text.pt", None)
    with zipfile.ZipFile(tmp_path / "old.pt", "w") as archive:
        archive.writestr("old/data.pkl", b"cultralytics.nn.tasks\nWhatNobodyHasAnyMore\n")
    with pytest.raises(CheckpointError, match=r"old\.pt cannot be read by the ultralytics that is"):
        load_networks(tmp_path / "old.pt", None)
    (tmp_path / "old.pt").rename(tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match=r"old\.ckpt is a network of ultralytics.* as \.pt; rename"):
        load_networks(tmp_path / "old.ckpt", None)
    with pytest.raises(BuildError, match="holds no readable image"):
        gate_images(tmp_path, 3)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"format": Mischief()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("geometry", None),
        ("geometry", {"tile_size": 96, "surprise": 1}),
        ("classes", 3),
        ("provenance", 3),
        ("weights", None),
    ],
)
def test_a_checkpoint_with_parts_of_another_kind_is_told(
    checkpoints: tuple[Path, Path], tmp_path: Path, part: str, value: object
) -> None:
    content = torch.load(checkpoints[0], weights_only=True)
    torch.save({**content, part: value}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt is a checkpoint of which a part is missing or of"):
        load_networks(tmp_path / "other.pt", checkpoints[1])


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("weights", {}, "RuntimeError: Error.* in loading state_dict"),
        ("architecture", {}, "KeyError: 'name'"),
        ("architecture", {"name": "test_efficientnet", "surprise": 1}, "TypeError"),
        ("classes", ["PNN"], "RuntimeError"),
        ("geometry", {"crop_size": 64, "margin_px": -1.0}, "ValidationError"),
    ],
)
def test_a_checkpoint_that_is_not_the_network_it_names_is_told(
    checkpoints: tuple[Path, Path], tmp_path: Path, part: str, value: object, said: str
) -> None:
    content = torch.load(checkpoints[1], weights_only=True)
    torch.save({**content, part: value}, tmp_path / "other.pt")
    told = rf"other\.pt does not become the network that it says it is \({said}"
    with pytest.raises(BuildError, match=told):
        load_networks(checkpoints[0], tmp_path / "other.pt")


def test_a_checkpoint_opens_no_network(checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    content = torch.load(checkpoints[1], weights_only=True)
    torch.save({**content, "architecture": {"name": "hf-hub:timm/some"}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="'hf-hub:timm/some' is no model of the timm that is installed"):
        load_networks(checkpoints[0], tmp_path / "other.pt")


def test_a_name_that_cannot_be_printed_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    args = ["--detector", __file__, "--name", "two\nlines", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1
    assert "The bundle's name 'two\\nlines' cannot be printed on one line; give --name." in result.output


def test_a_checkpoint_gives_back_the_network_it_was_made_from(checkpoints: tuple[Path, Path]) -> None:
    checkpoint = Checkpoint.load(checkpoints[1])
    crops = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        first = checkpoint.network()(crops)
        again = replace(checkpoint, provenance={"seen": np.float64(0.5)}).network()(crops)
    assert torch.equal(first, again)
    assert checkpoint.geometry == CropGeometry(64)


def test_numpy_numbers_in_the_provenance_stay_readable(
    checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint = replace(Checkpoint.load(checkpoints[1]), provenance={"recall": np.float64(0.5)})
    checkpoint.save(tmp_path / "again.pt")
    assert json.dumps(Checkpoint.load(tmp_path / "again.pt").provenance) == '{"recall": 0.5}'


def test_the_card_tells_from_which_training_another_began(built: Bundle) -> None:
    first = {"sources": {"pbc": 3}, "base_weights": "lite0.pth"}
    provenance = {"classifier": {"variation": "widest", "begun_from": first}}
    card = model_card(built.manifest.model_copy(update={"provenance": provenance}))
    assert (
        """
- variation: widest
- an earlier training, from which it began:
  - sources: pbc 3
  - base_weights: lite0.pth
"""
        in card
    )


def test_the_card_tells_of_which_trainings_a_network_is_the_mean(built: Bundle) -> None:
    provenance = {"classifier": {"sources": {"pbc": 3}, "mean_of": [{"hue": 1.0}, {"hue": 0.5}]}}
    card = model_card(built.manifest.model_copy(update={"provenance": provenance}))
    assert (
        """
- sources: pbc 3
- training 1 of 2, of whose weights it is the mean:
  - hue: 1
- training 2 of 2, of whose weights it is the mean:
  - hue: 0.5
"""
        in card
    )


def test_a_one_stage_ultralytics_network_becomes_a_bundle_that_names_cells(
    ultralytics: ModuleType, tmp_path: Path
) -> None:
    save_ultralytics_detector(ultralytics, tmp_path / "one-stage.pt", CLASSES, 96)
    (tmp_path / "provenance.json").write_text('{"cells": {"LY": 70}}')

    networks = load_networks(tmp_path / "one-stage.pt", None, tile_size=96)
    bundle = build_bundle(
        networks, tmp_path / "bundle", name="one-stage", threshold=0.2,
        images={str(i): smear.rgb for i, smear in enumerate(golden_smears())}, images_are="drawn smears",
    )  # fmt: skip
    assert bundle.classifier is None
    assert bundle.detector.anchor == "centre"
    assert "covered | LY (lymphocyte, 70)" in (bundle.path / "MODEL_CARD.md").read_text()
    with open_pipeline(bundle, "openvino", "f32") as pipeline:
        findings = pipeline.read(golden_smears()[0].rgb)
    assert findings
    assert {finding.label for finding in findings} <= set(CLASSES)
    assert sum(findings[0].probabilities.values()) == pytest.approx(1, abs=1e-3)
