"""The report of an audit: one file that tells every fault, and the challenge's own file in figures."""

import re
from pathlib import Path

from tests.real_files import data_path
from tests.training.damaged_smears import jpeg, rgb, write_csv, write_images
from tests.training.test_audit import CASES, GOOD, lines_of, rows_of, run
from training.audit.faults import Fault


def page_of(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_page_tells_every_fault_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run(write_csv(tmp_path / "boxes.csv", GOOD, *(row for row, *_ in CASES)), "--out", tmp_path / "out")
    page = page_of(tmp_path / "out")
    for fault in {change["fault"] for change in rows_of(tmp_path / "out/changes.csv")}:
        assert f">{fault}</a>" in page
    assert page.count("<svg") == 5
    assert len(re.findall(r"<figcaption>[A-Z]", page)) == 5
    assert "neutrophil  PNN" in page
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", page) == []


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    write_images(tmp_path / "images", a=jpeg(rgb(0)), b=jpeg(rgb(0), quality=50))
    path = write_csv(tmp_path / "boxes.csv", GOOD, "b.jpg,-5,20,110,120,LY")
    for out in ("one", "two"):
        run(path, "--out", tmp_path / out)
    assert page_of(tmp_path / "one") == page_of(tmp_path / "two")
    assert page_of(tmp_path / "one").count("data:image/jpeg;base64,") == 3  # the pair, and the clipped box


def test_what_files_are_called_is_text_and_no_markup(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "boxes.csv", '"<script>alert(1)</script>.jpg",10,20,15,120,LY')
    run(path, "--out", tmp_path / "out")
    assert "<script" not in page_of(tmp_path / "out")
    assert "&lt;script&gt;" in page_of(tmp_path / "out")


def test_no_row_left_is_told_too(tmp_path: Path) -> None:
    result = run(write_csv(tmp_path / "boxes.csv", "a.jpg,,,,,"), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 row in 1 file: 0 were kept" in page_of(tmp_path / "out")


def test_the_challenges_own_file_has_the_faults_and_figures_that_are_known_of_it(tmp_path: Path) -> None:
    result = run(data_path("cytologia/train.csv"), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    changes = rows_of(tmp_path / "out/changes.csv")
    counts = {fault: sum(one["fault"] == fault for one in changes) for fault in Fault}
    assert {fault: count for fault, count in counts.items() if count} == {
        Fault.BORDER: 356,
        Fault.SLIVER: 72,
        Fault.LOST_SOME: 70,
    }
    assert len(lines_of(tmp_path / "out/cleaned/train.csv")) == 52_748 - 72
    page = page_of(tmp_path / "out")
    for figure in ("52,748", "48,417", "93.5%", "1,104", "142 x 146", "11", "23"):
        assert f"<td>{figure}</td>" in page
