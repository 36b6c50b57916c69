"""The demo, from the drawn smear to the summary."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge import cli
from edge.demo.renderer import DrawnSmear
from edge.demo.show import compare


def row(name: str, *box: int, label: str) -> dict[str, str]:
    return {"NAME": name, **dict(zip(("x1", "y1", "x2", "y2"), map(str, box), strict=True)), "class": label}


def test_the_summary_counts_found_agreeing_and_invented_cells() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)
    smear = DrawnSmear(np.zeros((20, 60, 3), np.uint8), boxes, ("LY", "MO", "EO"))
    findings = [
        row("a.jpg", 0, 0, 10, 9, label="LY"),  # found and named
        row("a.jpg", 20, 0, 30, 10, label="PNN"),  # found, another name
        row("a.jpg", 45, 0, 58, 10, label="EO"),  # too far off
        row("b.jpg", 40, 0, 50, 10, label="EO"),  # in another image
    ]
    agreement = compare({"a.jpg": smear}, findings)
    assert (agreement.drawn, agreement.found, agreement.agreeing, agreement.findings) == (3, 2, 1, 4)


def test_the_demo_shows_a_station_at_work(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    for _ in range(2):  # a second demo takes the place of the first
        result = CliRunner().invoke(cli.demo, ["--out", str(out), "--tiles", "3", "--fields", "0"])
        assert result.exit_code == 0, result.output
    assert "leukocytes found, of drawn" in result.output
    assert len(list((out / "results/annotated").rglob("tile-*.jpg"))) == 3
    assert (out / "results/results.csv").read_text().startswith("NAME,x1,y1,x2,y2,class,")


def test_the_demo_does_not_remove_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    """Not even that of a real station, which has an inbox and results as well."""
    for folder in ("inbox", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "results/results.csv").write_text("years of work")
    result = CliRunner().invoke(cli.demo, ["--out", str(tmp_path)])
    assert result.exit_code == 78
    assert "is not from a demo" in result.output
    assert (tmp_path / "results/results.csv").exists()


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(cli.demo, ["--out", str(tmp_path / "file" / "demo")])
    assert result.exit_code == 78
    assert "demo cannot be written (Not a directory); give another folder with --out." in result.output


def test_the_settings_of_a_real_station_are_not_for_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYTOLOGIA_EDGE_STATE", str(tmp_path / "real"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "real"))
    result = CliRunner().invoke(cli.demo, ["--out", str(tmp_path / "demo"), "--tiles", "1", "--fields", "0"])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "real").exists()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.demo.show._DROP_PERIOD_S", 0)
