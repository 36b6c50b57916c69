"""The command writes what training images look like into a bundle, and tells what would be marked."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.bundle import Bundle, embedded_bundle
from edge.pipeline import open_pipeline
from tests.real_files import data_path
from tests.training.damaged_smears import jpeg, rgb, write_csv, write_images
from training.annotations import read_beside, read_pixels
from training.likeness import ALTERATIONS, main


def test_the_embedded_bundle_marks_few_validation_images() -> None:
    """Every eighth; of all 393 it marks 2.8 % (docs/drift.md)."""
    names = ("val", "detection_only_val")
    images = read_beside([data_path(f"smears/{name}.csv") for name in names])[::8]
    marked = 0
    with open_pipeline(Bundle.load(embedded_bundle())) as pipeline:
        assert pipeline.likeness is not None
        for image in images:
            rgb = read_pixels(image)
            found = pipeline.likeness.compare(rgb, pipeline.read(rgb))
            marked += found is not None and found.is_marked
    assert marked <= 0.1 * len(images)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_bundle(), tmp_path / "bundle"))


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """44 real images of three sources, whose images/ is the real folder."""
    smears = data_path("smears/train.csv").parent
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("images", "provenance.csv"):
        (folder / name).symlink_to(smears / name)
    with (smears / "train.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (smears / "provenance.csv").open(newline="") as file:
        sources = {row["NAME"]: row["source"] for row in csv.DictReader(file)}
    chosen: list[list[str]] = []
    for source, count in (("pbc", 21), ("lmu_aml", 21), ("bccd", 2)):
        chosen += list({row[0]: row for row in rows if sources[row[0]] == source}.values())[:count]
    with (folder / "some.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *chosen])
    return folder / "some.csv"


def run(*args: object) -> str:
    result = CliRunner().invoke(main, [*map(str, args)])
    assert result.exception is None, result.output
    return result.output


def refusal(*args: object) -> str:
    result = CliRunner().invoke(main, [*map(str, args)])
    assert result.exit_code != 0
    return " ".join(result.output.split())


def test_a_bundle_is_given_its_training_images(
    bundle: Path, annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.likeness.ALTERATIONS", {"light 0.7": ALTERATIONS["light 0.7"]})
    former_id = Bundle.load(bundle).id
    given = ("--bundle", bundle, "--csv", annotations, "--exclude-source", "bccd", "--drawn", 3)
    output = run(*given, "--validation-csv", annotations, "--altered", "--out", tmp_path / "out")
    after = Bundle.load(bundle)
    known = after.manifest.training_images
    assert known is not None
    assert [(one.name, one.images) for one in known.sources] == [("lmu_aml", 21), ("pbc", 21)]
    assert f"{former_id} is now {after.id}" in output
    assert "what images are compared with" in (bundle / "MODEL_CARD.md").read_text()
    report = json.loads((tmp_path / "out/likeness.json").read_text())
    shares = {(one["images_are"], one["source"]): one for one in report["shares"]}
    assert shares["left out of training", "lmu_aml"]["marked"] == 21
    assert shares["light 0.7", "pbc"]["marked"] == 21
    assert shares["validation", "all"]["images"] == 44
    assert shares["drawn", "drawn"]["images"] == 3


def test_a_source_may_count_as_part_of_another_and_small_ones_are_left_out(
    bundle: Path, annotations: Path, tmp_path: Path
) -> None:
    given = ("--bundle", bundle, "--csv", annotations)
    manifest = (bundle / "manifest.json").read_bytes()
    assert "'pbc' is not of the form NAME=OTHER" in refusal(*given, "--same-source", "pbc")
    assert "No image is of the source x that is to be left out; choose from bccd, lmu_aml, pbc." in refusal(
        *given, "--exclude-source", "x"
    )
    assert (bundle / "manifest.json").read_bytes() == manifest
    held_out = write_csv(tmp_path / "x/val.csv", "a.jpg,10,20,90,100,LY")
    write_images(tmp_path / "x/images", a=jpeg(rgb(0)))
    output = run(*given, "--exclude-source", "x", "--held-out-csv", held_out)
    assert "The source bccd has 2 images in which a cell is found, 20 are needed" in output
    known = Bundle.load(bundle).manifest.training_images
    assert known is not None
    assert [one.name for one in known.sources] == ["lmu_aml", "pbc"]
    run(*given, "--same-source", "bccd=pbc")
    known = Bundle.load(bundle).manifest.training_images
    assert known is not None
    assert [(one.name, one.images) for one in known.sources] == [("lmu_aml", 21), ("pbc", 23)]
