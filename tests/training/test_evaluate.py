"""Findings against annotations, and the command from files to report."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edge.cells import CELL_CLASSES, Finding
from edge.errors import BundleError
from training import evaluate as command
from training.annotations import AnnotatedImage
from training.evaluate import CURVE_THRESHOLDS, evaluate, main
from training.mistakes import FALSE_DETECTION, MISSED, WRONG_CLASS

Box = tuple[float, float, float, float]
A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0)


def image(name: str, cells: dict[Box, str | None], source: str = "lab") -> AnnotatedImage:
    corners = np.array(list(cells), np.float32).reshape(-1, 4)
    return AnnotatedImage(name, Path(name), corners, tuple(cells.values()), source)


def finding(box: Box, label: str, detection_score: float = 0.9, class_score: float = 0.8) -> Finding:
    return Finding(box, label, detection_score, class_score, {label: class_score})


def test_a_perfect_reading_is_perfect_everywhere() -> None:
    images = [image("1", {A: "LY", B: "MO"}), image("2", {A: "LY"}, source="pool")]
    predictions = {"1": [finding(A, "LY"), finding(B, "MO")], "2": [finding(A, "LY", class_score=1.0)]}
    found = evaluate(images, predictions, working_threshold=0.5, covered=["LY", "MO", "BA"])
    assert found.score.score == pytest.approx(1)
    assert (found.accuracy, found.macro_f1_covered) == (1.0, 1.0)
    assert found.covered_without_cells == ("BA",)
    assert (found.detection.precision, found.detection.recall) == (1.0, 1.0)
    assert found.calibration_error == pytest.approx(0.4 / 3)
    assert [figure.label for figure in found.classes] == ["MO", "LY"]  # in the order of a count
    assert [(one.source, one.n_boxes, one.macro_f1) for one in found.sources] == [
        ("lab", 2, 1.0),
        ("pool", 1, 1.0),
    ]
    assert found.mistakes == ()
    assert (found.n_images, found.n_boxes) == (2, 3)


def test_each_mistake_counts_where_it_belongs() -> None:
    images = [image("1", {A: "LY", B: "MO", C: "EO"})]
    predictions = {"1": [finding(A, "LY"), finding(B, "LY"), finding((80, 0, 90, 10), "BA", 0.6)]}
    found = evaluate(images, predictions, working_threshold=0.5)
    assert (found.detection.n_matched, found.detection.n_predicted, found.detection.n_true) == (2, 3, 3)
    kinds = [
        (mistake.kind, mistake.truth, mistake.predicted, mistake.confidence) for mistake in found.mistakes
    ]
    assert kinds == [
        (WRONG_CLASS, "MO", "LY", 0.8),
        (FALSE_DETECTION, None, "BA", 0.6),
        (MISSED, "EO", None, None),
    ]
    counts = dict(zip(found.confusion.labels, found.confusion.counts, strict=False))
    assert found.confusion.labels == ("EO", "BA", "MO", "LY")
    assert counts["MO"] == (0, 0, 0, 1, 0)
    assert counts["EO"] == (0, 0, 0, 0, 1)
    assert found.confusion.counts[-1] == (0, 1, 0, 0, 0)
    # the score pairs the missed EO with the nearest finding, of LY; the far BA is paired with nothing
    assert {figure.label: figure.f1 for figure in found.classes} == {"EO": 0.0, "MO": 0.0, "LY": 0.5}


def test_the_most_confident_mistakes_come_first() -> None:
    images = [image("1", {A: "LY", B: "LY"}), image("2", {A: "LY"})]
    predictions = {
        "1": [finding(A, "MO", class_score=0.5), finding(B, "MO", class_score=0.7)],
        "2": [finding(A, "MO", class_score=0.6)],
    }
    found = evaluate(images, predictions, working_threshold=0.5)
    assert [mistake.confidence for mistake in found.mistakes] == [0.7, 0.6, 0.5]


def test_findings_below_the_working_threshold_count_in_the_curve_alone() -> None:
    images = [image("1", {A: "LY", B: "MO"})]
    good = [finding(A, "LY", 0.9), finding(B, "MO", 0.8)]
    weak = [finding(C, "BA", 0.3), finding(A, "EO", 0.2)]
    found = evaluate(images, {"1": [*weak, *good]}, working_threshold=0.5)
    without = evaluate(images, {"1": good}, working_threshold=0.5)
    assert replace(found, curve=()) == replace(without, curve=())
    at = {figure.threshold: figure for figure in found.curve}
    assert tuple(at) == CURVE_THRESHOLDS
    assert (at[0.2].precision, at[0.25].precision, at[0.5].precision) == (0.5, 2 / 3, 1.0)
    assert (at[0.85].recall, at[0.95].recall) == (0.5, 0.0)


def test_a_finding_below_the_working_threshold_does_not_count_however_well_it_lies() -> None:
    images = [image("1", {A: "LY"})]
    beside = (0.0, 0.0, 10.0, 8.0)
    found = evaluate(
        images, {"1": [finding(beside, "MO", 0.5), finding(A, "LY", 0.49)]}, working_threshold=0.5
    )
    assert (found.accuracy, found.score.giou_term) == (0.0, pytest.approx(0.9))
    assert (found.detection.n_predicted, found.detection.n_matched) == (1, 1)  # from the threshold on
    assert [one.predicted for one in found.mistakes] == ["MO"]


def test_a_cell_without_a_class_counts_in_detection_and_not_in_classes_or_score() -> None:
    images = [image("1", {A: "LY"}), image("2", {A: None, B: None}, source="boxes only")]
    predictions = {"1": [finding(A, "LY")], "2": [finding(A, "BA")]}
    found = evaluate(images, predictions, working_threshold=0.5)
    assert (found.score.score, found.score.n_boxes) == (pytest.approx(1), 1)
    assert [figure.label for figure in found.classes] == ["LY"]
    assert (found.detection.n_true, found.detection.n_matched, found.n_calibration) == (3, 2, 1)
    assert [(mistake.kind, mistake.truth) for mistake in found.mistakes] == [(MISSED, None)]
    source = found.sources[0]
    assert (source.source, source.n_boxes, source.n_labelled, source.recall) == ("boxes only", 2, 0, 0.5)
    assert math.isnan(source.accuracy)
    assert math.isnan(source.macro_f1)
    assert source.mean_giou == pytest.approx((1 - 1 / 3) / 2)


def test_an_image_without_an_entry_has_no_findings() -> None:
    found = evaluate(
        [image("1", {A: "LY"}), image("2", {A: "LY"})], {"1": [finding(A, "LY")]}, working_threshold=0.5
    )
    assert found.score.n_without_prediction == 1
    assert found.score.giou_term == pytest.approx(0.5)
    assert found.score.macro_f1 == pytest.approx(2 / 3)
    assert found.accuracy == 0.5


def test_two_findings_on_one_cell_are_one_match_and_one_false_detection() -> None:
    found = evaluate(
        [image("1", {A: "LY"})], {"1": [finding(A, "MO", 0.7), finding(A, "LY", 0.9)]}, working_threshold=0.5
    )
    assert (found.detection.precision, found.detection.recall) == (0.5, 1.0)
    assert [mistake.predicted for mistake in found.mistakes] == ["MO"]
    assert found.score.score == pytest.approx(1)


def test_a_foreign_label_costs_a_whole_class_and_not_only_its_cell() -> None:
    codes = [known.code for known in CELL_CLASSES]
    images = [image(code, {A: code, B: code}) for code in codes]
    predictions = {code: [finding(A, code), finding(B, code)] for code in codes}
    assert evaluate(images, predictions, working_threshold=0.5).score.score == pytest.approx(1)
    predictions["LH_lyAct"][0] = finding(A, "LH_LyAc")
    found = evaluate(images, predictions, working_threshold=0.5)
    # one of the two cells is lost to its class (F1 2/3), and there is a class more
    assert found.score.macro_f1 == pytest.approx((22 + 2 / 3) / 24)
    assert found.score.giou_term == pytest.approx(1)


def test_no_predictions_at_all_score_nothing_and_are_no_error() -> None:
    found = evaluate([image("1", {A: "LY"}), image("2", {B: "MO"})], {"1": []}, working_threshold=0.5)
    assert (found.score.score, found.score.giou_term, found.accuracy) == (0.0, 0.0, 0.0)
    assert (found.score.n_without_prediction, found.n_calibration) == (2, 0)
    assert (found.reliability, found.coverage, found.recommendation) == ((), (), None)
    assert math.isnan(found.detection.precision)


def test_one_finding_serves_two_cells_in_the_score_and_one_in_detection() -> None:
    near = (2.0, 0.0, 12.0, 10.0)
    found = evaluate([image("1", {A: "LY", near: "LY"})], {"1": [finding(A, "LY")]}, working_threshold=0.5)
    assert (found.score.macro_f1, found.accuracy) == (1.0, 1.0)
    assert found.score.giou_term == pytest.approx((1 + (8 / 12 + 1) / 2) / 2)
    assert (found.detection.recall, len(found.mistakes)) == (0.5, 1)


def test_an_image_without_cells_counts_in_precision_alone() -> None:
    images = [image("1", {A: "LY"}), image("2", {})]
    found = evaluate(images, {"1": [finding(A, "LY")], "2": [finding(A, "LY")]}, working_threshold=0.5)
    assert (found.detection.precision, found.detection.recall) == (0.5, 1.0)
    assert found.intervals.measures["precision"] is not None


def test_findings_too_many_cost_the_score_nothing_and_precision_much() -> None:
    images = [image("1", {A: "LY"})]
    extra = [finding((20.0 * n, 50, 20.0 * n + 9, 59), "LY") for n in range(9)]
    found = evaluate(images, {"1": [finding(A, "LY"), *extra]}, working_threshold=0.5)
    assert found.score.score == pytest.approx(1)
    assert found.detection.precision == pytest.approx(0.1)


class StubPipeline:
    """Test double of edge.pipeline.Pipeline: tells an image by its grey level, answers what was prepared."""

    engine_id = "stub:f32"

    def __init__(self, findings_by_grey: dict[int, list[Finding]]) -> None:
        self.findings_by_grey = findings_by_grey
        self.scores: set[tuple[float, float]] = set()
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def read(self, rgb: np.ndarray, *, detection_threshold: float, least_score: float) -> list[Finding]:
        self.scores.add((detection_threshold, least_score))
        return self.findings_by_grey[int(rgb[0, 0, 0])]


class StubBundle:
    """Test double of edge.bundle.Bundle with the values that the command reads."""

    id = "stub-0123"
    manifest = SimpleNamespace(name="stub", temperature=1.0, thresholds=SimpleNamespace(detection=0.5))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "lab" / "images"
    folder.mkdir(parents=True)
    for name, grey in (("one.png", 100), ("two.png", 200)):
        Image.new("RGB", (60, 50), (grey, grey, grey)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (tmp_path / "bundle").mkdir()
    rows = [
        "NAME,x1,y1,x2,y2,class",
        "one.png,0,0,10,10,LY",
        "two.png,20,0,30,10,MO",
        "broken.png,0,0,9,9,LY",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> StubPipeline:
    stub = StubPipeline({100: [finding(A, "LY"), finding(C, "BA", 0.1)], 200: [finding(B, "LY")]})

    def open_stub(bundle: StubBundle, backend: str = "auto", precision: str = "auto") -> StubPipeline:
        assert (bundle.manifest.name, backend, precision) == ("stub", "onnxruntime", "auto")
        return stub

    monkeypatch.setattr(command, "open_pipeline", open_stub)
    monkeypatch.setattr(command, "Bundle", SimpleNamespace(load=lambda _path: StubBundle()))
    return stub


def arguments(files: Path, *more: str) -> list[str]:
    paths = ["--bundle", files / "bundle", "--csv", files / "boxes.csv", "--images", files / "lab" / "images"]
    return [*map(str, paths), "--out", str(files / "out"), "--backend", "onnxruntime", *more]


def test_the_command_reads_files_and_writes_the_report(files: Path, pipeline: StubPipeline) -> None:
    result = CliRunner().invoke(main, arguments(files, "--covered", "LY, MO"))
    assert result.exit_code == 0, result.output
    assert pipeline.closed
    assert pipeline.scores == {(0.5, 0.05)}
    assert "Detection recall" in result.output
    out = files / "out"
    written = sorted(path.name for path in out.iterdir())
    assert written == [
        *("cells.csv", "confusion.png", "coverage.png", "mistakes.png", "predictions.csv"),
        *("reliability.png", "report.json", "report.md"),
    ]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["about"]["rejected images"] == "broken.png (not an image)"
    assert report["covered"] == ["LY", "MO"]
    assert report["detection"]["recall"] == pytest.approx(2 / 3, abs=1e-6)
    assert report["sources"][0]["source"] == "lab"
    assert str(files) not in json.dumps(report)
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["NAME"], row["class"], row["detection_score"]) for row in rows] == [
        ("one.png", "LY", "0.9000"),
        ("one.png", "BA", "0.1000"),
        ("two.png", "LY", "0.9000"),
    ]


def test_an_unknown_class_in_covered_is_refused(files: Path, pipeline: StubPipeline) -> None:
    result = CliRunner().invoke(main, arguments(files, "--covered", "LY,XYZ"))
    assert result.exit_code == 2
    assert "'XYZ' is none of the 23 classes" in " ".join(result.output.split())


def test_missing_images_end_the_command_with_one_sentence(files: Path, pipeline: StubPipeline) -> None:
    (files / "lab" / "images" / "one.png").unlink()
    result = CliRunner().invoke(main, arguments(files))
    assert result.exit_code == 78
    assert result.output.startswith("Error: 1 of 3 annotated images are not in")


def test_two_images_of_one_name_are_refused(files: Path, pipeline: StubPipeline) -> None:
    given = ["--bundle", files / "bundle", "--out", files / "out", "--backend", "onnxruntime"]
    for lab in ("north", "south"):
        (files / lab / "images").mkdir(parents=True)
        (files / lab / "images" / "one.png").write_bytes((files / "lab/images/one.png").read_bytes())
        (files / lab / "boxes.csv").write_text("NAME,x1,y1,x2,y2,class\none.png,0,0,10,10,LY\n")
        given += ["--csv", files / lab / "boxes.csv"]
    result = CliRunner().invoke(main, [str(argument) for argument in given])
    assert result.exit_code == 78
    assert (
        f"{files}/north/images/one.png and {files}/south/images/one.png have the same NAME" in result.output
    )
    assert not pipeline.scores  # nothing was read


def test_a_bad_bundle_ends_the_command_with_its_own_sentence(
    files: Path, pipeline: StubPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> StubBundle:
        raise BundleError("bundle has no manifest.json; name the folder that holds one.")

    monkeypatch.setattr(command, "Bundle", SimpleNamespace(load=refuse))
    result = CliRunner().invoke(main, arguments(files))
    assert result.exit_code == 78
    assert result.output.strip() == "Error: bundle has no manifest.json; name the folder that holds one."
