"""The report says what was measured, target by target, met or missed."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import Measurements
from benchmarks.targets import EMBEDDED, ONNX, OPENVINO, TORCH, YOLO_B0, bare, station
from edge.bench.interleaved import Runs
from edge.bench.ways import Answer
from edge.cells import Finding

PRECISIONS = ("bf16", "f32")
LY = Finding((10.0, 10.0, 50.0, 50.0), "LY", 0.9, 0.8, {"LY": 0.8, "MO": 0.2})
MO = Finding((11.5, 10.0, 50.0, 50.0), "MO", 0.9, 0.6, {"MO": 0.6, "LY": 0.4})


def runs(times_ms: dict[str, float]) -> dict[str, Runs]:
    """Three images of about a time each; ultralytics on OpenVINO names one cell in another way."""
    return {
        name: Runs(
            (ms, ms * 1.01, ms * 0.99),
            (Answer((MO if name == OPENVINO else LY,), {"detect": ms / 2, "commit": ms / 4}),) * 3,
        )
        for name, ms in times_ms.items()
    }


@pytest.fixture(scope="module")
def measured() -> Measurements:
    """Invented times: the station is 1.1 times its bare networks in bf16, and 1.3 times in f32."""
    times = {TORCH: 200.0, ONNX: 100.0, OPENVINO: 70.0}
    for pair, limit in ((EMBEDDED, 5.0), (YOLO_B0, 20.0)):
        for precision, factor in zip(PRECISIONS, (1.1, 1.3), strict=True):
            times[bare(pair, precision)] = limit
            times[station(pair, precision)] = limit * factor
    backlog = {
        name(pair, "bf16"): rates
        for pair, ours in ((EMBEDDED, 96.0), (YOLO_B0, 90.0))
        for name, rates in ((station, (ours, ours + 1, ours - 1)), (bare, (100.0, 101.0, 99.0)))
    }
    words = ("date", "processor", "system", "versions", "tiles", "tiles_are", "fields", "backlog")
    about = {word: f"the {word}" for word in words}
    about |= {"cores": 2, "rounds": 3, "load_before": 0.5, "load_others": 0.25}
    return Measurements(about, PRECISIONS, runs(times), runs(times), [[LY]] * 3, [[]] * 3, backlog)


def row(page: str, begin: str) -> str:
    (found,) = [line for line in page.splitlines() if line.startswith(f"| {begin} |")]
    return found


def test_each_target_is_met_or_missed_by_its_own_figure(measured: Measurements) -> None:
    page = report.to_markdown(measured)
    for precision, ratio, verdict in (("bf16", "1.10", "met"), ("f32", "1.30", "**missed**")):
        line = row(page, f"tile, time: {station(EMBEDDED, precision)} / its bare networks")
        assert re.search(rf"\| {ratio} \(.*\) \| at most 1.15 \| {re.escape(verdict)} \|$", line)
    line = row(page, f"tile, time: {TORCH} / {station(YOLO_B0, 'bf16')}")
    assert "| 9.09 (" in line
    assert line.endswith("| at least 5 | met |")
    assert row(page, f"tile, time: {TORCH} / {station(EMBEDDED, 'bf16')}").startswith("| tile")
    lines = [line for line in page.splitlines() if line.startswith("| backlog, images a second")]
    assert [line.rsplit("| ", 1)[1] for line in lines] == ["met |", "**missed** |"]


def test_findings_stand_beside_the_speed(measured: Measurements) -> None:
    page = report.to_markdown(measured)
    tiles = page.split("## One tile")[1].split("## One field")[0]
    assert row(tiles, TORCH).endswith("| 3 | 3 of 3 | 3 | 0.00 | 0.000 |")
    assert row(tiles, OPENVINO).endswith("| 3 | 3 of 3 | 0 | 1.50 | 0.400 |")
    assert row(tiles, bare(EMBEDDED, "f32")).endswith("|  |  |  |  |  |")
    assert row(tiles, report.SAME) == f"| {report.SAME} |  |  |  | 3 | 3 of 3 | 3 | 0.00 | 0.000 |"
    assert f"| {report.SAME} |  |  |  | 0 | 0 of 3 |" in page.split("## One field")[1]


def test_page_picture_and_figures_are_of_one_run(measured: Measurements, tmp_path: Path) -> None:
    report.write(measured, tmp_path)
    figures = json.loads((tmp_path / report.FIGURES).read_text())
    assert figures["tiles"][TORCH]["ms"] == [200.0, 202.0, 198.0]
    assert [one["met"] for one in figures["comparisons"]].count(False) == 5
    assert f"]({report.PICTURE})" in (tmp_path / report.PAGE).read_text()
    picture = (tmp_path / report.PICTURE).read_text()
    assert TORCH in picture
    assert len(picture) < 100_000
    report.write(measured, tmp_path)
    assert (tmp_path / report.PICTURE).read_text() == picture
