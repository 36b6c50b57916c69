"""Figures of samples: with every image once they are those of the metric itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.cells import Finding
from training.annotations import AnnotatedImage
from training.errors import AnnotationError
from training.evaluate import evaluate
from training.pairing import Cell, Detection, pair, read_cells, write_cells
from training.tally import MEASURES, Tally

LABELS = ("LY", "MO", "EO", "BA")


def smears(n_images: int = 30) -> tuple[list[AnnotatedImage], dict[str, list[Finding]]]:
    """Images of up to three cells, of which some are missed, misplaced, misnamed or without a class."""
    generator = np.random.default_rng(1)
    images, predictions = [], {}
    for number in range(n_images):
        count = int(generator.integers(1, 4))
        boxes = np.array([(40 * place, 0, 40 * place + 30, 30) for place in range(count)], np.float32)
        labels = tuple(
            None if generator.random() < 0.1 else str(generator.choice(LABELS)) for _ in range(count)
        )
        images.append(AnnotatedImage(f"{number}.jpg", Path(), boxes, labels, f"lab{number % 3}"))
        predictions[f"{number}.jpg"] = [
            Finding(
                tuple(map(float, box + generator.normal(0, 5, 4))),
                label if label and generator.random() < 0.7 else str(generator.choice(LABELS)),
                float(generator.uniform(0.3, 1)),
                float(generator.uniform(0.3, 1)),
                {},
            )
            for box, label in zip(boxes, labels, strict=True)
            if generator.random() < 0.9
        ]
    return images, predictions


def test_of_every_image_once_the_figures_are_those_of_the_metric() -> None:
    images, predictions = smears()
    found = evaluate(images, predictions, working_threshold=0.4, covered=("LY", "MO"))
    tally = Tally.of(found.cells, found.false_detections)
    every = np.ones((1, len(images)))
    measures = {name: one[0] for name, one in tally.measures(every).items()}
    expected = (
        *(found.score.score, found.score.macro_f1, found.score.giou_term, found.accuracy),
        *(found.detection.recall, found.detection.precision),
    )
    assert [measures[name] for name in MEASURES] == pytest.approx(expected, abs=1e-6)
    assert tally.macro_f1_over(every, ("LY", "MO"))[0] == pytest.approx(found.macro_f1_covered)
    f1 = {label: one[0] for label, one in zip(tally.labels, tally.class_f1(every), strict=True)}
    assert f1 == pytest.approx({one.label: one.f1 for one in found.classes})
    for source in found.sources:
        part = tally.only(np.array([one == source.source for one in tally.sources]))
        every_own = np.ones((1, source.n_images))
        assert part.measures(every_own)["accuracy"][0] == pytest.approx(source.accuracy)
        assert part.macro_f1_over(every_own, part.labels)[0] == pytest.approx(source.macro_f1)


def test_images_of_which_no_cell_has_a_class_are_judged_by_their_detections() -> None:
    images, predictions = smears()
    unnamed = [replace(one, labels=(None,) * len(one.labels)) for one in images]
    found = evaluate(unnamed, predictions, working_threshold=0.4, covered=("LY",))
    measures = found.intervals.measures
    assert measures["accuracy"] is None
    recall = measures["recall"]
    assert recall is not None
    assert recall.low < found.detection.recall < recall.high


def test_an_image_drawn_twice_counts_twice_and_one_not_drawn_not_at_all() -> None:
    images, predictions = smears()
    cells, detections = pair(images, predictions, 0.4)
    false = [one for one in detections if one.detection_score >= 0.4 and not one.matched]
    weights = np.random.default_rng(0).integers(0, 3, (1, len(images))).astype(float)
    drawn = [
        (f"{copy}-{image.name}", image)
        for image, n in zip(images, weights[0], strict=True)
        for copy in range(int(n))
    ]
    copies = [AnnotatedImage(name, Path(), one.boxes_xyxy, one.labels, one.source) for name, one in drawn]
    again = evaluate(copies, {name: predictions[one.name] for name, one in drawn}, working_threshold=0.4)
    measures = Tally.of(cells, false).measures(weights)
    assert measures["score"][0] == pytest.approx(again.score.score, abs=1e-6)
    assert measures["precision"][0] == pytest.approx(again.detection.precision)


def test_proportions_are_counted_of_what_the_figures_are_shares_of() -> None:
    images, predictions = smears()
    cells, detections = pair(images, predictions, 0.4)
    false = [one for one in detections if one.detection_score >= 0.4 and not one.matched]
    labelled = [one for one in cells if one.truth is not None]
    n_found = sum(one.found is not None for one in cells)
    tally = Tally.of(cells, false)
    assert tally.counts() == {
        "accuracy": (sum(one.nearest == one.truth for one in labelled), len(labelled)),
        "recall": (n_found, len(cells)),
        "precision": (n_found, n_found + len(false)),
    }
    assert len({n for _, n in tally.counts().values()}) == 3
    measures = tally.measures(np.ones((1, len(images))))
    assert {name: right / n for name, (right, n) in tally.counts().items()} == pytest.approx(
        {name: measures[name][0] for name in tally.counts()}
    )


def test_macro_f1_over_some_classes_is_over_those_of_which_a_sample_has_a_cell() -> None:
    tally = Tally.of([cell("1", "LY", "LY"), cell("2", "MO", "EO"), cell("3", "BA", "MO")], [])
    weights = np.array([[1.0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 1]])
    # LY 1; LY 1 and MO 0; LY 1, MO said and none there; none of these
    found = tally.macro_f1_over(weights, ("LY", "MO", "EO"))
    assert found.tolist() == pytest.approx([1, 0.5, 1, np.nan], nan_ok=True)


def test_a_foreign_label_is_a_class_with_f1_zero() -> None:
    cells = [cell("1", "LY", "LY"), cell("2", "MO", "another")]
    measures = Tally.of(cells, []).measures(np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert measures["macro_f1"].tolist() == pytest.approx([1 / 3, 1.0])  # LY 1, MO 0, another 0; LY alone


def test_an_image_without_predictions_has_giou_minus_one_and_no_class() -> None:
    images = [AnnotatedImage("1", Path(), np.array([[0, 0, 9, 9]], np.float32), ("LY",), "lab")]
    cells, detections = pair(images, {}, 0.4)
    assert (cells[0].giou, cells[0].nearest, cells[0].found, detections) == (-1.0, None, None, [])
    measures = Tally.of(cells, []).measures(np.ones((1, 1)))
    assert (measures["score"][0], measures["giou_term"][0], measures["recall"][0]) == (0.0, 0.0, 0.0)
    assert np.isnan(measures["precision"][0])


def test_cells_survive_their_file(tmp_path: Path) -> None:
    images, predictions = smears()
    cells, detections = pair(images, predictions, 0.4)
    false = [one for one in detections if one.detection_score >= 0.4 and not one.matched]
    assert false
    write_cells(cells, false, tmp_path / "cells.csv")
    found = read_cells(tmp_path / "cells.csv")
    assert [(one.image, one.truth, one.nearest, one.found) for one in found[0]] == [
        (one.image, one.truth, one.nearest, one.found) for one in cells
    ]
    assert [one.giou for one in found[0]] == pytest.approx([one.giou for one in cells], abs=1e-6)
    assert [(one.image, one.label, one.matched) for one in found[1]] == [
        (one.image, one.label, False) for one in false
    ]
    for read, written in ((found[0], cells), (found[1], false)):
        np.testing.assert_allclose(numbers_of(read), numbers_of(written), rtol=1e-5)


def test_another_file_is_no_list_of_cells(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("NAME,class\n1,LY\n")
    with pytest.raises(AnnotationError, match=r"is no list of cells \(its columns are NAME,class\)"):
        read_cells(tmp_path / "cells.csv")
    with pytest.raises(AnnotationError, match="No such file"):
        read_cells(tmp_path / "none.csv")


def cell(image: str, truth: str | None, said: str | None, source: str = "lab") -> Cell:
    """A cell whose box was found as it is, if anything was said of it."""
    scores = (None, None) if said is None else (0.9, 0.9)
    return Cell(image, source, (0, 0, 9, 9), truth, said, -1.0 if said is None else 1.0, said, *scores)


def false_detection(image: str) -> Detection:
    """A finding where no cell is."""
    return Detection(image, "lab", (50, 50, 59, 59), "LY", 0.9, 0.9, matched=False)


def numbers_of(found: Sequence[Cell] | Sequence[Detection]) -> np.ndarray:
    """Boxes and scores, nan for none."""
    rows = [(*one.box_xyxy, one.class_score, one.detection_score) for one in found]
    return np.array(rows, dtype=np.float64)
