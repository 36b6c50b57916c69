"""The command runs the real station, small, and its figures come from there."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import growth, scale, sharing, starting, whole_cost
from benchmarks.growth import grow
from benchmarks.sharing import ALONE, TWO


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"_LONE": 4, "_ROUNDS": 2, "_ROUND": 8, "_CHUNK": 30, "STRETCH": 100}.items():
        monkeypatch.setattr(growth, name, size)
    monkeypatch.setattr(growth, "POINTS", (0, 150, 1_000_000))
    monkeypatch.setattr(starting, "_TIMES", 1)
    monkeypatch.setattr(whole_cost, "_LONE", 3)


@pytest.mark.usefixtures("small")
def test_the_journal_grows_by_every_image_that_is_counted(tmp_path: Path) -> None:
    (tmp_path / "grown" / "inbox").mkdir(parents=True)
    grown = grow(tmp_path / "grown", 300, lanes=2, keep=20)
    with contextlib.closing(sqlite3.connect(tmp_path / "grown" / "out" / ".edge" / "journal.sqlite3")) as db:
        (entries,) = db.execute("SELECT count(*) FROM images WHERE state = 'done'").fetchone()
        (twins,) = db.execute("SELECT count(*) - count(DISTINCT sha256) FROM images").fetchone()
    assert entries == grown.entries == 300 + 28
    assert twins == 0
    assert [point.entries for point in grown.points] == [0, 150, 300]
    assert sum(stretch.images for stretch in grown.stretches) + 3 * 28 == entries
    assert all(stretch.ms > 0 and "commit" in stretch.stage_ms for stretch in grown.stretches)
    assert sorted(path.name for path in (tmp_path / "grown" / "inbox").iterdir()) == [
        f"{number:07}.png" for number in range(280, 300)
    ]
    assert not (tmp_path / "begun").exists()


@pytest.mark.usefixtures("small")
def test_both_sides_of_a_point_hold_their_own_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grown" / "inbox").mkdir(parents=True)
    lone = growth._Source.lone

    def slow_when_grown(source: growth._Source) -> tuple[float, dict[str, float]]:
        elapsed_ms, stages = lone(source)
        return elapsed_ms + (1000 if source._inbox.parent.name == "grown" else 0), stages

    monkeypatch.setattr(growth._Source, "lone", slow_when_grown)
    for point in grow(tmp_path / "grown", 200, lanes=0, keep=0).points:
        assert min(point.grown.lone_ms) >= 1000 > max(point.begun.lone_ms)


def share_with_itself(
    images: list[bytes], suffix: str, rounds: int, scratch: Path
) -> dict[str, list[sharing.Shared]]:
    """A double of `share`: one real station, which is its own other one. In so short a time two would be at
    work together only by chance.
    """
    one = sharing._run([os.sched_getaffinity(0)], images, suffix, scratch)
    return {ALONE: [one], TWO: [sharing.Shared(one.answered_s * 2)]}


@pytest.mark.usefixtures("small")
def test_the_command_measures_the_real_station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "share", share_with_itself)
    options = ["--count", "2000", "--backlog", "30", "--rounds", "1"]
    done = CliRunner().invoke(
        scale.main, [*options, "--scratch", str(tmp_path / "disk"), "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "scale.json").read_text())
    assert figures["about"]["images"] == "drawn tiles"
    assert figures["starts"]["known_files"] == 200
    assert all(seconds > 0 for (seconds,) in list(figures["starts"].values())[1:])
    assert [sum(counts) for counts in figures["shared"][ALONE][0]["by_second"]] == [30]
    assert f"{figures['whole']['lone_ms']:.1f} ms alone" in (tmp_path / "performance.md").read_text()
    assert list((tmp_path / "disk").iterdir()) == []
