"""From pixels to findings, on real engines with the embedded bundle."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.backends.base import Outputs, Session, find_backend
from edge.bundle import MANIFEST, Bundle, Golden, Known, file_sha256
from edge.cells import Finding
from edge.demo.renderer import DrawnSmear, draw_field, draw_tile
from edge.errors import BackendError, BundleError
from edge.geometry import iou_matrix
from edge.manifest import DetectorSpec, GateResult, GraphFiles, Manifest
from edge.pipeline import Pipeline, open_pipeline, tempered
from edge.stopwatch import Stopwatch


class FixedSession(Session):
    """Test double of an engine: always the same answers."""

    def __init__(self, side_px: int, answers: Outputs) -> None:
        super().__init__("fixed", side_px)
        self.answers = answers
        self.batches: list[np.ndarray] = []

    def _run(self, batch: np.ndarray) -> Outputs:
        self.batches.append(batch)
        return self.answers

    def close(self) -> None: ...


def boxes_of(findings: list[Finding]) -> np.ndarray:
    return np.array([finding.box_xyxy for finding in findings], np.float32).reshape(-1, 4)


def test_drawn_cells_are_found_and_named(pipeline: Pipeline) -> None:
    right = 0
    labels = ("PNN", "EO", "BA", "LY", "MO", "Er")
    for seed, label in enumerate(labels):
        smear = draw_tile(seed, label)
        findings = pipeline.read(smear.rgb)
        assert iou_matrix(smear.boxes_xyxy, boxes_of(findings)).max(1) > 0.5
        right += findings[0].label == label
    assert right >= len(labels) - 1


def test_a_field_gives_a_finding_for_each_cell_inside_its_image(pipeline: Pipeline) -> None:
    smear = draw_field(3, cells=8, size_wh=(1280, 960))
    boxes = boxes_of(pipeline.read(smear.rgb))
    assert (iou_matrix(smear.boxes_xyxy, boxes).max(1) > 0.5).sum() >= 7
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 1280).all()
    assert (boxes[:, [1, 3]] <= 960).all()


def test_an_image_without_cells_has_no_findings(pipeline: Pipeline) -> None:
    assert pipeline.read(np.full((363, 360, 3), 230, np.uint8)) == []


def test_findings_are_sorted_and_their_probabilities_sum_to_one(
    pipeline: Pipeline, smear: DrawnSmear
) -> None:
    findings = pipeline.read(smear.rgb, detection_threshold=0.0)
    assert len(findings) > 1
    assert [f.detection_score for f in findings] == sorted(
        (f.detection_score for f in findings), reverse=True
    )
    for finding in findings:
        ranked = list(finding.probabilities.values())
        assert ranked == sorted(ranked, reverse=True)
        assert sum(ranked) == pytest.approx(1, abs=1e-3)
        assert next(iter(finding.probabilities)) == finding.label


def test_a_lower_threshold_only_adds_findings(pipeline: Pipeline, smear: DrawnSmear) -> None:
    few = pipeline.read(smear.rgb)
    many = pipeline.read(smear.rgb, detection_threshold=0.0)
    assert len(many) > len(few)
    assert [finding.box_xyxy for finding in many[: len(few)]] == [finding.box_xyxy for finding in few]


def test_every_stage_is_timed(pipeline: Pipeline, smear: DrawnSmear) -> None:
    watch = Stopwatch()
    pipeline.read(smear.rgb, watch)
    assert list(watch.stage_ms) == ["letterbox", "detect", "crop", "classify", "merge"]
    assert all(time_ms > 0 for time_ms in watch.stage_ms.values())


def test_both_engines_agree_in_full_precision(bundle: Bundle) -> None:
    smears = [draw_tile(seed) for seed in range(30, 36)]
    with (
        open_pipeline(bundle, "openvino", "f32") as one,
        open_pipeline(bundle, "onnxruntime", "f32") as other,
    ):
        for smear in smears:
            ours, theirs = one.read(smear.rgb), other.read(smear.rgb)
            assert [f.label for f in ours] == [f.label for f in theirs]
            np.testing.assert_allclose(boxes_of(ours), boxes_of(theirs), atol=0.1)
            for a, b in zip(ours, theirs, strict=True):
                assert a.class_score == pytest.approx(b.class_score, abs=2e-3)


def one_stage_manifest(bundle: Bundle) -> Manifest:
    detector = bundle.detector.model_copy(update={"names_classes": True, "tile_size": 64, "anchor": "centre"})
    return bundle.manifest.model_copy(
        update={"detectors": (detector,), "classifiers": (), "classes": ("LY", "MO", "EO")}
    )


def test_a_one_stage_bundle_takes_its_classes_from_the_detector(bundle: Bundle, tmp_path: Path) -> None:
    answers = {
        "boxes": np.array([[[8, 16, 40, 48], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0]], np.float32),
        "labels": np.array([[1, 0]], np.int32),
        "probabilities": np.array([[[0.2, 0.7, 0.1], [1 / 3] * 3]], np.float32),
    }
    detector = FixedSession(64, answers)
    one_stage = Bundle(tmp_path, one_stage_manifest(bundle), "one-stage", {})
    pipeline = Pipeline(one_stage, "fixed:f32", [detector])
    (finding,) = pipeline.read(np.zeros((64, 128, 3), np.uint8))
    assert finding.label == "MO"
    assert finding.box_xyxy == (16, 0, 80, 64)  # twice as large in the image, 16 px of padding above
    assert list(finding.probabilities) == ["MO", "LY", "EO"]
    assert detector.batches[0].shape == (1, 64, 64, 3)


def test_a_temperature_divides_the_logits_and_one_changes_nothing() -> None:
    logits = np.array([[2.0, 1.0, -3.0], [0.0, 0.0, 5.0]])
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities = softmax.astype(np.float32)
    expected = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(1, keepdims=True)
    np.testing.assert_allclose(tempered(probabilities, 2.5), expected, atol=1e-6)
    assert tempered(probabilities, 1.0) is probabilities
    coldest = tempered(np.array([[1e-30, 0.6, 0.4]], np.float32), 1e-3)
    np.testing.assert_allclose(coldest, [[0, 1, 0]], atol=1e-6)
    assert tempered(np.empty((0, 3), np.float32), 2.0).shape == (0, 3)


def test_a_bundle_with_a_temperature_answers_the_same_cells_less_surely(
    bundle: Bundle, pipeline: Pipeline, smear: DrawnSmear, tmp_path: Path
) -> None:
    shutil.copytree(bundle.path, tmp_path, dirs_exist_ok=True)
    manifest = bundle.manifest.model_copy(update={"temperature": 2.0})
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json())
    backend, precision = pipeline.engine_id.split(":")
    with open_pipeline(Bundle.load(tmp_path), backend, precision) as softer:  # its known answers are the same
        found = softer.read(smear.rgb)
    before = pipeline.read(smear.rgb)
    assert [(one.box_xyxy, one.label) for one in found] == [(one.box_xyxy, one.label) for one in before]
    for ours, theirs in zip(found, before, strict=True):
        assert ours.class_score < theirs.class_score
        assert sum(ours.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_promise_10_an_engine_that_gives_no_number_is_an_error(bundle: Bundle) -> None:
    nan = FixedSession(64, {"scores": np.array([[np.nan]], np.float32)})
    with pytest.raises(BackendError, match="'scores' that is not finite"):
        nan.run(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 64, 64, 3), np.float32),  # not bytes
        np.zeros((64, 64, 3), np.uint8),  # no batch
        np.zeros((1, 32, 64, 3), np.uint8),  # another size
        np.zeros((0, 64, 64, 3), np.uint8),  # empty
    ],
)
def test_a_batch_of_another_shape_is_refused(batch: np.ndarray) -> None:
    with pytest.raises(ValueError, match="fixed takes uint8"):
        FixedSession(64, {}).run(batch)


def test_an_unknown_backend_and_precision_are_refused_with_the_known_ones(bundle: Bundle) -> None:
    with pytest.raises(
        BackendError, match=r"no backend 'tpu'; use auto, tensorrt, tensorrt_rtx, .* or kserve"
    ):
        find_backend("tpu")
    with pytest.raises(BackendError, match=r"'onnxruntime' has no precision 'int4' .* f32 or f16"):
        open_pipeline(bundle, "onnxruntime", "int4")


def test_promise_12_a_graph_that_is_none_is_refused_by_each_engine(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"nothing of the kind")
    files = GraphFiles(fp32="graph.onnx", fp16="graph.onnx")
    spec = DetectorSpec(name="none", graph=files, tile_size=64, anchor="centre", max_detections=10)
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(BackendError, match=r"cannot load .*graph\.onnx"):
            find_backend(name).open(tmp_path, spec, "f32")


def with_other_answers(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with golden answers that no engine gives."""
    shutil.copytree(bundle.path, folder)
    golden = bundle.golden()
    (crops,) = golden.classifiers
    others = Known(crops.inputs, {"probabilities": crops.outputs["probabilities"][::-1]})
    wrong = Golden(golden.detectors, (others,))
    np.savez_compressed(folder / "golden.npz", allow_pickle=False, **wrong.arrays())
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"]["golden.npz"] = file_sha256(folder / "golden.npz")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.load(folder)


def test_promise_11_an_engine_without_the_known_answers_is_not_used(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="does not give the known answers"):
        open_pipeline(with_other_answers(bundle, tmp_path / "bundle"), "onnxruntime", "f32")


def test_a_bundle_that_is_replaced_before_its_engine_is_opened_is_not_run_under_the_former_id(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    loaded = Bundle.load(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "classes": manifest["classes"][::-1]}))
    with pytest.raises(BundleError, match=f"was replaced while the bundle {bundle.id} was opened"):
        open_pipeline(loaded, "onnxruntime")
    with open_pipeline(Bundle.load(folder), "onnxruntime") as pipeline:
        assert pipeline.bundle_id != bundle.id


def test_promise_12_a_precision_that_failed_its_gate_is_not_chosen(bundle: Bundle) -> None:
    fastest = find_backend("openvino").precisions()[0]
    if fastest == "f32":
        pytest.skip("this processor has no precision below f32")
    failed = GateResult(
        backend="openvino", precision=fastest, passed=False, images="none", box_px=9, score=1, probability=1
    )
    gates = (*bundle.manifest.gates, failed)
    refused = replace(bundle, manifest=bundle.manifest.model_copy(update={"gates": gates}))
    with open_pipeline(refused, "openvino") as pipeline:
        assert pipeline.engine_id != f"openvino:{fastest}"
