"""The runs of recipes in one table."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.bundle import embedded_bundle
from tests.training.test_leaderboard import bench, write_report
from training.recipe_table import main


def write_run(runs: Path, name: str, share_wrong: int, n_images: int = 30) -> Path:
    write_report(runs / name / "report", share_wrong=share_wrong, n_images=n_images)
    (runs / name / "bundle").symlink_to(embedded_bundle())
    return runs / name


def table(runs: Path, tmp_path: Path) -> list[list[str]]:
    result = CliRunner().invoke(main, [str(runs), "--out", str(tmp_path / "recipes.md")])
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "recipes.md").read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]


def test_a_second_table_has_each_source_that_a_run_never_saw(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_report(write_run(runs, "good", share_wrong=0) / "unseen", share_wrong=3, n_images=12)
    write_run(runs, "poor", share_wrong=2)
    header, _, unseen = table(runs, tmp_path)[4:]
    assert header[0] == "run"
    assert all(" images" in source for source in header[1:])
    assert unseen[0] == "good"
    assert all(" (" in figure for figure in unseen[1:])


def test_the_best_run_is_first_with_unseen_sources_and_times_where_somebody_measured_them(
    tmp_path: Path,
) -> None:
    runs = tmp_path / "runs"
    write_run(runs, "poor", share_wrong=2)
    good = write_run(runs, "good", share_wrong=0)
    bench(good / "report", "small-report")
    write_report(good / "unseen", share_wrong=3, n_images=12)
    write_report(good / "teacher" / "report", share_wrong=1)  # of a step, and no run
    header, _, first, second = table(runs, tmp_path)[:4]
    assert header[0] == "run"
    assert [first[0], second[0]] == ["good", "poor"]
    assert first[1] == "1.000"
    assert second[1].startswith("0.")
    assert " to " in second[1]
    assert first[2] == ""
    assert second[2].startswith("-0.")
    assert first[5].startswith("0.")
    assert second[5] == "-"
    assert [first[7], first[8]] == ["1 and 1", "8.5"]
    assert second[8] == "-"


def test_runs_that_were_judged_by_different_annotations_are_not_ranked(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "one", share_wrong=2)
    write_run(tmp_path / "runs", "two", share_wrong=2, n_images=12)
    result = CliRunner().invoke(main, [str(tmp_path / "runs"), "--out", str(tmp_path / "recipes.md")])
    assert result.exit_code == 78
    assert (
        "(one, two) were judged by different annotations; give all the same --validation-csv" in result.output
    )


@pytest.mark.parametrize("what", ["nothing", "reports that are of no run"])
def test_a_folder_without_runs_is_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    if what != "nothing":
        write_report(tmp_path / "runs" / "mine", share_wrong=0)
    result = CliRunner().invoke(main, [str(tmp_path / "runs"), "--out", str(tmp_path / "recipes.md")])
    assert result.exit_code == 78
    assert not (tmp_path / "recipes.md").exists()
