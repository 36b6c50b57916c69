"""A real cluster of Ray on this machine, whose workers die while they read and while they write.

In a process of its own: Ray opens sockets, which no test may, and warns of things that are its own.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge.demo.renderer import draw_tile
from edge.oneshot import run_once
from edge.overlay import encode_jpeg
from edge.pipeline import Pipeline
from tests.edge.archive.dying_workers import DEATHS
from tests.edge.archive.folders import rows_of, rows_of_archive

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Of the process: what Ray writes, its logs and the key of its cluster, goes with the folder."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # short: names of sockets end at 107 characters
        yield os.environ | {"PYTHONPATH": str(ROOT), "HOME": folder, "RAY_TMPDIR": folder}


def test_workers_that_are_killed_neither_lose_nor_double_a_row(
    tmp_path: Path, environment: dict[str, str], pipeline: Pipeline
) -> None:
    images, out, marks = tmp_path / "images", tmp_path / "out", tmp_path / "marks"
    marks.mkdir()
    for seed in range(24):
        path = images / f"smear-{seed % 2}" / f"{seed:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(draw_tile(seed).rgb))
    (images / "copy.jpg").write_bytes((images / "smear-0/08.jpg").read_bytes())
    (images / "notes.txt").write_text("no image\n")
    run_once([images], tmp_path / "one", pipeline)

    command = [sys.executable, "-m", "tests.edge.archive.dying_workers", str(images), str(out), str(marks)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, cwd=ROOT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert json.loads(said.splitlines()[-1]) == [], "Ray is reachable from elsewhere"
    assert {path.name for path in marks.iterdir()} == set(DEATHS)
    assert rows_of_archive(out) == (
        rows_of([tmp_path / "one/results.csv"]),
        rows_of([tmp_path / "one/images.csv"]),
    )
    assert not list((out / ".unfinished").glob("*"))
    # Ray's processes end by themselves after the one that started them.
    left = [p for p in psutil.process_iter(["name", "environ"]) if _is_of(p, environment["HOME"])]
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []


def _is_of(process: psutil.Process, home: str) -> bool:
    return (process.info["environ"] or {}).get("RAY_TMPDIR") == home
