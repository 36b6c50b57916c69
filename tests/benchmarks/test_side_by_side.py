"""One run measures every way on every set of images, and its report stands on that."""

import re
from pathlib import Path

import pytest

from benchmarks import report, side_by_side
from benchmarks.targets import EMBEDDED, ONNX, OPENVINO, TORCH, YOLO_B0, bare, station
from edge.bench.estimates import median
from tests.benchmarks.conftest import Pair

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore")  # what ultralytics imports and traces to export warns of much
def test_a_run_from_weights_to_the_page(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_WARM_IMAGES", 1)
    tiles, fields = pair.images[:2], pair.images[1:]
    measured = side_by_side.measure(
        {EMBEDDED: pair.bundle, YOLO_B0: pair.bundle},
        (pair.detector, pair.classifier),
        tiles,
        fields,
        waiting=2,
        rounds=2,
        scratch=tmp_path,
        about=dict.fromkeys(
            (
                "date",
                "processor",
                "cores",
                "system",
                "versions",
                "tiles",
                "tiles_are",
                "fields",
                "backlog",
                "rounds",
            ),
            "…",
        ),
    )
    ways = {
        name(one, p) for name in (station, bare) for one in (EMBEDDED, YOLO_B0) for p in measured.precisions
    }
    for runs in (measured.tiles, measured.fields):
        assert runs.keys() == ways | {TORCH, ONNX, OPENVINO}
        assert all(len(run.ms) == 2 and min(run.ms) > 0 for run in runs.values())
    assert measured.precisions[-1] == "f32"
    assert len(measured.backlog) == 4
    assert measured.tile_agreements[report.SAME].matched > 0
    report.write(measured, tmp_path)
    assert (
        f"| {TORCH} | {median(measured.tiles[TORCH].ms).value:.2f} |" in (tmp_path / report.PAGE).read_text()
    )
    assert len(measured.comparisons) == 10 * len(measured.precisions) + 2


def test_no_other_room_imports_the_benchmarks() -> None:
    sources = [path for room in ("edge", "build_engines", "training") for path in (ROOT / room).rglob("*.py")]
    assert sources
    assert [path for path in sources if re.search(r"(from|import) benchmarks", path.read_text())] == []
