"""An archive on a cluster: every image once, whatever dies; and what a second worker brings."""

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests.chaos.camera import real_or_drawn
from tests.chaos.conftest import Report, say
from tests.edge.archive.dying_workers import DEATHS
from tests.edge.archive.folders import Rows, rows_of, rows_of_archive

pytestmark = pytest.mark.timeout(3600)

_COMMANDS = Path(sys.executable).parent
_EDGE_ARCHIVE = "from edge.archive.command import archive; archive()"
_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, is_full: bool) -> tuple[str, Path]:
    """Real images in ten samples, with a duplicate and a bad file in each."""
    kind, images = real_or_drawn(1200 if is_full else 120)
    folder = tmp_path_factory.mktemp("archive")
    for number, data in enumerate(images):
        path = folder / f"smear-{number % 10}" / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    for sample in range(10):
        (folder / f"smear-{sample}" / "cut.jpg").write_bytes(images[sample][:3000])
        (folder / f"smear-{sample}" / "again.jpg").write_bytes(images[-1 - sample])
    return kind, folder


@pytest.fixture(scope="module")
def expected(archive: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Rows]:
    out = tmp_path_factory.mktemp("one") / "out"
    command = [str(_COMMANDS / "edge-run"), str(archive[1]), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return rows_of([out / "results.csv"]), rows_of([out / "images.csv"])


def test_workers_and_a_node_that_are_killed_neither_lose_nor_double_a_row(
    archive: tuple[str, Path], expected: tuple[Rows, Rows], tmp_path: Path, report: Report
) -> None:
    kind, images = archive
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    command = [sys.executable, "-m", "tests.chaos.two_nodes", str(images), str(out), str(marks)]
    subprocess.run(command, check=True, cwd=_ROOT, env=os.environ | {"PYTHONPATH": str(_ROOT)})
    assert {path.name for path in marks.iterdir()} == {*DEATHS, "node"}
    rows = rows_of_archive(out)
    assert rows == expected
    report(
        f"a cluster of two nodes read {rows[1].total()} files, {kind}; {len(DEATHS)} workers and one node "
        "were killed, and every row was there once, as `edge-run` gives it",
        leukocytes=rows[0].total(),
    )


def test_what_a_second_worker_brings(
    archive: tuple[str, Path], expected: tuple[Rows, Rows], tmp_path: Path, report: Report, is_full: bool
) -> None:
    rates: dict[int, list[float]] = {1: [], 2: []}
    walls: dict[int, list[float]] = {1: [], 2: []}
    for round_number in range(5 if is_full else 1):
        for workers in (1, 2):
            out = tmp_path / f"{round_number}-{workers}"
            command = [sys.executable, "-c", _EDGE_ARCHIVE, str(archive[1]), "--out", str(out)]
            began_s = time.monotonic()
            subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
            walls[workers].append(time.monotonic() - began_s)
            finished = (
                pl.scan_parquet(out / "parts/*/images.parquet").select("finished_at").collect().to_series()
            )
            span_s = (finished.max() - finished.min()).total_seconds()  # type: ignore[operator, union-attr]
            rates[workers].append(len(finished) / span_s)
            assert rows_of_archive(out) == expected
        say(f"images/s with one worker {rates[1][-1]:.0f}, with two {rates[2][-1]:.0f}")
    ratios = sorted(two / one for one, two in zip(rates[1], rates[2], strict=True))
    report(
        f"two workers answered {ratios[len(ratios) // 2]:.2f} times as many images a second as one "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} interleaved pairs of runs)",
        images_a_second=rates,
        wall_s=walls,
    )
