"""A bundle's temperature and class threshold: fitted, written, and used by the pipeline."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge.bundle import MANIFEST, Bundle, embedded_bundle
from edge.cells import Finding
from edge.pipeline import open_pipeline, tempered
from tests.real_files import data_path
from training.annotations import AnnotatedImage, read_boxes, read_pixels
from training.calibrate import main
from training.calibration import Calibration, calibrate, known_cells, uncalibrated, with_calibration
from training.errors import AnnotationError
from training.evaluate import COVERAGE_THRESHOLDS
from training.metric import calibration_error
from training.reliability import (
    coverage_curve,
    cross_fitted,
    negative_log_likelihood,
    recommend,
    reliability_bins,
)

CLASSES = ("LY", "MO", "EO")


def smears(n: int = 400, temperature: float = 2.0) -> tuple[list[AnnotatedImage], dict[str, list[Finding]]]:
    """Cells found as they are, with probabilities that are too sharp by a temperature; the last is missed."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (n, len(CLASSES)))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (generator.random((n, 1)) > honest.cumsum(1)).sum(1)
    images, predictions = [], {}
    for number, row in enumerate(tempered(honest.astype(np.float32), 1 / temperature)):
        name, box = f"{number}.jpg", (0.0, 0.0, 30.0, 30.0)
        ranked = {CLASSES[place]: float(row[place]) for place in np.argsort(-row)}
        label = next(iter(ranked))
        images.append(
            AnnotatedImage(name, Path(), np.array([box], np.float32), (CLASSES[truth[number]],), "")
        )
        predictions[name] = [Finding(box, label, 0.9, ranked[label], ranked)]
    predictions[images[-1].name] = []
    return images, predictions


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate(known_cells(*smears(), CLASSES), COVERAGE_THRESHOLDS, 0.8)


def test_what_makes_probabilities_too_sharp_is_found_and_undone(found: Calibration) -> None:
    assert found.n_cells == 399  # a missed cell has no probabilities
    assert found.temperature == pytest.approx(2.0, rel=0.25)
    assert found.after.calibration_error < found.before.calibration_error
    assert found.after.negative_log_likelihood < found.before.negative_log_likelihood
    assert found.after.negative_log_likelihood <= found.after_on_others.negative_log_likelihood
    assert sum(one.n for one in found.bins_after) == 399


def test_cells_of_a_class_that_the_bundle_does_not_know_are_wrong_and_no_part_of_the_fit() -> None:
    without = calibrate(known_cells(*smears(), CLASSES), COVERAGE_THRESHOLDS, 0.8)
    with_them = calibrate(known_cells(*with_foreign_cells(40), CLASSES), COVERAGE_THRESHOLDS, 0.8)
    assert (with_them.n_cells, with_them.n_unknown) == (439, 40)
    assert with_them.temperature == pytest.approx(without.temperature)
    assert with_them.coverage[0].accuracy == pytest.approx(without.coverage[0].accuracy * 399 / 439)


def with_foreign_cells(n: int) -> tuple[list[AnnotatedImage], dict[str, list[Finding]]]:
    """More cells, found, of a class that the bundle does not know."""
    images, predictions = smears()
    boxes = np.array([[0, 0, 30, 30]], np.float32)
    foreign = [AnnotatedImage(f"f{place}", Path(), boxes, ("SS",), "") for place in range(n)]
    more = {one.name: predictions[f"{place}.jpg"] for place, one in enumerate(foreign)}
    return [*foreign, *images], predictions | more


def test_each_figure_is_of_the_probabilities_that_it_names() -> None:
    cells = known_cells(*with_foreign_cells(40), CLASSES)
    found = calibrate(cells, COVERAGE_THRESHOLDS, 0.8)
    raw, truth, known = cells.probabilities, cells.truth, cells.truth >= 0
    after = tempered(raw, found.temperature)
    of_others = after.copy()
    names = [name for name, one in zip(cells.images, known, strict=True) if one]
    of_others[known] = cross_fitted(raw[known], truth[known], names)
    for told, table in ((found.before, raw), (found.after, after), (found.after_on_others, of_others)):
        loss = negative_log_likelihood(table[known], truth[known])
        assert told.negative_log_likelihood == pytest.approx(loss)
        error = calibration_error(table.max(1), table.argmax(1) == truth)
        assert told.calibration_error == pytest.approx(error)
    outcomes = [(table.max(1), table.argmax(1) == truth) for table in (raw, after)]
    assert [found.bins_before, found.bins_after] == [reliability_bins(*one) for one in outcomes]
    assert found.coverage == coverage_curve(*outcomes[1], COVERAGE_THRESHOLDS)
    assert found.recommendation == recommend(*outcomes[1], 0.8)


def test_a_finding_where_no_cell_is_does_not_count_and_cells_have_the_name_of_their_image() -> None:
    images, predictions = smears(100)
    (first,) = predictions["0.jpg"]
    second = replace(first, box_xyxy=(50.0, 0.0, 80.0, 30.0))
    predictions["0.jpg"] = [first, second, replace(first, box_xyxy=(200.0, 0.0, 230.0, 30.0))]
    both = np.array([first.box_xyxy, second.box_xyxy], np.float32)
    images[0] = replace(images[0], boxes_xyxy=both, labels=images[0].labels * 2)
    cells = known_cells(images, predictions, CLASSES)
    assert cells.images == ("0.jpg", *(f"{number}.jpg" for number in range(99)))
    assert cells.truth[0] == cells.truth[1] == CLASSES.index(str(images[0].labels[0]))


def test_cells_of_classes_that_the_bundle_does_not_know_do_not_make_up_the_number() -> None:
    images, predictions = with_foreign_cells(40)
    with pytest.raises(AnnotationError, match="30 cells of classes that the bundle knows were found"):
        known_cells(images[:70], predictions, CLASSES)
    right = [
        one if one.labels == ("SS",) else replace(one, labels=(predictions[one.name][0].label,))
        for one in images
        if predictions[one.name]
    ]
    with pytest.raises(AnnotationError, match="Of 399 cells 399 were named rightly"):
        known_cells(right, predictions, CLASSES)


def test_too_few_cells_or_none_wrong_are_refused() -> None:
    images, predictions = smears()
    with pytest.raises(
        AnnotationError, match="30 cells of classes that the bundle knows were found, too few"
    ):
        known_cells(images[:30], predictions, CLASSES)
    right = [
        replace(one, labels=(predictions[one.name][0].label,)) for one in images if predictions[one.name]
    ]
    with pytest.raises(AnnotationError, match="Of 399 cells 399 were named rightly"):
        known_cells(right, predictions, CLASSES)


def test_the_manifest_says_what_was_found_and_drops_what_is_no_longer_true(found: Calibration) -> None:
    former = Bundle.load(embedded_bundle()).manifest
    former = former.model_copy(update={"accuracy": {"val": {"accuracy": 0.9, "calibration_error": 0.2}}})
    manifest = with_calibration(former, found, "made by hand")
    assert manifest.temperature == pytest.approx(found.temperature, abs=1e-6)
    assert found.recommendation is not None
    assert manifest.thresholds.classification == found.recommendation.threshold
    assert manifest.thresholds.detection == former.thresholds.detection
    assert manifest.accuracy == {"val": {"accuracy": 0.9}}
    assert manifest.provenance["calibration"]["images"] == "made by hand"
    unreachable = with_calibration(manifest, replace(found, recommendation=None), "made by hand")
    assert unreachable.thresholds.classification is None
    assert "no threshold reaches" in unreachable.provenance["calibration"]["class threshold"]


def test_a_bundle_on_real_images_is_calibrated_and_again_to_the_same(tmp_path: Path) -> None:
    rows = read_boxes([data_path("smears/val.csv")])[::6]
    images = data_path("smears/images")
    with (tmp_path / "val.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows.columns)
        writer.writerows(rows.rows())
        writer.writerow(["damaged.jpg", 0, 0, 9, 9, "LY"])
    (tmp_path / "more").mkdir()
    (tmp_path / "more/damaged.jpg").write_bytes(b"no image")
    bundle_dir = Path(shutil.copytree(embedded_bundle(), tmp_path / "bundle"))
    former = Bundle.load(bundle_dir)
    assert former.id
    given = ["--bundle", bundle_dir, "--csv", tmp_path / "val.csv", "--images", images]
    given += ["--images", tmp_path / "more"]
    given += ["--out", tmp_path / "out", "--backend", "openvino", "--precision", "f32"]
    texts, ids, temperatures = [], [], []
    for _ in range(2):
        result = CliRunner().invoke(main, [str(one) for one in given])
        assert result.exit_code == 0, result.output
        changed = Bundle.load(bundle_dir)
        texts.append(result.output)
        ids.append(changed.id)
        temperatures.append(changed.manifest.temperature)
    assert f"{former.id} is now {ids[0]}" in texts[0]
    assert ids[0] != former.id
    n_images = rows["NAME"].n_unique()
    assert f"1 of {n_images + 1} images cannot be read and were left out (first damaged.jpg: " in texts[0]
    assert changed.manifest.provenance["calibration"]["images"].startswith(f"{n_images} images of val.csv")
    assert temperatures[0] == temperatures[1] != 1.0
    assert not list(bundle_dir.glob("*.part"))
    card = (bundle_dir / "MODEL_CARD.md").read_text()
    assert f"calibrated with the temperature {temperatures[0]:.4g}" in card
    figures = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert figures["after"]["negative_log_likelihood"] <= figures["before"]["negative_log_likelihood"]
    for picture in ("reliability.png", "coverage.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 5000
    # the pipeline uses it, and its engine passes the self-test, which knows of no temperature
    with (
        open_pipeline(changed, "openvino", "f32") as pipeline,
        open_pipeline(uncalibrated(changed), "openvino", "f32") as raw,
    ):
        image = AnnotatedImage("", images / rows["NAME"][0], np.empty((0, 4), np.float32), (), "")
        rgb = read_pixels(image)
        ours, theirs = pipeline.read(rgb)[0], raw.read(rgb)[0]
        expected = tempered(np.array([[*theirs.probabilities.values()]], np.float32), temperatures[0])[0]
        assert [*ours.probabilities] == [*theirs.probabilities]
        assert [*ours.probabilities.values()] == pytest.approx(expected.tolist(), abs=1e-5)
        assert ours.class_score != theirs.class_score


def test_a_refused_calibration_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    bundle_dir = Path(shutil.copytree(embedded_bundle(), tmp_path / "bundle"))
    before = (bundle_dir / MANIFEST).read_bytes()
    (tmp_path / "val.csv").write_text("NAME,x1,y1,x2,y2,class\ngone.jpg,0,0,9,9,LY\n")
    result = CliRunner().invoke(main, ["--bundle", str(bundle_dir), "--csv", str(tmp_path / "val.csv")])
    assert result.exit_code == 78
    assert "annotated images are not in" in result.output
    assert (bundle_dir / MANIFEST).read_bytes() == before
