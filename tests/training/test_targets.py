"""What a teacher said of a true box reaches the sample that shows it, whatever file the box was read from."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.test_whole_images import image_of
from training.annotations import AnnotatedImage
from training.crops import Cell
from training.errors import AnnotationError
from training.loop import TrainingError
from training.targets import SoftLabels, box_key, targets_of
from training.whole_images import WholeImage

BOX = np.float32([10.1, 20, 60.333, 80])
OTHER = np.float32([0, 0, 9, 9])


def cell(name: str, box: np.ndarray, label: str) -> Cell:
    return Cell(AnnotatedImage(name, Path(name), box[None], (label,), "lab"), box, label)


def soft(*rows: list[float], classes: tuple[str, ...] = ("LY", "MO", "PNN")) -> SoftLabels:
    """Of `BOX` and then `OTHER` in a.jpg."""
    keys = [box_key("a.jpg", box) for box in (BOX, OTHER)]
    return SoftLabels(classes, {key: np.float32(row) for key, row in zip(keys, rows, strict=False)})


def test_a_file_comes_back_and_its_boxes_are_known_again(tmp_path: Path) -> None:
    written = soft([0.25, 0.5, 0.25], [1, 0, 0])
    written.write(tmp_path / "soft.csv")
    assert (tmp_path / "soft.csv").read_text().splitlines()[:2] == [
        "NAME,x1,y1,x2,y2,LY,MO,PNN",
        "a.jpg,10.1,20,60.33,80,0.25,0.5,0.25",
    ]
    read = SoftLabels.read(tmp_path / "soft.csv")
    assert read.classes == written.classes
    assert {key: row.tolist() for key, row in read.rows.items()} == {
        key: row.tolist() for key, row in written.rows.items()
    }


def test_a_named_cell_is_taught_the_teacher_and_its_label_and_others_their_label() -> None:
    cells = [cell("a.jpg", BOX, "PNN"), cell("b.jpg", BOX, "LY")]
    targets = targets_of(cells, ("PNN", "LY", "MO"), soft([0.2, 0.3, 0.5]), weight=0.8)
    assert targets.numpy() == pytest.approx(np.float32([[0.6, 0.16, 0.24], [0, 1, 0]]))


def test_classes_that_only_one_of_both_knows_are_no_obstacle() -> None:
    teacher = soft([0.2, 0.6, 0.2])
    assert targets_of([cell("a.jpg", BOX, "PNN")], ("BA", "PNN", "LY"), teacher, weight=1.0).numpy() == (
        pytest.approx(np.float32([[0, 0.5, 0.5]]))
    )
    with pytest.raises(TrainingError, match="The soft labels name no box of the training files; write them"):
        targets_of([cell("a.jpg", BOX, "BA")], ("BA", "EO"), teacher, weight=1.0)


@pytest.mark.parametrize(
    ("labels", "taught"),
    [
        (("LY", "LY"), [0.5, 0.4, 0.1]),  # the mean of both boxes
        (("LY", "PNN"), [0.8, 0.8, 0.2]),  # each class as sure as it is in one of them
    ],
)
def test_a_whole_image_is_taught_what_the_teacher_says_of_all_its_boxes(
    labels: tuple[str, str], taught: list[float]
) -> None:
    image = WholeImage(image_of("a.jpg", [BOX, OTHER], labels), "LY", labels)
    both = soft([0.8, 0, 0.2], [0.2, 0.8, 0])
    assert targets_of([image], ("LY", "MO", "PNN"), both, weight=1.0)[0].tolist() == pytest.approx(taught)
    with pytest.raises(TrainingError, match="name no box"):  # of one box alone nothing is known of the image
        targets_of([image], ("LY", "MO", "PNN"), soft([0.8, 0, 0.2]), weight=1.0)


@pytest.mark.parametrize(
    "text",
    ["NAME,x1,y1,x2,y2,class\na.jpg,1,2,3,4,LY\n", "NAME,x1\n", "NAME,x1,y1,x2,y2,LY,MO\na,1,2,3,4,1\n"],
)
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "soft.csv").write_text(text)
    with pytest.raises(AnnotationError, match=r"soft\.csv is no file of soft labels \(.+\); write one with"):
        SoftLabels.read(tmp_path / "soft.csv")
