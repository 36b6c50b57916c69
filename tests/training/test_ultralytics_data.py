"""Annotated images as ultralytics reads them."""

import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from PIL import Image

from edge.images import decode
from training.annotations import AnnotatedImage
from training.augment import VARIATIONS
from training.loop import TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")
Smears = list[AnnotatedImage]


@pytest.fixture
def data(ultralytics_imported: None) -> ModuleType:
    """The module under test."""
    import training.ultralytics_data

    return training.ultralytics_data


def write(
    data: ModuleType,
    training: Smears,
    validation: Smears,
    folder: Path,
    *,
    classes: tuple[str, ...] = ("leukocyte",),
    side_px: int = 400,
) -> Path:
    varied = VARIATIONS["strong"]
    return data.write_dataset(
        training, validation, classes, folder, longest_side_px=side_px, variation=varied
    )


class TestOneStage:
    @pytest.mark.parametrize("label", [None, "BA"])  # without a class, or of one that was not trained
    def test_images_with_a_leukocyte_that_it_cannot_name_are_left_out_and_counted(
        self, label: str | None, data: ModuleType, smears: Smears, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            kept = data.usable_images(
                [replace(smears[0], labels=(label,)), *smears], ("PNN", "LY"), "training"
            )
        assert kept == smears
        assert "1 of 9 training images" in caplog.text

    def test_a_detector_that_only_finds_takes_every_image(self, data: ModuleType, smears: Smears) -> None:
        unknown = replace(smears[0], labels=(None,))
        assert data.usable_images([unknown], (data.LEUKOCYTE,), "training") == [unknown]

    def test_classes_are_those_present_in_the_order_of_a_count(
        self, data: ModuleType, smears: Smears
    ) -> None:
        shuffled = [replace(smears[0], labels=(label,)) for label in ("MO", "LY", "PNN")]
        half_known = replace(smears[0], labels=("BA", None))
        assert data.classes_of([*shuffled, half_known]) == ("PNN", "MO", "LY")

    def test_images_none_of_which_can_be_used_are_refused(self, data: ModuleType, smears: Smears) -> None:
        with pytest.raises(TrainingError, match=r"None of the 8 training images .* BA, MO"):
            data.usable_images(smears, ("BA", "MO"), "training")


class TestDataset:
    def test_boxes_come_back_as_they_were_marked(
        self, data: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        two = replace(
            smears[0], boxes_xyxy=np.float32([[10, 20, 60, 80], [150, 90, 250, 170]]), labels=("LY", None)
        )
        write(data, [two], smears, tmp_path / "set")
        rows = np.loadtxt(tmp_path / "set/labels/train/000000.txt", ndmin=2)
        assert rows[:, 0].tolist() == [0, 0]
        centre, sides = rows[:, 1:3] * (200, 180), rows[:, 3:] * (200, 180)
        corners = np.hstack([centre - sides / 2, centre + sides / 2])
        assert corners == pytest.approx(np.array([[10, 20, 60, 80], [150, 90, 200, 170]]), abs=1e-3)

    def test_labels_are_numbers_of_the_classes(
        self, data: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        write(data, smears, smears, tmp_path / "set", classes=("PNN", "LY"))
        numbers = [
            np.loadtxt(path, ndmin=2)[:, 0].astype(int).tolist()
            for path in sorted((tmp_path / "set/labels/train").glob("*.txt"))
        ]
        assert numbers == [[0], [1]] * 4

    def test_images_are_the_pixels_of_the_one_decoder(
        self, data: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        rgba = np.dstack([decode(smears[0].path.read_bytes()), np.full((180, 200), 128, np.uint8)])
        half_seen = tmp_path / "half.png"
        Image.fromarray(rgba).save(half_seen)
        with_tail = tmp_path / "tail.jpg"
        with_tail.write_bytes(smears[1].path.read_bytes() + b"camera's own notes")
        images = [smears[0], replace(smears[0], path=half_seen), replace(smears[1], path=with_tail)]
        write(data, images, images, tmp_path / "set")
        placed = sorted((tmp_path / "set/images/train").iterdir())
        assert [path.is_symlink() for path in placed] == [True, False, False]
        for path, image in zip(placed, images, strict=True):
            assert np.array_equal(cv2.imread(str(path))[..., ::-1], decode(image.path.read_bytes()))

    def test_large_images_are_written_smaller_and_keep_their_boxes(
        self, data: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        for side in (100, 400):
            write(data, smears, smears, tmp_path / str(side), side_px=side)
        small = cv2.imread(str(tmp_path / "100/images/train/000000.png"))
        assert small.shape == (90, 100, 3)
        label = "labels/train/000000.txt"
        assert (tmp_path / "100" / label).read_text() == (tmp_path / "400" / label).read_text()

    def test_an_old_dataset_leaves_nothing_behind_and_no_original_is_lost(
        self, data: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        write(data, smears, smears, tmp_path / "set")
        write(data, smears[:1], smears[:1], tmp_path / "set")
        assert [path.name for path in (tmp_path / "set/images/train").iterdir()] == ["000000.jpg"]
        assert all(image.path.exists() for image in smears)


class TestVariation:
    def tile(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [64, 64, 3] BGR, a bright blue cell on grey, and its box."""
        bgr = np.full((64, 64, 3), 128, np.uint8)
        bgr[10:30, 40:60] = (255, 20, 20)
        return bgr, np.float32([[40, 10, 60, 30]])

    def test_boxes_stay_on_their_cells(self, data: ModuleType) -> None:
        from ultralytics.utils.instance import Instances

        places = set()
        for _ in range(40):
            bgr, boxes = self.tile()
            instances = Instances(boxes, bbox_format="xyxy", normalized=False)
            instances.convert_bbox("xywh")
            instances.normalize(64, 64)
            varied = data.AnotherStation(VARIATIONS["none"])({"img": bgr, "instances": instances})
            left, top, right, bottom = varied["instances"].bboxes[0].round().astype(int)
            blue = varied["img"][..., 0] > 200
            assert blue.sum() == 400
            assert blue[top:bottom, left:right].all()
            places.add((left, top))
        assert len(places) == 8  # every way to lay a slide

    def test_goes_on_when_the_mosaics_end_and_leaves_validation_alone(
        self, data: ModuleType, smears: Smears, tmp_path: Path
    ) -> None:
        written = write(data, smears, smears, tmp_path)
        from ultralytics.cfg import get_cfg

        options = {
            "img_path": str(written.parent / "images/train"),
            "imgsz": 96,
            "data": {"names": {0: data.LEUKOCYTE}, "channels": 3},
            "hyp": get_cfg(overrides={"augmentations": []}),
            "variation": VARIATIONS["strong"],
        }
        dataset = data.SmearDataset(augment=True, **options)

        def kinds() -> list[str]:
            return [type(transform).__name__ for transform in dataset.transforms.transforms]

        assert kinds()[-2:] == ["AnotherStation", "Format"]
        dataset.close_mosaic(get_cfg(overrides={"augmentations": []}))
        assert kinds()[-2:] == ["AnotherStation", "Format"]
        dataset = data.SmearDataset(augment=False, **options)
        assert "AnotherStation" not in kinds()
