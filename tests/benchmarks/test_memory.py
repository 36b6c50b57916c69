"""The picture of the soak proof shows its figures, and says how to get them where there are none."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.memory import PICTURE, curves, main
from edge.errors import BenchError


def figures(folder: Path) -> Path:
    for watch, kb in (("events", 1024), ("polling", 2048)):
        curve = {"100": {"rss": kb}, "1000": {"rss": kb + 512}}
        path = folder / f"promise-31-the-memory-does-not-grow-{watch}.json"
        path.write_text(json.dumps({"curve_kb": curve}))
    return folder


def test_each_way_to_watch_has_its_curve(tmp_path: Path) -> None:
    assert curves(figures(tmp_path)) == {"events": {100: 1.0, 1000: 1.5}, "polling": {100: 2.0, 1000: 2.5}}
    result = CliRunner().invoke(main, ["--figures", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert ">at most 5 % more<" in (tmp_path / PICTURE).read_text()


def test_without_the_proof_it_says_how_to_run_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="run `make chaos ONLY=soak`"):
        curves(tmp_path)
