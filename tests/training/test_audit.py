"""Faults of rows: each alone and all together, mended or dropped with its reason, and none lost."""

import csv
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.training.damaged_smears import HEADER, jpeg, rgb, write_csv, write_images
from training.annotations import read_boxes
from training.audit.cleaning import clean
from training.audit.command import main
from training.audit.faults import EXPLANATIONS, Action, Fault
from training.audit.overlaps import settle_overlaps
from training.audit.tables import Row, Table, labels_of
from training.errors import AnnotationError

pytestmark = pytest.mark.usefixtures("no_charts")

GOOD = "a.jpg,10,20,110,120,PNN"

CASES = [
    # the row, what is left of it, and the fault
    ("b.jpg,10,20,110,120,PNN,7", None, Fault.CELLS),
    ("b.jpg,10,20,110,120", None, Fault.BLANK),
    (",10,20,110,120,PNN", None, Fault.BLANK),
    ("b.jpg,10,,110,120,PNN", None, Fault.BLANK),
    ("b.jpg,ten,20,110,120,PNN", None, Fault.NO_NUMBER),
    ("b.jpg,nan,20,110,120,PNN", None, Fault.NO_NUMBER),
    ("b.jpg,10,20,inf,120,PNN", None, Fault.NO_NUMBER),
    (" b.jpg,10, 20,110,120,PNN ", "b.jpg,10,20,110,120,PNN", Fault.SPACES),
    ("b.jpg,10,20,110,120,LH_LyAc", "b.jpg,10,20,110,120,LH_lyAct", Fault.SPELLING),
    ("b.jpg,10,20,110,120,RBC", None, Fault.UNKNOWN_CLASS),
    ("b.jpg,110,20,10,120,PNN", "b.jpg,10,20,110,120,PNN", Fault.TURNED),
    ("b.jpg,10,120,110,20,PNN", "b.jpg,10,20,110,120,PNN", Fault.TURNED),
    ("b.jpg,10,20,10,120,PNN", None, Fault.NO_AREA),
    ("b.jpg,-7,20,110,120.5,PNN", "b.jpg,0,20,110,120.5,PNN", Fault.BORDER),
    ("b.jpg,-90,20,-7,120,PNN", None, Fault.OUTSIDE),
    ("b.jpg,10,20,29,120,PNN", None, Fault.SLIVER),
    ("b.jpg,-90,20,19,120,PNN", None, Fault.SLIVER),  # what is left inside the image is too narrow
    (GOOD, None, Fault.REPEATED),
    ("a.jpg,11,20,110,120,PNN", None, Fault.DOUBLED),
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()[1:]


@pytest.mark.parametrize(("row", "kept", "fault"), CASES)
def test_each_fault_alone_is_mended_or_dropped_and_logged(
    row: str, kept: str | None, fault: Fault, tmp_path: Path
) -> None:
    given = write_csv(tmp_path / "boxes.csv", GOOD, row)
    result = run(given, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert lines_of(tmp_path / "out/cleaned/boxes.csv") == [GOOD, *([kept] if kept else [])]
    (change,) = rows_of(tmp_path / "out/changes.csv")
    assert (change["fault"], change["action"]) == (fault, "mended" if kept else "dropped")
    assert (change["file"], change["line"]) == ("boxes.csv", "3")
    assert change["reason"]
    assert change["after"] == (kept or "").partition(",")[2]
    assert given.read_text(encoding="utf-8").splitlines() == [HEADER, GOOD, row]


def test_all_faults_together_leave_no_row_untold(tmp_path: Path) -> None:
    given = write_csv(tmp_path / "boxes.csv", GOOD, *(row for row, *_ in CASES))
    result = run(given, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    cleaned = lines_of(tmp_path / "out/cleaned/boxes.csv")
    changes = rows_of(tmp_path / "out/changes.csv")
    dropped = {change["line"] for change in changes if change["action"] == "dropped"}
    assert len(dropped) == sum(change["action"] == "dropped" for change in changes)
    assert len(cleaned) + len(dropped) == len(CASES) + 1
    assert read_boxes([tmp_path / "out/cleaned/boxes.csv"]).height == len(cleaned)


def test_one_box_with_two_classes_keeps_the_box_without_a_class(tmp_path: Path) -> None:
    rows = (GOOD, "a.jpg,10,20,110,120,LY", "a.jpg,12,20,110,120,PNN", "a.jpg,120,20,180,90,MO")
    run(write_csv(tmp_path / "boxes.csv", *rows), "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out/cleaned/boxes.csv") == ["a.jpg,10,20,110,120,WBC", rows[3]]
    changes = rows_of(tmp_path / "out/changes.csv")
    assert [(one["line"], one["action"], one["fault"]) for one in changes] == [
        ("2", "mended", "contradictory classes"),
        ("3", "dropped", "contradictory classes"),
        ("4", "dropped", "contradictory classes"),
    ]
    assert changes[0]["reason"] == "lines 2, 3, 4 name one box PNN, LY"


def test_a_box_without_a_class_takes_that_of_its_double(tmp_path: Path) -> None:
    rows = ("a.jpg,10,20,110,120,WBC", GOOD)
    run(write_csv(tmp_path / "boxes.csv", *rows), "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out/cleaned/boxes.csv") == [GOOD]


def test_an_image_that_lost_one_box_and_kept_another_is_told(tmp_path: Path) -> None:
    rows = (GOOD, "a.jpg,120,20,125,90,LY", "b.jpg,120,20,125,90,LY")
    run(write_csv(tmp_path / "boxes.csv", *rows), "--out", tmp_path / "out")
    told = [one for one in rows_of(tmp_path / "out/changes.csv") if one["action"] == "kept"]
    assert [(one["NAME"], one["line"], one["fault"]) for one in told] == [
        ("a.jpg", "", "image that lost boxes")
    ]
    assert "3 (sliver)" in told[0]["reason"]


def test_the_least_side_can_be_chosen(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "boxes.csv", "a.jpg,10,20,15,120,PNN")
    run(path, "--out", tmp_path / "all", "--min-side", 0)
    assert len(lines_of(tmp_path / "all/cleaned/boxes.csv")) == 1
    run(path, "--out", tmp_path / "none")
    assert lines_of(tmp_path / "none/cleaned/boxes.csv") == []


def test_sizes_of_provenance_stand_in_for_images(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "boxes.csv", "a.jpg,10,20,110,120,PNN", "b.jpg,10,20,110,120,PNN")
    write_csv(
        tmp_path / "provenance.csv", "a.jpg,lab,100,90", "b.jpg,lab,,", header="NAME,source,width,height"
    )
    result = run(path, "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out/cleaned/boxes.csv")[0] == "a.jpg,10,20,100,90,PNN"
    (change,) = rows_of(tmp_path / "out/changes.csv")
    assert change["reason"] == "it reached over the right and lower border of 100 x 90 px"
    assert "Of 1 rows the size of the image is not known" in " ".join(result.output.split())


def test_one_image_in_two_files_is_told(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", GOOD, "b.jpg,10,20,110,120,LY")
    val = write_csv(tmp_path / "val.csv", GOOD)
    run(train, val, "--out", tmp_path / "out")
    (change,) = rows_of(tmp_path / "out/changes.csv")
    assert (change["NAME"], change["fault"]) == ("a.jpg", "image in two files")
    assert change["reason"] == "it is named by train.csv and val.csv"
    assert len(lines_of(tmp_path / "out/cleaned/val.csv")) == 1


def test_further_columns_stay_and_semicolons_become_commas(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_bytes(b"\xef\xbb\xbftrustii_id;NAME;x1;y1;x2;y2;class\r\n\r\n7;a.jpg;10;20;110;120;PNN\r\n")
    run(path, "--out", tmp_path / "out")
    assert (tmp_path / "out/cleaned/boxes.csv").read_text() == (
        f"{HEADER},trustii_id\na.jpg,10,20,110,120,PNN,7\n"
    )


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            "NAME,x1,y1,x2,class",
            [GOOD],
            "has no column y2, only NAME, x1, y1, x2, class; its first line must",
        ),
        ("", [], "has no column NAME, x1"),
        (HEADER, [], "has a header and no rows"),
    ],
)
def test_what_is_no_annotation_file_ends_with_one_sentence(
    header: str, rows: list[str], message: str, tmp_path: Path
) -> None:
    result = run(write_csv(tmp_path / "boxes.csv", *rows, header=header), "--out", tmp_path / "out")
    assert result.exit_code == 78
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_files_that_were_given_cannot_be_overwritten(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "cleaned/boxes.csv", GOOD)
    result = run(path, "--out", tmp_path)
    assert result.exit_code == 78
    assert "give another folder as --out" in result.output


def test_a_cleaned_file_of_another_audit_is_not_left_without_its_provenance(tmp_path: Path) -> None:
    train, val = (write_csv(tmp_path / f"{name}.csv", GOOD) for name in ("train", "val"))
    run(val, train, "--out", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out/cleaned").iterdir()}
    said = " ".join(run(train, "--out", tmp_path / "out").output.split())
    assert "cleaned/val.csv is of a former run on other files" in said
    assert {path.name: path.read_bytes() for path in (tmp_path / "out/cleaned").iterdir()} == before
    assert run(train, val, "--out", tmp_path / "out").exit_code == 0


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [write_csv(tmp_path / place, GOOD) for place in ("x/lab/a.csv", "y/lab/a.csv", "b.csv")]
    assert labels_of(paths) == ["x-lab-a.csv", "y-lab-a.csv", "b.csv"]
    with pytest.raises(AnnotationError, match="was given twice"):
        labels_of([paths[0], paths[0]])


def test_every_fault_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Fault)


_CELLS = st.one_of(
    st.integers(-50, 400).map(str), st.sampled_from(["", " 7", "x", "nan", "1e400", "-0.0"]), st.text()
)
_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a.jpg", "b.jpg", " a.jpg", ""]),
        st.tuples(_CELLS, _CELLS, _CELLS, _CELLS),
        st.one_of(st.sampled_from(["PNN", "LY", "LH_LyAc", "WBC", ""]), st.text()),
    ),
    max_size=12,
)


@given(_ROWS, st.sampled_from([None, (300, 200)]))
def test_whatever_the_cells_kept_and_dropped_rows_are_all_rows(
    cells: list, size_wh: tuple[int, int] | None
) -> None:
    rows = tuple(
        Row(line, dict(zip(HEADER.split(","), (name, *box, label), strict=True)))
        for line, (name, box, label) in enumerate(cells, 2)
    )
    table = Table(Path("boxes.csv"), "boxes.csv", tuple(HEADER.split(",")), rows)
    sizes = {"a.jpg": size_wh, "b.jpg": size_wh} if size_wh else {}
    cleaned = clean(table, None, sizes)
    settle_overlaps(cleaned)
    dropped = [one.line for one in cleaned.changes if one.action is Action.DROPPED]
    assert sorted([*dropped, *(row.line for row in cleaned.rows)]) == [row.line for row in rows]
    for row in cleaned.rows:
        x1, y1, x2, y2 = row.box_xyxy
        assert 0 <= x1 < x2
        assert 0 <= y1 < y2
        assert size_wh is None or (x2 <= size_wh[0] and y2 <= size_wh[1])


def test_names_that_are_no_text_stand_in_all_files(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_images(folder / "images", **{"a": jpeg(rgb(1)), os.fsdecode(b"\xe9"): jpeg(rgb(2))})
    given = write_csv(folder / os.fsdecode(b"bo\xeetes.csv"), GOOD)
    result = run(given, "--out", folder / "out")
    assert result.exit_code == 0, result.output
    cleaned = folder / "out/cleaned"
    assert lines_of(cleaned / "bo\\xeetes.csv") == [GOOD]
    assert lines_of(cleaned / "provenance.csv") == ["a.jpg,caf\\xe9"]
    assert {row["NAME"] for row in rows_of(folder / "out/images.csv")} == {"a.jpg", "\\xe9.jpg"}
    page = (folder / "out/report.html").read_text("utf-8")
    assert "<b>\\xe9.jpg</b>" in page
    assert page.count("<img") == 1
