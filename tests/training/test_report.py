"""The report's forms of one evaluation made by hand."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from training.bootstrap import Interval, Intervals
from training.metric import ChallengeScore, ClassFigures, DetectionFigures, SourceFigures, confusion
from training.mistakes import FALSE_DETECTION, MISSED, WRONG_CLASS, Mistake, draw_mistakes
from training.reliability import CoveragePoint, Recommendation, ReliabilityBin
from training.report import Evaluation, print_tables, to_json, to_markdown, write
from training.report_charts import draw_confusion, draw_coverage, draw_reliability

NAN = float("nan")
ABOUT = {"bundle": "small", "backend": "auto"}


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        n_images=3,
        n_boxes=5,
        annotations_sha256="0" * 64,
        working_threshold=0.4,
        score=ChallengeScore(0.75, 0.7, 0.95, n_boxes=4, n_without_prediction=1),
        accuracy=0.625,
        covered=("LY", "MO", "BA"),
        covered_without_cells=("BA",),
        macro_f1_covered=0.8125,
        detection=DetectionFigures(0.4, 0.875, 0.9375, 5, 4, 3),
        curve=(DetectionFigures(0.05, 0.5, 1.0, 5, 10, 5), DetectionFigures(0.95, NAN, 0.0, 5, 0, 0)),
        calibration_error=0.0321,
        n_calibration=3,
        reliability=(ReliabilityBin(0.8, 0.8667, 3, 0.85, 2 / 3),),
        coverage=(CoveragePoint(0.0, 3, 1.0, 2 / 3), CoveragePoint(0.84, 2, 2 / 3, 1.0)),
        target_accuracy=0.95,
        recommendation=Recommendation(0.95, 0.84, 2, 2 / 3, 1.0, Interval(0.34, 1.0)),
        intervals=Intervals(
            0.95,
            2000,
            {"score": Interval(0.7, 0.81), "recall": None},
            {"MO": Interval(0.1, 0.9), "LY": None},
            {"lab": {"recall": Interval(0.4, 0.8)}},
        ),
        classes=(ClassFigures("MO", 0.5, 1.0, 0.6667, 2), ClassFigures("LY", 1.0, 0.5, 0.6666, 2)),
        sources=(SourceFigures("lab", 3, 5, 0, 0.8, 0.6, 0.9, NAN, NAN),),
        confusion=confusion([("MO", "MO"), ("LY", "MO"), ("LY", None), (None, "MO")], ["MO", "LY"]),
        mistakes=(
            Mistake(WRONG_CLASS, "a.jpg", "lab", (10.0, 10.0, 50.0, 60.0), "LY", "MO", 0.9),
            Mistake(FALSE_DETECTION, "a.jpg", "lab", (90.0, 70.0, 120.0, 100.0), None, "MO", 0.8),
            Mistake(MISSED, "b.jpg", "lab", (0.0, 0.0, 30.0, 30.0), None, None, None),
        ),
        cells=(),
        false_detections=(),
    )


def grey_image(_name: str) -> np.ndarray:
    return np.full((100, 120, 3), 200, np.uint8)


def test_json_keeps_every_figure_and_has_null_for_what_is_undefined(evaluation: Evaluation) -> None:
    found = json.loads(json.dumps(to_json(evaluation, ABOUT), allow_nan=False))
    assert found["about"] == ABOUT
    assert found["score"] == {
        "score": 0.75,
        "macro_f1": 0.7,
        "giou_term": 0.95,
        "n_boxes": 4,
        "n_without_prediction": 1,
    }
    assert found["sources"][0]["accuracy"] is None
    assert found["curve"][1]["precision"] is None
    assert found["confusion"] == {"labels": ["MO", "LY"], "counts": [[1, 0, 0], [1, 0, 1], [1, 0, 0]]}
    assert found["mistakes"][0]["truth"] == "LY"


def test_markdown_tells_figures_their_base_and_how_they_are_measured(evaluation: Evaluation) -> None:
    text = to_markdown(evaluation, ABOUT)
    for line in (
        "# Evaluation of small",
        "| Score (0.8 F1 + 0.2 GIoU term) | 0.7500 | 0.700 to 0.810 | 4 cells with a class |",
        "| Macro F1 over covered classes | 0.8125 | - | 2 classes; not measured, no cells: BA |",
        "| Detection precision | 0.8750 | - | 3 of 4 findings, threshold 0.4 |",
        "| Class threshold for accuracy 0.95 | 0.8400 |  | keeps 2 of 3 found cells, 100.0% of them right |",
        "| MO | 0.5000 | 1.0000 | 0.6667 | 0.100 to 0.900 | 2 |",
        "| lab | 3 | 5 | 0 | 0.8000 | 0.6000 | 0.9000 | - | - |",
        "| lab | - | 0.400 to 0.800 | - | - |",
        "| 0.95 | - | 0.0000 | 0 |",
        "| LY → MO | 1 |",
    ):
        assert line in text.splitlines()
    assert "(confusion.png)" in text
    assert "not one to one" in text


def test_every_markdown_table_is_rectangular(evaluation: Evaluation) -> None:
    for block in to_markdown(evaluation, ABOUT).split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_a_name_ends_no_cell_and_no_line_of_a_table(evaluation: Evaluation) -> None:
    source = replace(evaluation.sources[0], source="a|b\n<script>")
    text = to_markdown(replace(evaluation, sources=(source,)), {**ABOUT, "engine": "one\n\n# two"})
    assert "| a\\|b &lt;script> | 3 | 5 | 0 | 0.8000 |" in text
    assert "- engine: one # two" in text.splitlines()


def test_the_terminal_shows_classes_and_sources(evaluation: Evaluation) -> None:
    shown = io.StringIO()
    print_tables(evaluation, ABOUT, Console(file=shown, width=140))
    for word in ("bundle: small", "0.7500", "LY", "lab", "Calibration error"):
        assert word in shown.getvalue()


def test_a_source_in_brackets_is_shown_as_it_is(evaluation: Evaluation) -> None:
    """To the terminal's tables they are markup, and [/b] alone was an error."""
    shown = io.StringIO()
    sources = tuple(replace(one, source="[b]lab[/i]") for one in evaluation.sources)
    print_tables(replace(evaluation, sources=sources), ABOUT, Console(file=shown, width=140))
    assert "[b]lab[/i]" in shown.getvalue()


def test_pictures_and_texts_are_written(evaluation: Evaluation, tmp_path: Path) -> None:
    write(evaluation, ABOUT, tmp_path, grey_image)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion.png",
        "coverage.png",
        "mistakes.png",
        "reliability.png",
        "report.json",
        "report.md",
    ]
    for name in ("confusion.png", "mistakes.png", "reliability.png", "coverage.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200


def test_only_the_first_mistakes_of_each_kind_are_drawn(tmp_path: Path) -> None:
    read = []

    def reading(name: str) -> np.ndarray:
        read.append(name)
        return grey_image(name)

    mistakes = [
        Mistake(kind, f"{kind} {place}", "lab", (5.0, 5.0, 30.0, 30.0), "LY", "MO", 0.5)
        for kind in (WRONG_CLASS, FALSE_DETECTION)
        for place in range(4)
    ]
    draw_mistakes(mistakes, reading, tmp_path / "mistakes.png", per_kind=2)
    expected = [f"{kind} {place}" for kind in (WRONG_CLASS, FALSE_DETECTION) for place in range(2)]
    assert read == expected


def test_a_name_that_looks_like_mathematics_is_a_name(tmp_path: Path) -> None:
    mistake = Mistake(WRONG_CLASS, "smear$_$1.jpg", "lab", (5.0, 5.0, 30.0, 30.0), "LY", "MO", 0.5)
    draw_mistakes([mistake], grey_image, tmp_path / "mistakes.png")
    assert (tmp_path / "mistakes.png").stat().st_size


def test_nothing_wrong_and_nothing_labelled_can_be_drawn_too(tmp_path: Path) -> None:
    draw_mistakes([], grey_image, tmp_path / "mistakes.png")
    draw_confusion(confusion([], []), tmp_path / "confusion.png")
    draw_reliability({}, tmp_path / "reliability.png")
    draw_coverage([], 0.95, None, tmp_path / "coverage.png")
    assert (tmp_path / "mistakes.png").stat().st_size > 0
    assert (tmp_path / "confusion.png").stat().st_size > 0
