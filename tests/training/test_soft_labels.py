"""A teacher's say of every true box, in a file that the classifier's trainer takes."""

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge.bundle import Bundle, embedded_bundle
from training.annotations import AnnotatedImage
from training.crops import cells_of
from training.soft_labels import main
from training.targets import SoftLabels, targets_of
from training.teaching import joined


def run(*options: object) -> tuple[int, str]:
    engine = ["--backend", "openvino", "--precision", "f32"]
    result = CliRunner().invoke(main, [*map(str, options), *engine])
    return result.exit_code, " ".join(result.output.split())


def test_the_teacher_of_a_fold_speaks_of_its_own_images(
    folders: tuple[Path, Path], smears: list[AnnotatedImage], tmp_path: Path
) -> None:
    (folders[0] / "without-lab1-val.csv").unlink()
    out = tmp_path / "soft.csv"
    code, said = run("--splits", folders[0], "--bundles", folders[1], "--out", out)
    assert code == 0, said
    classes = Bundle.load(embedded_bundle()).manifest.classes
    assert f"without-lab0: 4 images, {Bundle.load(embedded_bundle()).id}" in said
    assert f"4 boxes, {len(classes)} classes in" in said
    with out.open() as file:
        header, *rows = csv.reader(file)
    assert [row[0] for row in rows] == [image.name for image in smears[:4]]
    assert set(header[5:]) == set(classes)
    taught = targets_of(cells_of(smears[:4]), header[5:], SoftLabels.read(out), weight=1.0)
    assert taught.sum(1).tolist() == pytest.approx([1.0] * 4, abs=1e-4)
    assert [header[5:][int(place)] for place in taught.argmax(1)] == [image.labels[0] for image in smears[:4]]


@pytest.mark.parametrize("missing", ["--csv", "--bundle"])
def test_a_teacher_and_what_it_is_to_read_belong_together(
    missing: str, folders: tuple[Path, Path], smears_csv: Path, tmp_path: Path
) -> None:
    options = {"--csv": smears_csv, "--bundle": folders[1] / "without-lab1", "--out": tmp_path / "soft.csv"}
    code, said = run(*(part for name, value in options.items() if name != missing for part in (name, value)))
    assert code == 2
    assert "give --bundle and --csv, or --splits and --bundles." in said


def test_a_file_of_annotations_is_not_written_over(folders: tuple[Path, Path], smears_csv: Path) -> None:
    before = smears_csv.read_bytes()
    code, said = run("--bundle", folders[1] / "without-lab1", "--csv", smears_csv, "--out", smears_csv)
    assert code == 78
    assert "is to be read and written; give another file as --out." in said
    assert smears_csv.read_bytes() == before


def test_teachers_of_other_classes_are_joined() -> None:
    key = ("a.jpg", 0.0, 0.0, 9.0, 9.0)
    other = ("b.jpg", 0.0, 0.0, 9.0, 9.0)
    every = joined(
        [
            SoftLabels(("LY", "PNN"), {key: np.float32([0.25, 0.75])}),
            SoftLabels(("MO", "LY"), {other: np.float32([0.5, 0.5])}),
        ]
    )
    assert every.classes == ("PNN", "MO", "LY")
    assert {name[0]: row.tolist() for name, row in every.rows.items()} == {
        "a.jpg": [0.75, 0, 0.25],
        "b.jpg": [0, 0.5, 0.5],
    }
