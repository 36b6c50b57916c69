"""One run measures every way on every set of images, and its report stands on that."""

import re
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.measure import median
from benchmarks.side_by_side import drawn, find_tiles, measure
from benchmarks.targets import EMBEDDED, ONNX, OPENVINO, TORCH, YOLO_B0, bare, station
from edge.errors import StationError
from tests.benchmarks.conftest import Pair

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore")  # what ultralytics imports and traces to export warns of much
def test_a_run_from_weights_to_the_page(pair: Pair, tmp_path: Path) -> None:
    tiles, fields = pair.images[:2], pair.images[1:]
    measured = measure(
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
    assert len(measured.comparisons) == 8 * len(measured.precisions) + 2


def test_tiles_are_spread_over_their_folder(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.jpg").touch()
    assert [path.stem for path in find_tiles(tmp_path, 3)] == ["0", "3", "6"]
    with pytest.raises(StationError, match="holds no image"):
        find_tiles(tmp_path / "nothing", 3)


def test_drawn_images_are_drawn_once(tmp_path: Path) -> None:
    (path,) = drawn(tmp_path, "tile", 1)
    before = path.stat().st_mtime_ns
    assert drawn(tmp_path, "tile", 1) == [path]
    assert path.stat().st_mtime_ns == before
    assert [one.name for one in tmp_path.iterdir()] == ["tile-1.jpg"]


def test_no_other_room_imports_the_benchmarks() -> None:
    sources = [path for room in ("edge", "build_engines", "training") for path in (ROOT / room).rglob("*.py")]
    assert sources
    assert [path for path in sources if re.search(r"(from|import) benchmarks", path.read_text())] == []
