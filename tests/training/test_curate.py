"""The command writes what the trainers read, touches nothing that it was given, and paints copies."""

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge.images import decode
from training.annotations import AnnotatedImage, read_beside
from training.curate import main


@pytest.fixture
def given(smears: list[AnnotatedImage], smears_csv: Path, tmp_path: Path) -> Path:
    """The smears' annotations with a box in a corner that shows no cell, and a source of each image."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given/images").symlink_to(smears_csv.parent / "images")
    (tmp_path / "given/provenance.csv").write_bytes((tmp_path / "provenance.csv").read_bytes())
    path = tmp_path / "given/smears.csv"
    path.write_text(smears_csv.read_text() + f"{smears[0].name},0,150,30,180,LY\n")
    return path


def run(folders: tuple[Path, Path], path: Path, out: Path, *more: str) -> tuple[int, str]:
    splits, bundles = folders
    options = ["--splits", splits, "--bundles", bundles, "--csv", path, "--out", out, "--backend", "openvino"]
    result = CliRunner().invoke(main, [*map(str, options), "--precision", "f32", *more])
    return result.exit_code, " ".join(result.output.split())


def test_the_trainers_read_what_is_left(
    folders: tuple[Path, Path], given: Path, smears: list[AnnotatedImage], tmp_path: Path
) -> None:
    before = {image.name: image.path.read_bytes() for image in smears}
    out = tmp_path / "curated"
    (out / "images").mkdir(parents=True)  # of a former run, which painted another image
    (out / "disagreements.png").touch()
    (out / "images" / smears[1].name).touch()
    (out / "images" / smears[0].name).symlink_to(smears[0].path)
    code, said = run(folders, given, out)
    assert code == 0, said
    assert (
        "box that was not found: 1 finding without a box: 0 8 of 9 boxes and 8 of 8 images stay, 1 of" in said
    )
    images = read_beside([out / "smears.csv"])
    assert [(one.name, one.labels, one.source) for one in images] == [
        (one.name, one.labels, one.source) for one in smears
    ]
    for one, smear in zip(images, smears, strict=True):
        assert np.abs(one.boxes_xyxy - smear.boxes_xyxy).max() < 25
        assert (one.boxes_xyxy == np.round(one.boxes_xyxy)).all()
    assert [one.path.is_symlink() for one in images] == [False] + [True] * 7
    corner = decode(images[0].path.read_bytes())[150:180, :30]
    assert corner.max() < 20
    assert {image.name: image.path.read_bytes() for image in smears} == before
    with (out / "changes.csv").open() as file:
        changes = list(csv.DictReader(file))
    dropped = [change for change in changes if change["action"] == "dropped"]
    assert [(one["file"], one["line"], one["NAME"]) for one in dropped] == [
        ("smears.csv", "10", smears[0].name)
    ]
    assert (out / "disagreements.png").read_bytes().startswith(b"\x89PNG")


def test_curated_files_of_others_are_not_left_without_their_provenance(
    folders: tuple[Path, Path], given: Path, tmp_path: Path
) -> None:
    out = tmp_path / "curated"
    out.mkdir()
    for name in ("disagreements.png", "changes.csv", "provenance.csv", "smears.csv", "pool.csv"):
        (out / name).touch()
    code, said = run(folders, given, out)
    assert code == 78
    assert "curated/pool.csv is of a former run on other files" in said
    assert (out / "provenance.csv").read_text() == ""


def test_a_row_with_its_corners_the_wrong_way_round_is_refused(
    folders: tuple[Path, Path], given: Path, tmp_path: Path
) -> None:
    name, x1, y1, x2, y2, label = given.read_text().splitlines()[1].split(",")
    given.write_text(given.read_text() + f"{name},{x2},{y1},{x1},{y2},{label}\n")
    code, said = run(folders, given, tmp_path / "out")
    assert code == 78
    assert f"smears.csv has on line 11 {name},{x2},{y1},{x1},{y2},{label}, which is no box" in said
    assert not (tmp_path / "out").exists()


def test_images_that_no_fold_was_trained_without_are_refused(
    folders: tuple[Path, Path], given: Path, tmp_path: Path
) -> None:
    (folders[0] / "without-lab1-val.csv").unlink()
    code, said = run(folders, given, tmp_path / "out")
    assert code == 78
    assert "4 of 8 images are in no *-val.csv of" in said
    assert "split the files that are to be curated." in said
    assert not (tmp_path / "out").exists()
