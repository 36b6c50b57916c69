"""One page of all reports: who is first, and who cannot be told from it."""

import json
import os
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.bench.report import save_report
from edge.cells import Finding
from tests.edge.bench.reports import engine
from tests.edge.bench.reports import report as bench_report
from tests.training.test_tally import smears
from training.errors import AnnotationError
from training.evaluate import evaluate
from training.leaderboard import main
from training.leaderboard_page import board, find_entries, render
from training.pairing import CELLS_CSV, write_cells
from training.report import to_json


def write_report(folder: Path, *, share_wrong: int, engine: str = "stub:f32", n_images: int = 30) -> Path:
    """An evaluation in which every so manyth image is named wrongly; 0 for none."""
    images, predictions = smears(n_images)
    for number, image in enumerate(images):
        wrong = share_wrong and number % share_wrong == 0
        predictions[image.name] = [
            Finding(tuple(map(float, box)), "BA" if wrong else label or "LY", 0.9, 0.8, {})
            for box, label in zip(image.boxes_xyxy, image.labels, strict=True)
        ]
    found = evaluate(images, predictions, working_threshold=0.4)
    about = {
        "bundle": "small",
        "bundle id": f"small-{folder.name}",
        "engine": engine,
        "annotations": f"{n_images}.csv",
        "sources": "all",
    }
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(to_json(found, about)))
    write_cells(found.cells, found.false_detections, folder / CELLS_CSV)
    return folder


def bench(folder: Path, bundle: str, engine: str = "stub:f32") -> None:
    stages = [{"stage": "total", "mean_ms": 9.0, "percentiles_ms": {"p50": 8.5}, "max_ms": 20.0}]
    (folder / "bench.json").write_text(json.dumps({"bundle": bundle, "engine": engine, "stages": stages}))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write_report(folder / "poor", share_wrong=2)
    bench(write_report(folder / "good", share_wrong=0), "small-good")
    bench(write_report(folder / "near", share_wrong=29), "another")
    write_report(folder / "other-data", share_wrong=0, n_images=12)
    (folder / "broken").mkdir()
    (folder / "broken" / "report.json").write_text("{}")
    return folder


def test_systems_are_ranked_by_score_and_told_from_the_first_by_their_difference(reports: Path) -> None:
    entries, _ = find_entries([reports])
    found = board([one for one in entries if one.report.n_images == 30])
    assert [one.name for one in found.rows] == ["good", "near", "poor"]
    first, near, poor = found.rows
    assert (first.cells[0].text, first.behind.text, first.median_ms) == ("1.000", "", "8.5")
    assert near.behind.text == "not told apart"
    assert float(poor.behind.text) < -0.1
    assert " to -" in poor.behind.interval
    assert [(source, what) for source, _, what in found.sources] == [
        ("lab0", "accuracy"),
        ("lab1", "accuracy"),
        ("lab2", "accuracy"),
    ]
    assert poor.sources[0].interval


def test_times_of_another_bundle_and_broken_reports_are_left_out_and_said(reports: Path) -> None:
    entries, notes = find_entries([reports])
    assert {one.name: one.median_ms for one in entries}["near"] is None
    assert len(notes) == 2
    assert "broken/report.json is no report of this version" in notes[0]
    assert "times another on stub:f32, but the report beside it is of small-near" in notes[1]


def test_the_time_of_a_report_is_that_of_its_own_engine_among_several(tmp_path: Path) -> None:
    folder = write_report(tmp_path / "good", share_wrong=0)
    first = engine("other:f32")
    ours = replace(first, bundle="small-good", engine="stub:f32")
    save_report(bench_report(engines=(first, ours)), folder / "bench.json")
    ((entry,), notes) = find_entries([tmp_path])
    assert entry.median_ms == pytest.approx(first.total.percentiles_ms["p50"])
    assert notes == []


def test_a_folder_given_twice_counts_once(reports: Path) -> None:
    assert len(find_entries([reports, reports / "good"])[0]) == 4


def test_systems_on_other_annotations_have_a_table_of_their_own(reports: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(reports), "--out", str(tmp_path / "page" / "board.html")])
    assert result.exit_code == 0, result.output
    assert "30.csv: 3 systems, first good, score 1.000" in result.output
    assert "12.csv: 1 systems, first other-data" in result.output
    page = (tmp_path / "page" / "board.html").read_text(encoding="utf-8")
    assert page.index("30.csv") < page.index("12.csv")


class Tags(HTMLParser):
    """What a page would load, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tables += tag == "table"
        self.loaded += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "xlink:href", "data") and not (value or "").startswith(("#", "data:"))
        ]


def test_reports_that_name_other_sources_of_the_same_images_share_a_table(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, share_wrong=0)
    path = tmp_path / "b/report.json"
    report = json.loads(path.read_text())
    for one in report["sources"]:
        one["source"] = f"clinic of {one['source']}"
    path.write_text(json.dumps(report))
    found = board(find_entries([tmp_path])[0])
    assert [source[0] for source in found.sources] == ["lab0", "lab1", "lab2"]
    assert [[value.text for value in row.sources] for row in found.rows] == [["1.000"] * 3, ["-"] * 3]


def test_the_page_needs_no_other_file_and_no_network(reports: Path) -> None:
    entries, notes = find_entries([reports])
    page = render([board([one for one in entries if one.report.n_images == 30])], notes)
    tags = Tags()
    tags.feed(page)
    assert tags.loaded == []
    assert tags.tables == 2
    for forbidden in ("<script", "@import", "url(http"):
        assert forbidden not in page


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    write_report(tmp_path / "<b>bold", share_wrong=0)
    page = render([board(find_entries([tmp_path])[0])], [])
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_a_folder_without_reports_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"holds no report\.json"):
        find_entries([tmp_path])


def test_folders_whose_names_are_no_text_are_compared(tmp_path: Path) -> None:
    for letter, share in ((b"\xe8", 0), (b"\xe9", 2)):
        write_report(tmp_path / "new", share_wrong=share).rename(tmp_path / os.fsdecode(letter))
    result = CliRunner().invoke(main, [str(tmp_path), "--out", str(tmp_path / os.fsdecode(b"\xea.html"))])
    assert result.exit_code == 0, result.output
    page = (tmp_path / os.fsdecode(b"\xea.html")).read_text("utf-8")
    assert "\\xe8" in page
    assert "\\xe9" in page
