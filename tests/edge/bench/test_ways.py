"""The station as a way that is timed."""

from pathlib import Path

import pytest

from edge.bench.backlog import StationBacklog
from edge.bench.interleaved import run_interleaved
from edge.bench.ways import station_way
from edge.errors import BenchError
from tests.chaos.tiny import OneCell, tiny_image


def test_the_station_leaves_durable_rows_for_each_reading_and_no_file(tmp_path: Path) -> None:
    image = tmp_path / "tiny.png"
    image.write_bytes(tiny_image().copy(1))
    with station_way("ours", OneCell(), tmp_path / "station") as ours:
        answers = [ours.answer(ours.prepare(image)) for _ in range(3)]
        assert len(list(ours.inbox.iterdir())) == 1  # the last one, until the next is prepared
    rows = (tmp_path / "station/out/results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["0.png", "1.png", "2.png"]
    assert {"read", "decode", "commit", "csv"} <= answers[0].stage_ms.keys()
    assert answers[0].findings[0].label == "PNN"


def test_one_way_alone_reads_every_image_once(tmp_path: Path) -> None:
    image = tmp_path / "tiny.png"
    image.write_bytes(tiny_image().copy(1))
    with station_way("ours", OneCell(), tmp_path / "station") as ours:
        runs = run_interleaved([ours], [image] * 4, "images")["ours"]
    assert len(runs.ms) == len(runs.stage_ms["commit"]) == 4
    assert sum(sum(times) for times in runs.stage_ms.values()) <= sum(runs.ms)
    assert len((tmp_path / "station/out/images.csv").read_text().splitlines()) == 5


def test_an_image_that_the_station_cannot_read_is_no_measurement(tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with (
        station_way("ours", OneCell(), tmp_path / "station") as ours,
        pytest.raises(BenchError, match="not an image"),
    ):
        ours.answer(ours.prepare(text))


def test_a_backlog_answers_all_that_waits_each_round(tmp_path: Path) -> None:
    image = tmp_path / "tiny.png"
    image.write_bytes(tiny_image().copy(1))
    with station_way("ours", OneCell(lanes=2), tmp_path / "station") as ours:
        backlog = StationBacklog(ours.desk, ours.inbox, [image] * 12)
        assert all(backlog.images_per_second() > 0 for _ in range(2))
        assert list(ours.inbox.iterdir()) == []
    assert len((tmp_path / "station/out/images.csv").read_text().splitlines()) == 1 + 2 * 12
