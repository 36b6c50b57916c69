"""One reader for all CSV files that people give: those of spreadsheets and of Windows, too."""

from pathlib import Path

import pytest

from training.annotations import read_boxes
from training.audit.tables import read_table
from training.csv_files import read_csv
from training.errors import AnnotationError
from training.provenance import read_provenance
from training.submission import read_test

PLAIN = "NAME,x1,y1,x2,y2,class\nlame é.JPG,1,2,3,4,LY\n"

WAYS = {
    "plain": PLAIN.encode(),
    "byte order mark and Windows' lines": PLAIN.replace("\n", "\r\n").encode("utf-8-sig"),
    "French spreadsheet": PLAIN.replace(",", ";").replace("\n", "\r\n").encode("cp1252"),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "spaces in the first line": PLAIN.replace(",", ", ", 5).encode(),
    "blank lines": f"{PLAIN}\n\n".encode(),
    "blank cells at the end": PLAIN.replace("\n", ",,\n").encode(),
    "rows whose cells were emptied": f"{PLAIN},,,,,\n , ,,,,\n".encode(),
    "Unicode text": PLAIN.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_reader_reads_what_a_spreadsheet_wrote(way: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(WAYS[way])
    assert read_boxes([path]).rows() == [("lame é.JPG", 1.0, 2.0, 3.0, 4.0, "LY")]
    assert [(row.line, row.name) for row in read_table(path, "a.csv").rows] == [(2, "lame é.JPG")]
    assert read_provenance(path)["lame é.JPG"]["class"] == "LY"
    assert read_test(path) == (None, ["lame é.JPG"])


def test_a_line_keeps_its_number_and_what_it_has_too_much(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('NAME,x1\n\n"two\nlines",1\na,2,3\nb\n')
    _, records = read_csv(path, ("NAME",))
    assert [(one.line, one.cells["x1"], one.surplus) for one in records] == [
        (4, "1", ()),
        (5, "2", ("3",)),
        (6, "", ()),
    ]


@pytest.mark.parametrize(
    "remark",
    ['"smudge', '"smudge\nb.jpg,1,2,3,4,LY,"torn" edge'],
    ids=["up to the end of the file", "up to the next one"],
)
def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(remark: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        f"NAME,x1,y1,x2,y2,class,remark\na.jpg,1,2,3,4,LY,\nz.jpg,1,2,3,4,LY,{remark}\nc.jpg,1,2,3,4,LY,\n"
    )
    for read in (lambda: read_boxes([path]), lambda: read_table(path, "a.csv"), lambda: read_test(path)):
        with pytest.raises(AnnotationError, match=r"from line 3 on .* close the quotation mark"):
            read()


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("NAME,x1,y1,x2,y2,class,class\na.jpg,1,2,3,4,LY,MO\n")
    with pytest.raises(AnnotationError, match="more than one column class, of which nobody can tell"):
        read_boxes([path])


@pytest.mark.parametrize("column", ["Patient", "SOURCE", "Duplicate_Group"])
def test_a_column_of_provenance_in_other_letters_is_not_left_unread(column: str, tmp_path: Path) -> None:
    path = tmp_path / "provenance.csv"
    path.write_text(f"NAME,{column}\na.jpg,7\n")
    with pytest.raises(AnnotationError, match=f"a column {column}, and only {column.lower()} is read"):
        read_provenance(path)
    path.write_text(f"NAME,{column},{column.lower()}\na.jpg,7,8\n")  # what was meant is there
    assert read_provenance(path)["a.jpg"][column.lower()] == "8"
