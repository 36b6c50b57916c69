"""A submission has a valid row for every one that is expected, whatever the images show."""

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edge.bundle import embedded_bundle
from edge.cells import CELL_CLASSES, Finding
from edge.demo.renderer import draw_field, draw_tile
from edge.geometry import iou_matrix
from tests.real_files import data_path
from training.annotations import read_boxes
from training.errors import AnnotationError
from training.metric import best_by_giou, challenge_score
from training.submission import (
    Expected,
    Reading,
    csv_text,
    expected_from,
    fill,
    read_test,
    whole_pixels,
)
from training.submit import main

WH = (360, 363)


def finding(x: float, label: str, score: float) -> Finding:
    return Finding((x, 10.0, x + 50, 60.4), label, score, 0.9, {label: 0.9})


def expect(*names: str) -> list[Expected]:
    return [Expected(str(700 + place), name) for place, name in enumerate(names)]


def test_the_surest_findings_fill_the_rows_and_the_rest_is_left_out() -> None:
    reading = Reading(WH, (finding(0, "LY", 0.9), finding(100, "MO", 0.8), finding(200, "EO", 0.7)))
    found = fill(expect("a", "a"), {"a": reading}, 0.4)
    assert [(one.trustii_id, one.label, one.box_xyxy) for one in found.rows] == [
        ("700", "LY", (0, 10, 50, 60)),
        ("701", "MO", (100, 10, 150, 60)),
    ]
    assert (found.n_weak, found.n_repeated, found.guessed) == (0, 0, {})


def test_where_findings_are_too_few_weak_ones_come_next_and_then_the_surest_again() -> None:
    reading = Reading(WH, (finding(0, "LY", 0.9), finding(50, "EO", 0.4), finding(100, "MO", 0.1)))
    found = fill(expect("a", "a", "a", "a"), {"a": reading}, 0.4)
    assert [one.label for one in found.rows] == ["LY", "EO", "MO", "LY"]
    assert (found.n_weak, found.n_repeated) == (1, 1)


def test_rows_keep_the_order_of_the_file_where_images_are_mixed() -> None:
    readings = {
        "a": Reading(WH, (finding(0, "LY", 0.9), finding(1, "MO", 0.8))),
        "b": Reading(WH, (finding(0, "EO", 0.9),)),
    }
    found = fill(expect("a", "b", "a"), readings, 0.4)
    assert [(one.trustii_id, one.label) for one in found.rows] == [
        ("700", "LY"),
        ("701", "EO"),
        ("702", "MO"),
    ]


def test_an_image_that_shows_nothing_gets_its_whole_area_and_the_commonest_class() -> None:
    readings = {
        "a": Reading((352, 357), (finding(0, "LY", 0.9), finding(9, "MO", 0.9), finding(20, "LY", 0.4))),
        "d": Reading((352, 357), tuple(finding(x, "EO", 0.1) for x in (0, 9, 20))),  # too weak to be counted
        "b": Reading((500, 400), ()),
        "c": Reading(None, (), "truncated"),
    }
    found = fill(expect("a", "b", "c", "c"), readings, 0.4)
    assert [(one.box_xyxy, one.label) for one in found.rows[1:]] == [
        ((0, 0, 500, 400), "LY"),
        ((0, 0, 352, 357), "LY"),
        ((0, 0, 352, 357), "LY"),
    ]
    assert found.guessed == {"b": "nothing found", "c": "truncated"}


def test_where_no_image_shows_anything_the_class_is_the_commonest_of_the_challenge() -> None:
    (row,) = fill(expect("a"), {"a": Reading(None, (), "damaged")}, 0.4).rows
    assert (row.label, row.box_xyxy) == ("PNN", (0, 0, 360, 363))


def test_the_class_is_spelled_as_in_the_file_of_the_challenge() -> None:
    (row,) = fill(expect("a"), {"a": Reading(WH, (finding(0, "LH_LyAc", 0.9),))}, 0.4).rows
    assert row.label == "LH_lyAct"


def test_the_file_is_that_of_the_challenge_to_the_letter() -> None:
    reading = Reading(WH, (Finding((116.2, 115.8, 248.4, 242.0), "LLC", 0.9, 0.9, {}),))
    rows = fill([Expected("43232", "681daf42-3.jpg")], {"681daf42-3.jpg": reading}, 0.4).rows
    assert csv_text(rows) == ("trustii_id,NAME,x1,y1,x2,y2,class\n43232,681daf42-3.jpg,116,116,248,242,LLC\n")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.4, 1.6, 9.5, 9.4), (1, 2, 10, 9)),
        ((-3.0, -0.2, 400.0, 401.0), (0, 0, 360, 363)),  # outside
        ((10.2, 10.2, 10.4, 10.4), (10, 10, 11, 11)),  # without an area
        ((359.8, 362.9, 360.0, 363.0), (359, 362, 360, 363)),  # at the corner
    ],
)
def test_boxes_are_whole_pixels_inside_the_image(box: tuple, expected: tuple) -> None:
    assert whole_pixels(box, WH) == expected


def test_without_a_count_every_finding_gets_a_row_and_every_image_one() -> None:
    readings = {
        "a": Reading(WH, (finding(0, "LY", 0.9), finding(1, "MO", 0.4), finding(2, "EO", 0.1))),
        "b": Reading(WH, ()),
    }
    assert expected_from(readings, 0.4) == [Expected("1", "a"), Expected("2", "a"), Expected("3", "b")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trustii_id,name\n1,a\n", "has no column NAME"),
        ("trustii_id,NAME\n", "has a header and no rows"),
        ("trustii_id,NAME\n1,a\n2,\n", "has no NAME on line 3"),
        ("trustii_id,NAME\n1,a\n1,b\n", "has 2 rows with the trustii_id '1'"),
        ("trustii_id,NAME\n,a\n", "has 1 rows with the trustii_id ''"),
    ],
)
def test_a_test_file_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "test.csv").write_text(text)
    with pytest.raises(AnnotationError, match=said):
        read_test(tmp_path / "test.csv")


def test_a_test_file_without_ids_leaves_the_count_open(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("\ufeffNAME\nb\na\nb\n", encoding="utf-8")
    assert read_test(tmp_path / "test.csv") == (None, ["b", "a"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tile, a field of three cells, an empty one, a damaged one."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(draw_tile(1, "EO").rgb).save(folder / "tile.png")
    Image.fromarray(draw_field(3, cells=3, size_wh=(800, 600)).rgb).save(folder / "field.png")
    Image.new("RGB", (300, 200), (230, 230, 230)).save(folder / "empty.png")
    Image.fromarray(draw_tile(2, "LY").rgb).save(folder / "broken.png")
    (folder / "broken.png").write_bytes((folder / "broken.png").read_bytes()[:20_000])
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def submit(images: Path, out: Path, *more: str) -> str:
    given = [str(images), "--bundle", str(embedded_bundle()), "--out", str(out), "--backend", "openvino"]
    result = CliRunner().invoke(main, [*given, "--precision", "f32", *more])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_the_command_answers_every_row_with_real_engines(images: Path, tmp_path: Path) -> None:
    names = ["field.png"] * 3 + ["broken.png", "tile.png", "gone.png", "empty.png"]
    rows = "".join(f"{number},{name}\n" for number, name in enumerate(names, 43000))
    (tmp_path / "test.csv").write_text(f"trustii_id,NAME\n{rows}")
    said = submit(images, tmp_path / "out" / "submission.csv", "--csv", str(tmp_path / "test.csv"))
    assert "7 rows for 5 images" in said
    assert "(truncated), first broken.png" in said
    assert "(not in the folders), first gone.png" in said
    found = rows_of(tmp_path / "out" / "submission.csv")
    assert [row["NAME"] for row in found] == names
    assert [row["trustii_id"] for row in found] == [str(number) for number in range(43000, 43007)]
    assert {row["class"] for row in found} <= {one.code for one in CELL_CLASSES}
    boxes = np.array([[int(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in found], np.float32)
    truth = draw_field(3, cells=3, size_wh=(800, 600)).boxes_xyxy
    assert (iou_matrix(truth, boxes[:3]).max(1) > 0.5).all()
    with Image.open(images / "broken.png") as broken:  # its header tells its size
        assert boxes[3].tolist() == [0, 0, *broken.size]


def test_the_command_needs_no_count(images: Path, tmp_path: Path) -> None:
    (images / "p1").mkdir()
    (images / "tile.png").rename(images / "p1/tile.png")
    (images / "._tile.png").write_bytes(b"a file of macOS")
    submit(images, tmp_path / "submission.csv")
    names = [row["NAME"] for row in rows_of(tmp_path / "submission.csv")]
    assert (names.count("field.png"), names.count("p1/tile.png"), names.count("empty.png")) == (3, 1, 1)
    assert set(names) == {"field.png", "p1/tile.png", "empty.png", "broken.png"}


def test_images_that_are_nowhere_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("trustii_id,NAME\n1,a.jpg\n")
    given = [str(tmp_path), "--bundle", str(embedded_bundle()), "--out", str(tmp_path / "s.csv")]
    result = CliRunner().invoke(main, [*given, "--csv", str(tmp_path / "test.csv")])
    assert result.exit_code == 78
    assert "None of the 1 images is in" in result.output


def test_a_submission_on_validation_images_scores_as_the_evaluation_does(tmp_path: Path) -> None:
    """The file on its own, scored as the challenge does."""
    truth = read_boxes([data_path("smears/val.csv")])[::12]
    rows = "".join(f"{number},{name}\n" for number, name in enumerate(truth["NAME"]))
    (tmp_path / "test.csv").write_text(f"trustii_id,NAME\n{rows}")
    submit(data_path("smears/images"), tmp_path / "submission.csv", "--csv", str(tmp_path / "test.csv"))
    found = rows_of(tmp_path / "submission.csv")
    said, giou = [], []
    for name, true in truth.group_by("NAME", maintain_order=True):
        own = [row for row in found if row["NAME"] == name[0]]
        boxes = np.array([[int(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in own], np.float32)
        nearest, of_image = best_by_giou(true.select("x1", "y1", "x2", "y2").to_numpy(), boxes)
        said += [own[place]["class"] for place in nearest]
        giou += of_image.tolist()
    score = challenge_score(truth["class"].to_list(), said, giou)
    assert score.giou_term > 0.9
    assert score.macro_f1 > 0.7
