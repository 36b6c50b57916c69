"""Annotation files: what is put right, what is left out, what is refused."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.errors import ImageRejected
from edge.images import decode
from tests.real_files import data_path
from training.annotations import (
    AnnotatedImage,
    digests_of,
    read_annotations,
    read_beside,
    read_boxes,
    read_pixels,
)
from training.errors import AnnotationError
from training.provenance import source_of


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "lab" / "images"
    folder.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).touch()
    return folder


def csv_of(folder: Path, *rows: str, name: str = "boxes.csv", header: str = "NAME,x1,y1,x2,y2,class") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_rows_of_one_image_come_together_over_several_files(tmp_path: Path, images: Path) -> None:
    first = csv_of(tmp_path, "b.jpg,1,2,3,4,LY", "a.jpg,10,20,30,40,PNN", "b.jpg,5,6,7,8,MO")
    second = csv_of(tmp_path, "b.jpg,50,60,70,80,WBC", name="more.csv")
    b, a = read_annotations([first, second], [images])
    assert (b.name, b.path, b.labels) == ("b.jpg", images / "b.jpg", ("LY", "MO", None))
    assert b.boxes_xyxy.dtype == np.float32
    assert b.boxes_xyxy.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [50, 60, 70, 80]]
    assert (a.name, a.labels) == ("a.jpg", ("PNN",))


def test_both_spellings_of_one_class_are_read(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "a.jpg,1,2,3,4,LH_LyAc", "a.jpg,5,6,7,8,LH_lyAct")
    assert read_boxes([path])["class"].to_list() == ["LH_lyAct", "LH_lyAct"]


@pytest.mark.parametrize(
    ("row", "kept", "logged"),
    [
        ("a.jpg,-5,-1,30,40,LY", [0, 0, 30, 40], "1 boxes had a negative coordinate"),
        ("a.jpg,30,20,10,40,LY", [10, 20, 30, 40], "1 boxes had their corners the wrong way round"),
        ("a.jpg,10,40,30,20,LY", [10, 20, 30, 40], "1 boxes had their corners the wrong way round"),
        ("a.jpg,10,20,10,40,LY", None, "1 boxes had no area"),
        ("a.jpg,-9,20,-1,40,LY", None, "1 boxes had no area"),  # nothing is left of it inside the image
        ("c.jpg,1,2,3,4,PNN", None, "1 rows repeat an earlier one"),
    ],
)
def test_faulty_boxes_are_mended_or_left_out_and_counted(
    row: str, kept: list[int] | None, logged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        table = read_boxes([csv_of(tmp_path, "c.jpg,1,2,3,4,PNN", row)])
    corners = table.select("x1", "y1", "x2", "y2").to_numpy().tolist()
    assert corners == [[1, 2, 3, 4]] + ([kept] if kept else [])
    assert logged in caplog.text
    assert "boxes.csv" in caplog.text


def test_an_image_whose_boxes_were_all_left_out_is_left_out(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = csv_of(tmp_path, "a.jpg,5,5,5,9,LY", "b.jpg,1,2,3,4,LY", "b.jpg,8,8,8,8,LY")
    assert [image.name for image in read_annotations([path], [images])] == ["b.jpg"]
    assert "1 images were left out" in caplog.text


def test_good_files_log_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_boxes([csv_of(tmp_path, "a.jpg,1,2,3,4,LY", "a.jpg,1,2,3,4,MO")])
    assert not caplog.records


def test_the_source_comes_from_provenance_or_else_from_the_folder(tmp_path: Path, images: Path) -> None:
    path = csv_of(tmp_path, "a.jpg,1,2,3,4,LY", "b.jpg,1,2,3,4,LY")
    provenance = csv_of(tmp_path, "a.jpg,train,hospital", name="provenance.csv", header="NAME,split,source")
    a, b = read_annotations([path], [images], provenance)
    assert (a.source, b.source) == ("hospital", "lab")


def test_a_link_is_of_the_source_whose_folder_it_lies_in(tmp_path: Path, images: Path) -> None:
    (tmp_path / "ours" / "images").mkdir(parents=True)
    (tmp_path / "ours" / "images" / "a.jpg").symlink_to(images / "a.jpg")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "images").symlink_to(images)
    path = csv_of(tmp_path, "a.jpg,1,2,3,4,LY")
    for folder, source in (("ours", "ours"), ("theirs", "lab")):
        (a,) = read_annotations([path], [tmp_path / folder / "images"])
        assert a.source == source_of(a.path, a.name, {}) == source


def test_an_image_in_a_sub_folder_is_of_the_source_that_holds_images(tmp_path: Path) -> None:
    names = ("p1/a.jpg", "p1/deeper/../a.jpg", "p1/deeper/a.jpg", "./a.jpg")
    for lab in ("north", "south"):
        (tmp_path / lab / "images/p1/deeper").mkdir(parents=True)
        for name in names:
            (tmp_path / lab / "images" / name).touch()
        path = csv_of(tmp_path / lab, *(f"{name},1,2,3,4,LY" for name in names))
        csv_of(tmp_path / lab, "p1/a.jpg,7", name="provenance.csv", header="NAME,patient")
        found = read_beside([path])
        assert [image.source for image in found] == [lab] * 4
        assert found[0].together == (f"patient\n{lab}\n7",)
        elsewhere = str(tmp_path / lab / "images/a.jpg")
        assert source_of(Path(elsewhere), elsewhere, {}) == lab
    assert source_of(None, "p1/a.jpg", {}) == "unknown"


def test_images_are_looked_for_in_every_folder(tmp_path: Path, images: Path) -> None:
    other = tmp_path / "pool" / "images"
    other.mkdir(parents=True)
    (other / "d.jpg").touch()
    path = csv_of(tmp_path, "d.jpg,1,2,3,4,LY", "a.jpg,1,2,3,4,LY")
    d, a = read_annotations([path], [images, other])
    assert (d.path, d.source, a.source) == (other / "d.jpg", "pool", "lab")


def test_a_byte_order_mark_spaces_and_further_columns_do_no_harm(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "9, a.jpg ,1, 2,3.5,4, LY", header="\ufefftrustii_id,NAME,x1,y1,x2,y2,class")
    assert read_boxes([path]).row(0) == ("a.jpg", 1.0, 2.0, 3.5, 4.0, "LY")


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "NAME,x1,y1,x2,class",
            "a.jpg,1,2,3,LY",
            "has no column y2, only NAME, .*; its first line must name NAME,x1,y1",
        ),
        ("NAME,x1,y1,x2,y2,class", "a.jpg,1,2,3,4,XYZ", "'XYZ' is none of the 23 classes"),
        ("NAME,x1,y1,x2,y2,class", "a.jpg,1,2,3,4,", "'' is none of the 23 classes"),
        ("NAME,x1,y1,x2,y2,class", "a.jpg,1,2,three,4,LY", "1 rows .* not a number, the first on line 2"),
        ("NAME,x1,y1,x2,y2,class", "a.jpg,1,2,,4,LY", "1 rows .* not a number, the first on line 2"),
        ("NAME,x1,y1,x2,y2,class", "a.jpg,1,2,inf,4,LY", "1 rows .* not a number, the first on line 2"),
        ("NAME,x1,y1,x2,y2,class", ",1,2,3,4,LY", "1 rows without a NAME .* the first on line 2"),
        ("NAME,x1,y1,x2,y2,class", "\na.jpg,1,5,2,3,4,LY", "1 rows with more cells .* the first on line 3"),
    ],
)
def test_unusable_files_are_refused_with_the_reason(
    header: str, row: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(AnnotationError, match=message) as refusal:
        read_boxes([csv_of(tmp_path, row, header=header)])
    assert "boxes.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_files_that_are_absent_or_empty_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(AnnotationError, match=r"empty\.csv has no column NAME, .* only an empty first line"):
        read_boxes([tmp_path / "empty.csv"])
    with pytest.raises(AnnotationError, match=r"absent\.csv cannot be read as a CSV file"):
        read_boxes([tmp_path / "absent.csv"])
    with pytest.raises(AnnotationError, match="has a header and no rows"):
        read_boxes([csv_of(tmp_path)])
    with pytest.raises(AnnotationError, match="name at least one CSV file"):
        read_boxes([])


def test_missing_images_are_counted_and_one_is_named(tmp_path: Path, images: Path) -> None:
    path = csv_of(tmp_path, "a.jpg,1,2,3,4,LY", "y.jpg,1,2,3,4,LY", "z.jpg,1,2,3,4,LY")
    with pytest.raises(
        AnnotationError, match=r"2 of 3 annotated images are not in .*images \(first y\.jpg\)"
    ):
        read_annotations([path], [images])


def test_a_name_that_no_file_can_have_is_a_missing_image(tmp_path: Path, images: Path) -> None:
    path = csv_of(tmp_path, "a.jpg,1,2,3,4,LY", f"{'y' * 300}.jpg,1,2,3,4,LY")
    with pytest.raises(AnnotationError, match=r"1 of 2 annotated images are not in .*\(first yyy"):
        read_annotations([path], [images])


def test_the_real_smears_are_read_whole() -> None:
    smears = data_path("smears")
    paths = [smears / "val.csv", smears / "detection_only_val.csv"]
    found = read_annotations(paths, [smears / "images"], smears / "provenance.csv")
    assert len(found) == 393
    assert sum(len(image.labels) for image in found) == 396
    assert sum(label is None for image in found for label in image.labels) == 40
    assert {image.source for image in found} >= {"pbc", "bccd", "lmu_aml", "raabin_txl"}


def test_images_and_provenance_are_found_beside_each_csv(tmp_path: Path) -> None:
    for folder, has_provenance in (("lab", True), ("clinic", False)):
        (tmp_path / folder / "images").mkdir(parents=True)
        (tmp_path / folder / "images" / f"{folder}.jpg").touch()
        (tmp_path / folder / "train.csv").write_text(f"NAME,x1,y1,x2,y2,class\n{folder}.jpg,1,2,3,4,LY\n")
        if has_provenance:
            (tmp_path / folder / "provenance.csv").write_text(f"NAME,source\n{folder}.jpg,scanner\n")
    images = read_beside([tmp_path / "lab/train.csv", tmp_path / "clinic/train.csv"])
    assert [(image.name, image.source) for image in images] == [
        ("lab.jpg", "scanner"),
        ("clinic.jpg", "clinic"),
    ]


def test_pixels_are_those_of_the_one_decoder(smears: list[AnnotatedImage]) -> None:
    assert np.array_equal(read_pixels(smears[0]), decode(smears[0].path.read_bytes()))


def test_a_damaged_image_is_named(smears: list[AnnotatedImage], tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(smears[0].path.read_bytes()[:-2000])
    with pytest.raises(ImageRejected, match=rf"truncated: {path}: .*; copy") as refusal:
        read_pixels(replace(smears[0], path=path))
    assert refusal.value.reason == "truncated"


def test_images_are_known_again_by_source_name_boxes_and_classes() -> None:
    def image(name: str, source: str = "lab", folder: str = "here") -> AnnotatedImage:
        return AnnotatedImage(name, Path(folder, name), np.zeros((0, 4), np.float32), (), source)

    one, other = image("a.jpg"), image("b.jpg")
    digests = digests_of([one, other], [other])
    assert digests.keys() == {"training annotations", "validation annotations"}
    assert digests["training annotations"].startswith("2 images, sha256 ")
    assert digests_of([image("b.jpg", folder="there"), one, one], [other]) == digests
    boxed = replace(other, boxes_xyxy=np.float32([[1, 2, 3, 4]]), labels=("LY",))
    named = replace(boxed, labels=(None,))
    moved = replace(boxed, boxes_xyxy=np.float32([[1, 2, 3, 5]]))
    every = [digests_of([one, last], []) for last in (other, boxed, named, moved)]
    assert len({digests["training annotations"] for digests in every}) == 4
    for others in (
        [one],
        [one, image("c.jpg")],
        [one, image("b.jpg", "clinic")],
        [one, other, image("b.jpg")],
    ):
        assert digests_of(others, [other])["training annotations"] != digests["training annotations"]
        assert digests_of([one, other], others)["validation annotations"] != digests["validation annotations"]
