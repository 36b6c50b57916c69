"""Bundles of folds, each judged on its own images, and all in one report."""

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edge.bundle import MANIFEST
from training.cross_evaluate import main
from training.curate import main as curate
from training.soft_labels import main as soft_labels


def run(splits: Path, bundles: Path, out: Path) -> tuple[int, str]:
    given = ["--splits", splits, "--bundles", bundles, "--out", out, "--backend", "openvino"]
    result = CliRunner().invoke(main, [*map(str, given), "--precision", "f32"])
    return result.exit_code, " ".join(result.output.split())


def test_all_images_are_judged_each_by_its_own_bundle(folders: tuple[Path, Path], tmp_path: Path) -> None:
    code, said = run(*folders, tmp_path / "out")
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["n_images"] == 8
    assert [(one["source"], one["n_images"]) for one in report["sources"]] == [("lab0", 4), ("lab1", 4)]
    assert report["about"]["annotations"] == "without-lab0-val.csv, without-lab1-val.csv"
    assert report["detection"]["recall"] > 0.8


def test_a_bundle_that_is_missing_or_has_another_threshold_is_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    splits, bundles = folders
    manifest = json.loads((bundles / "without-lab1" / MANIFEST).read_text())
    manifest["thresholds"]["detection"] = 0.45
    (bundles / "without-lab1" / MANIFEST).write_text(json.dumps(manifest))
    code, said = run(splits, bundles, tmp_path / "out")
    assert code == 78
    assert "differ in their detection threshold (without-lab0 0.3, without-lab1 0.45)" in said
    shutil.rmtree(bundles / "without-lab1")
    code, said = run(splits, bundles, tmp_path / "out")
    assert code == 78
    assert "without-lab1 is no model bundle" in said


@pytest.mark.parametrize("command", [main, curate, soft_labels])
def test_an_image_in_two_folds_is_refused(
    command: click.Command, folders: tuple[Path, Path], smears_csv: Path, tmp_path: Path
) -> None:
    splits, bundles = folders
    stale = (splits / "without-lab1-val.csv").read_text().splitlines()
    (splits / "fold-1-val.csv").write_text("\n".join(stale[:3]) + "\n")
    shutil.copytree(bundles / "without-lab1", bundles / "fold-1")
    given = ["--splits", splits, "--bundles", bundles, "--out", tmp_path / "out"]
    more = ["--csv", smears_csv] if command is curate else []
    result = CliRunner().invoke(command, [*map(str, [*given, *more])])
    assert result.exit_code == 78
    said = " ".join(result.output.split())
    assert f"2 images of {splits} are in more than one *-val.csv (first 4.jpg, in fold-1-val.csv and" in said
    assert "without-lab1-val.csv), so that these are of several splits; run training.splits again" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_without_splits_is_refused(tmp_path: Path) -> None:
    code, said = run(tmp_path, tmp_path, tmp_path / "out")
    assert code == 78
    assert "has no file *-val.csv" in said
