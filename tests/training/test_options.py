"""The options that both trainers share: which images are left, and what is refused."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from edge.cli import one_sentence
from edge.errors import ImageRejected
from edge.locks import OutputUnwritableError
from training.errors import AnnotationError
from training.loop import TrainingError
from training.options import data_options, read_data


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """Training images of lab and clinic, validation images of lab and field."""
    (tmp_path / "images").mkdir()
    for split, sources in (("train", ("lab", "clinic")), ("val", ("lab", "field"))):
        names = [f"{split}-{source}.jpg" for source in sources]
        for name in names:
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
        rows = "".join(f"{name},1,2,3,4,LY\n" for name in names)
        (tmp_path / f"{split}.csv").write_text(f"NAME,x1,y1,x2,y2,class\n{rows}")
    sources = [f"{path.name},{path.stem.split('-')[1]}" for path in (tmp_path / "images").iterdir()]
    (tmp_path / "provenance.csv").write_text("\n".join(["NAME,source", *sources]) + "\n")
    return {
        "csvs": (tmp_path / "train.csv",),
        "validation_csvs": (tmp_path / "val.csv",),
        "held_out_csvs": (),
        "exclude_source": (),
        "drawn": 0,
        "out": tmp_path / "run",
        "epochs": 1,
        "learning_rate": 1e-3,
        "ema_decay": 0.9,
        "patience": 1,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("excluded", "training", "validation"),
    [
        ((), ["lab", "clinic"], ["lab", "field"]),
        (("lab",), ["clinic"], ["field"]),
        (("field",), ["lab", "clinic"], ["lab"]),  # of validation images alone
        (("clinic", "field"), ["lab"], ["lab"]),
    ],
)
def test_a_source_is_left_out_of_training_and_validation(
    excluded: tuple[str, ...], training: list[str], validation: list[str], data: dict[str, Any]
) -> None:
    train, val, _ = read_data({**data, "exclude_source": excluded})
    assert [image.source for image in train] == training
    assert [image.source for image in val] == validation


def test_what_belongs_together_with_a_source_is_left_out_with_it(
    data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A near-duplicate does, and a patient of the same number does not."""
    (data["csvs"][0].parent / "provenance.csv").write_text(
        "NAME,source,patient,duplicate_group\n"
        "train-lab.jpg,lab,1,\ntrain-clinic.jpg,clinic,2,a\nval-lab.jpg,lab,1,\nval-field.jpg,field,1,a\n"
    )
    train, val, _ = read_data({**data, "exclude_source": ("field",)})
    assert [image.name for image in train] == ["train-lab.jpg"]
    assert [image.name for image in val] == ["val-lab.jpg"]
    assert "1 images of other sources belong together with those of field and were left out" in caplog.text


def test_what_belongs_together_with_held_out_images_of_a_source_is_left_out_with_it(
    data: dict[str, Any],
) -> None:
    (data["csvs"][0].parent / "provenance.csv").write_text(
        "NAME,source,duplicate_group\n"
        "train-lab.jpg,lab,\ntrain-clinic.jpg,clinic,a\nval-lab.jpg,lab,\nval-field.jpg,field,a\n"
    )
    fold = data["csvs"][0].with_name("fold.csv")
    fold.write_text("NAME,x1,y1,x2,y2,class\nval-lab.jpg,1,2,3,4,LY\n")
    files = {"validation_csvs": (fold,), "held_out_csvs": data["validation_csvs"]}
    train, val, _ = read_data({**data, **files, "exclude_source": ("field",)})
    assert [image.name for image in (*train, *val)] == ["train-lab.jpg", "val-lab.jpg"]
    with pytest.raises(AnnotationError, match="name one with --exclude-source, or leave it out"):
        read_data({**data, **files})


def test_an_image_to_train_on_and_to_judge_by_is_refused(data: dict[str, Any]) -> None:
    elsewhere = data["csvs"][0].parent / "elsewhere"
    (elsewhere / "images").mkdir(parents=True)
    (elsewhere / "images" / "same.jpg").symlink_to(data["csvs"][0].parent / "images" / "train-lab.jpg")
    (elsewhere / "more.csv").write_text("NAME,x1,y1,x2,y2,class\nsame.jpg,1,2,3,4,LY\n")
    files = (*data["validation_csvs"], elsewhere / "more.csv")
    with pytest.raises(TrainingError, match=r"1 of 3 validation images are trained on, too \(.*same\.jpg\)"):
        read_data({**data, "validation_csvs": files})
    train, _, _ = read_data({**data, "validation_csvs": files, "exclude_source": ("elsewhere",)})
    assert len(train) == 2


def test_validation_images_that_belong_together_with_training_images_are_told(
    data: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A near-duplicate and a patient do, and a patient of the same number of another source does not."""
    provenance = data["csvs"][0].parent / "provenance.csv"
    head = "NAME,source,patient,duplicate_group\ntrain-lab.jpg,lab,1,\ntrain-clinic.jpg,clinic,2,a\n"
    provenance.write_text(f"{head}val-lab.jpg,lab,3,\nval-field.jpg,field,1,b\n")
    read_data(data)
    assert not caplog.text
    for kin in (
        "val-lab.jpg,lab,1,\nval-field.jpg,field,1,b\n",
        "val-field.jpg,field,3,\nval-lab.jpg,lab,3,a\n",
    ):
        provenance.write_text(head + kin)
        caplog.clear()
        _, validation, _ = read_data(data)
        assert len(validation) == 2
        assert "1 of 2 validation images share a patient or a duplicate_group with images that" in caplog.text
        assert "(first val-lab.jpg), so that figures on them flatter" in caplog.text


def test_a_folder_that_cannot_be_written_is_told_before_the_training(data: dict[str, Any]) -> None:
    data["out"].touch()
    for out in (data["out"], data["out"] / "run"):
        with pytest.raises(OutputUnwritableError, match=r"run.* cannot be written \(.*\); mend its rights"):
            read_data({**data, "out": out})


def test_an_image_that_cannot_be_read_is_told_before_the_training(data: dict[str, Any]) -> None:
    (data["csvs"][0].parent / "images/val-lab.jpg").write_bytes(b"")
    with pytest.raises(ImageRejected, match=r"val-lab\.jpg: the file has 0 bytes; copy or export"):
        read_data(data)


def test_a_box_outside_of_its_image_is_told_before_the_training(data: dict[str, Any]) -> None:
    with data["csvs"][0].open("a") as file:
        file.write("train-clinic.jpg,6,7,20,20,LY\n")  # crosses the border
    read_data(data)
    with data["csvs"][0].open("a") as file:
        file.write("train-clinic.jpg,3,8,6,11,LY\n")
    with pytest.raises(AnnotationError, match=r"clinic\.jpg is 8 x 8 px and its box 3, 8, 6, 11 lies out"):
        read_data(data)


def test_a_source_that_no_image_has_is_refused_with_those_there_are(data: dict[str, Any]) -> None:
    with pytest.raises(
        AnnotationError, match=r"No image is of the source Lab .*; choose from clinic, field, lab\."
    ):
        read_data({**data, "exclude_source": ("Lab", "field")})


@pytest.mark.parametrize(
    ("excluded", "purpose"), [(("lab", "clinic"), "train on"), (("lab", "field"), "judge by")]
)
def test_leaving_every_image_out_is_refused(
    excluded: tuple[str, ...], purpose: str, data: dict[str, Any]
) -> None:
    with pytest.raises(TrainingError, match=f"No image is left to {purpose}; leave fewer sources out"):
        read_data({**data, "exclude_source": excluded})


def test_such_an_error_ends_a_command_with_its_sentence(data: dict[str, Any]) -> None:
    @click.command()
    @one_sentence
    @data_options
    def command(**options: Any) -> None:
        read_data(options)

    files = ["--csv", data["csvs"][0], "--validation-csv", data["validation_csvs"][0], "--out", data["out"]]
    result = CliRunner().invoke(command, [*map(str, files), "--exclude-source", "nosuch"])
    assert result.exit_code == 78
    assert result.output.startswith("Error: No image is of the source nosuch")


@pytest.mark.parametrize("option", ["--epochs", "--patience", "--learning-rate"])
def test_a_schedule_of_nothing_is_refused(option: str) -> None:
    @click.command()
    @data_options
    def command(**_: Any) -> None: ...

    result = CliRunner().invoke(command, [option, "0"])
    assert result.exit_code == 2
    assert "0 is not in the range" in result.output.replace("0.0", "0")


@pytest.mark.parametrize("option", ["--learning-rate", "--ema-decay"])
def test_nan_is_no_number_for_a_training(option: str) -> None:
    command = click.command()(data_options(lambda **_: None))
    result = CliRunner().invoke(command, [option, "nan"])
    assert f"Invalid value for '{option}': it is no number." in result.output
