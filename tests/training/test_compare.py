"""Two reports side by side, and one sentence of what they say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.training.test_tally import cell, false_detection
from training.bootstrap import Difference, Interval
from training.compare import main
from training.comparison import System, compare, rows, score_difference, verdict
from training.errors import AnnotationError
from training.metric import macro_f1
from training.pairing import CELL_COLUMNS, CELLS_CSV, Cell, read_cells, write_cells
from training.tally import Tally


def cells(share_right: float, n: int = 200, without_class: int = 0) -> list[Cell]:
    generator = np.random.default_rng(7)
    truth = [str(one) for one in np.random.default_rng(1).choice(["LY", "MO", "EO"], n)]
    said = [one if generator.random() < share_right else "BA" for one in truth]
    boxes_only = [cell(f"box-{number}", None, "LY", "boxes") for number in range(without_class)]
    return [
        cell(f"{number}", one, other, f"lab{number % 2}")
        for number, (one, other) in enumerate(zip(truth, said, strict=True))
    ] + boxes_only


def report(folder: Path, found: list[Cell], n_false: int = 0) -> Path:
    folder.mkdir()
    write_cells(found, [false_detection(found[place].image) for place in range(n_false)], folder / CELLS_CSV)
    return folder


def test_the_better_system_is_named_with_its_lead(tmp_path: Path) -> None:
    a, b = report(tmp_path / "a", cells(0.7)), report(tmp_path / "b", cells(0.9))
    found = compare(System.read(a), System.read(b), 300)
    assert verdict(found.measures["score"], "A", "B").startswith("B is better by 0.")
    assert verdict(found.measures["score"], "A", "B").endswith(", p = 0.0033).")
    assert (found.only_a, found.n_cells) == (0, 200)  # with one seed B is right wherever A is
    assert found.p_agreement < 1e-6
    assert found.sources["lab0"]["accuracy"].difference > 0.1
    turned = score_difference(System.read(b), System.read(a), 300)
    assert verdict(turned, "B", "A").startswith("B is better by 0.")
    assert turned.difference == pytest.approx(-found.measures["score"].difference)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Difference(0.8, 0.812, Interval(0.003, 0.021), 0.004),
            "B is better by 0.012 (95 % CI 0.003 to 0.021, p = 0.004).",
        ),
        (
            Difference(0.812, 0.8, Interval(-0.021, -0.003), 0.0005),
            "A is better by 0.012 (95 % CI 0.003 to 0.021, p < 0.001).",
        ),
        (
            Difference(0.8, 0.805, Interval(-0.002, 0.014), 0.2),
            "A and B are not told apart: B - A is +0.005 (95 % CI -0.002 to +0.014, p = 0.2).",
        ),
        # the interval alone does not suffice
        (
            Difference(0.8, 0.805, Interval(0.001, 0.014), 0.06),
            "A and B are not told apart: B - A is +0.005 (95 % CI +0.001 to +0.014, p = 0.06).",
        ),
        # nor does p
        (
            Difference(0.8, 0.805, Interval(-0.001, 0.014), 0.04),
            "A and B are not told apart: B - A is +0.005 (95 % CI -0.001 to +0.014, p = 0.04).",
        ),
        (
            Difference(0.8, 0.8, None, 1.0),
            "A and B are alike: no sample of the images tells one from the other.",
        ),
        # every source has one image, so every sample is the same
        (
            Difference(0.99, 0.39, None, 1.0),
            "B - A is -0.600, of too few images to tell A and B apart.",
        ),
        (
            Difference(float("nan"), 0.8, None, float("nan")),
            "A and B cannot be compared: one of them has no score.",
        ),
    ],
)
def test_the_verdict_is_one_sentence(found: Difference, said: str) -> None:
    assert verdict(found, "A", "B") == said


def apart() -> tuple[list[Cell], list[Cell]]:
    """Images of two sources by turns. A names most of lab0 wrongly and misses what the score still pairs
    rightly; B is wrong once in each, by another class.
    """
    right = [cell(f"{n:02d}", "LY" if n % 4 < 2 else "MO", "", f"lab{n % 2}") for n in range(60)]
    right = [replace(one, nearest=one.truth, found=one.truth) for one in right]
    a = [
        replace(one, nearest="EO", found="EO", giou=0.5) if place % 2 == 0 and place % 3 else one
        for place, one in enumerate(right)
    ]
    a[:6] = [replace(one, found=None, class_score=None, detection_score=None) for one in a[:6]]
    return a, [replace(right[0], nearest="BA"), replace(right[1], nearest="BA"), *right[2:]]


def test_every_figure_is_of_its_own_class_and_source(tmp_path: Path) -> None:
    both = apart()
    folders = [report(tmp_path / name, one) for name, one in zip("ab", both, strict=True)]
    found = compare(*map(System.read, folders), 400)
    for side, own in zip(("a", "b"), both, strict=True):
        tally, every = Tally.of(own, []), np.ones((1, len(own)))
        assert {name: getattr(one, side) for name, one in found.measures.items()} == pytest.approx(
            {name: one[0] for name, one in tally.measures(every).items()}
        )
        f1 = dict(zip(tally.labels, (one[0] for one in tally.class_f1(every)), strict=True))
        assert {label: getattr(one, side) for label, one in found.classes.items()} == pytest.approx(
            {label: f1.get(label, np.nan) for label in ("BA", "EO", "LY", "MO")}, nan_ok=True
        )
        for source, one in found.sources.items():
            part = [it for it in own if it.source == source]
            truth, nearest = [str(it.truth) for it in part], [it.nearest for it in part]
            assert {name: getattr(figure, side) for name, figure in one.items()} == pytest.approx(
                {
                    "accuracy": np.mean([it.truth == it.nearest for it in part]),
                    "macro_f1": macro_f1(truth, nearest, sorted(set(truth))),
                    "recall": np.mean([it.found is not None for it in part]),
                }
            )
    assert (found.only_a, found.only_b, found.n_cells) == (2, 20, 60)
    assert found.sources["lab0"]["accuracy"].p == pytest.approx(1 / 401)
    assert found.sources["lab1"]["accuracy"].p == 1  # one image, which either of them may be right in
    table = dict(rows(found))
    for name in ("accuracy", "macro f1", "recall"):
        of_source = {source: one[name.replace(" ", "_")] for source, one in found.sources.items()}
        assert table[f"{name} by source"] == of_source


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    a, b = report(tmp_path / "a", cells(0.8)), report(tmp_path / "b", cells(0.8)[::-1])
    assert score_difference(System.read(a), System.read(b), 100).difference == 0


def test_systems_on_other_annotations_are_not_compared(tmp_path: Path) -> None:
    a, b = report(tmp_path / "a", cells(0.8)), report(tmp_path / "b", cells(0.8, n=199))
    with pytest.raises(AnnotationError, match=r"\(200 cells in 200 images and 199 cells in 199 images\)"):
        compare(System.read(a), System.read(b))


@pytest.mark.parametrize("change", [{"truth": "BA"}, {"box_xyxy": (0, 0, 9, 8)}, {"image": "another"}])
def test_one_annotation_that_is_another_is_enough(tmp_path: Path, change: dict[str, object]) -> None:
    one = cells(0.8)
    a = report(tmp_path / "a", one)
    b = report(tmp_path / "b", [replace(one[0], **change), *one[1:]])
    with pytest.raises(AnnotationError, match="were not evaluated on the same annotations"):
        compare(System.read(a), System.read(b))


def test_the_command_prints_tables_and_ends_with_the_sentence(tmp_path: Path) -> None:
    a, b = (
        report(tmp_path / "a", cells(0.7, without_class=5)),
        report(tmp_path / "b", cells(0.9, without_class=5), n_false=3),
    )
    result = CliRunner().invoke(
        main, [str(a), str(b), "--resamples", "200", "--json", str(tmp_path / "out" / "c.json")]
    )
    assert result.exit_code == 0, result.output
    assert "F1 by class" in result.output
    said = " ".join(result.output.split())
    assert "of 200 cells with a class only A names 0 rightly" in said.lower().replace("a names", "A names")
    assert "Score: B (b) is better by 0." in said
    written = json.loads((tmp_path / "out" / "c.json").read_text())
    assert written["verdict"].startswith("B (b) is better")
    assert written["measures"]["precision"]["b"] < 1
    assert written["sources"]["boxes"]["accuracy"]["a"] is None


def test_cells_that_were_cut_off_end_with_one_sentence(tmp_path: Path) -> None:
    whole = f"{','.join(CELL_COLUMNS)}\na.jpg,lab,1,2,3,4,LY,LY,0.9,LY,0.8,0.7\n"
    (tmp_path / "cells.csv").write_text(whole)
    assert len(read_cells(tmp_path / "cells.csv")[0]) == 1
    for row in ("b.jpg,lab,1,2,3", "b.jpg,lab,1,2,3,4,LY,LY", "b.jp"):
        (tmp_path / "cells.csv").write_text(whole + row)
        with pytest.raises(
            AnnotationError, match=r"cells\.csv is no list of cells .* run python -m training\.eval"
        ):
            read_cells(tmp_path / "cells.csv")


def test_a_folder_without_a_report_ends_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    result = CliRunner().invoke(main, [str(tmp_path / "a"), str(tmp_path / "a")])
    assert result.exit_code == 78
    assert "run python -m training.evaluate with this version again." in " ".join(result.output.split())
