"""Faults of images: drawn smears damaged, copied, coded anew, turned, lost and forgotten."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.images import decode
from tests.real_files import data_path
from tests.training.damaged_smears import jpeg, rgb, write_csv, write_images
from tests.training.test_audit import lines_of, rows_of, run
from training.annotations import read_annotations, read_beside, read_boxes
from training.apart import kinship
from training.audit.duplicates import near_duplicates
from training.audit.looking import look_at, repair
from training.image_links import link_images

pytestmark = pytest.mark.usefixtures("no_charts")

BOX = "40,30,110,100"


def faults(out: Path) -> list[tuple[str, str, str]]:
    return [(one["NAME"], one["action"], one["fault"]) for one in rows_of(out / "changes.csv")]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: data[:-2], "the missing end marker was put on"),
        (lambda data: data[:-2] + bytes(300), "the missing end marker was put on in place of 300 zeros"),
        (lambda data: b"HTTP/1.1 200\r\n\r\n" + data, "16 foreign bytes before the image were cut off"),
        (
            lambda data: b"\0\0" + data[:-2],
            "2 foreign bytes before the image were cut off and the missing end marker was put on",
        ),
    ],
)
def test_a_jpeg_with_all_its_pixels_is_repaired_beside_the_original(
    damage, what: str, tmp_path: Path
) -> None:
    whole = jpeg(rgb(0))
    images = write_images(tmp_path / "images", a=damage(whole), b=jpeg(rgb(1)))
    damaged = (images / "a.jpg").read_bytes()
    path = write_csv(tmp_path / "boxes.csv", f"a.jpg,{BOX},LY", f"b.jpg,{BOX},LY")
    assert run(path, "--out", tmp_path / "out").exit_code == 0
    (change,) = rows_of(tmp_path / "out/changes.csv")
    assert (change["NAME"], change["fault"], change["reason"]) == ("a.jpg", "repaired image", what)
    copy = tmp_path / "out/cleaned/images/a.jpg"
    assert np.array_equal(decode(copy.read_bytes()), decode(whole))
    assert not copy.is_symlink()
    assert (images / "a.jpg").read_bytes() == damaged
    assert (tmp_path / "out/cleaned/images/b.jpg").resolve() == images / "b.jpg"
    assert [image.name for image in read_beside([tmp_path / "out/cleaned/boxes.csv"])] == ["a.jpg", "b.jpg"]


def test_another_audit_into_the_same_folder_leaves_originals_alone(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", a=jpeg(rgb(0)))
    path = write_csv(tmp_path / "boxes.csv", f"a.jpg,{BOX},LY")
    run(path, "--out", tmp_path / "out")
    damaged = jpeg(rgb(0))[:-2]
    (images / "a.jpg").write_bytes(damaged)
    assert run(path, "--out", tmp_path / "out").exit_code == 0
    assert (images / "a.jpg").read_bytes() == damaged
    assert np.array_equal(decode((tmp_path / "out/cleaned/images/a.jpg").read_bytes()), decode(jpeg(rgb(0))))
    result = run(path, "--out", images)
    assert "give an empty folder" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"no image", lambda data: b""]
)
def test_an_image_without_all_its_pixels_is_not_repaired(damage, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", a=damage(jpeg(rgb(0))), b=jpeg(rgb(1)))
    assert repair((images / "a.jpg").read_bytes()) is None
    path = write_csv(tmp_path / "boxes.csv", f"a.jpg,{BOX},LY", f"b.jpg,{BOX},LY")
    run(path, "--out", tmp_path / "out")
    assert faults(tmp_path / "out") == [("a.jpg", "dropped", "unreadable image")]
    assert lines_of(tmp_path / "out/cleaned/boxes.csv") == [f"b.jpg,{BOX},LY"]
    assert not (tmp_path / "out/cleaned/images/a.jpg").exists()
    told = {row["NAME"]: row["status"] for row in rows_of(tmp_path / "out/images.csv")}
    assert told == {"a.jpg": "unreadable", "b.jpg": "whole"}


def test_bytes_that_a_decoder_skips_are_no_fault(tmp_path: Path) -> None:
    whole = jpeg(rgb(0))
    images = write_images(tmp_path / "images", a=whole[:-2] + bytes(range(1, 28)) + whole[-2:])
    assert np.array_equal(decode((images / "a.jpg").read_bytes()), decode(whole))
    run(write_csv(tmp_path / "boxes.csv", f"a.jpg,{BOX},LY"), "--out", tmp_path / "out")
    assert faults(tmp_path / "out") == []


def test_rows_without_images_are_dropped_and_images_without_rows_told(tmp_path: Path) -> None:
    write_images(tmp_path / "images", b=jpeg(rgb(1)), c=jpeg(rgb(2)))
    rows = (f"a.jpg,{BOX},LY", f"b.jpg,{BOX},LY", f"../images/c.jpg,{BOX},LY")
    run(write_csv(tmp_path / "boxes.csv", *rows), "--out", tmp_path / "out")
    assert faults(tmp_path / "out") == [
        ("a.jpg", "dropped", "row without an image"),
        ("../images/c.jpg", "dropped", "row without an image"),  # a name that leads out of the folder
        ("c.jpg", "kept", "image without rows"),
    ]


def test_images_in_sub_folders_are_looked_at_and_hidden_ones_are_not(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", a=jpeg(rgb(0)))
    write_images(images / "p1", b=jpeg(rgb(1)), c=jpeg(rgb(0), quality=40), **{"._b": b"a file of macOS"})
    path = write_csv(tmp_path / "boxes.csv", f"a.jpg,{BOX},LY")
    assert run(path, tmp_path / "images", "--out", images / "audit").exit_code == 0
    told = [
        ("p1/c.jpg", "kept", "near-duplicate image"),
        ("p1/b.jpg", "kept", "image without rows"),
        ("p1/c.jpg", "kept", "image without rows"),
    ]
    assert faults(images / "audit") == told
    assert (images / "audit/report.html").read_text("utf-8").count("data:image/jpeg") == 4
    run(path, tmp_path / "images", "--out", images / "audit")
    assert faults(images / "audit") == told  # and not the images that it has itself written


def test_boxes_over_all_borders_are_clipped_to_the_image(tmp_path: Path) -> None:
    write_images(tmp_path / "images", a=jpeg(rgb(0)))
    rows = ("a.jpg,-5,-6,70,80,LY", "a.jpg,120,100,230,190,MO", "a.jpg,201,10,260,90,PNN")
    run(write_csv(tmp_path / "boxes.csv", *rows), "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out/cleaned/boxes.csv") == ["a.jpg,0,0,70,80,LY", "a.jpg,120,100,200,180,MO"]
    assert ("a.jpg", "dropped", "outside the image") in faults(tmp_path / "out")


def test_a_copy_in_the_later_file_is_dropped_and_a_disagreement_told(tmp_path: Path) -> None:
    data = jpeg(rgb(0))
    write_images(tmp_path / "val/images", v=data, w=jpeg(rgb(1)))
    write_images(tmp_path / "train/images", t=data, u=jpeg(rgb(1)), s=jpeg(rgb(2)))
    val = write_csv(tmp_path / "val/boxes.csv", f"v.jpg,{BOX},LY", f"w.jpg,{BOX},LY")
    rows = (f"t.jpg,{BOX},LY", f"u.jpg,{BOX},MO", f"s.jpg,{BOX},MO")
    train = write_csv(tmp_path / "train/boxes.csv", *rows)
    run(val, train, "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out/cleaned/val-boxes.csv") == [f"v.jpg,{BOX},LY", f"w.jpg,{BOX},LY"]
    assert lines_of(tmp_path / "out/cleaned/train-boxes.csv") == [rows[2]]
    assert faults(tmp_path / "out") == [
        ("t.jpg", "dropped", "copy of an image"),
        ("u.jpg", "dropped", "copy of an image"),
        ("u.jpg", "kept", "copies that disagree"),
    ]
    groups = {row["NAME"]: row["duplicate_group"] for row in rows_of(tmp_path / "out/images.csv")}
    assert groups == {"v.jpg": "v.jpg", "t.jpg": "v.jpg", "w.jpg": "w.jpg", "u.jpg": "w.jpg", "s.jpg": ""}


def test_two_images_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    for place, folder in enumerate(("north", "south")):
        write_images(tmp_path / folder / "images", a=jpeg(rgb(place)))
        write_csv(tmp_path / folder / "boxes.csv", f"a.jpg,{BOX},LY")
    result = run(tmp_path / "north/boxes.csv", tmp_path / "south/boxes.csv", "--out", tmp_path / "out")
    assert result.exit_code == 78
    assert "are two images of one NAME; rename one of them" in " ".join(result.output.split())
    assert not any((tmp_path / "out").iterdir())


def test_an_image_whose_place_is_taken_changes_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "images", a=jpeg(rgb(0)), b=jpeg(rgb(1)))
    path = write_csv(tmp_path / "boxes.csv", f"a.jpg,{BOX},LY")
    run(path, "--out", tmp_path / "out")
    write_images(tmp_path / "out/cleaned/images", b=jpeg(rgb(2)))
    before = {one: one.read_bytes() for one in (tmp_path / "out").rglob("*") if one.is_file()}
    result = run(write_csv(path, f"a.jpg,{BOX},LY", f"b.jpg,{BOX},LY"), "--out", tmp_path / "out")
    assert result.exit_code == 78
    assert "whose place it has; give an empty folder" in " ".join(result.output.split())
    assert {one: one.read_bytes() for one in (tmp_path / "out").rglob("*") if one.is_file()} == before


CHANGED = {
    "coded anew": lambda pixels: decode(jpeg(pixels, quality=40)),
    "resized": lambda pixels: cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA),
    "cut": lambda pixels: pixels[3:-3, 3:-3],
    "brighter": lambda pixels: np.clip(pixels.astype(int) + 12, 0, 255).astype(np.uint8),
    "mirrored": lambda pixels: pixels[:, ::-1],
    "turned": lambda pixels: np.rot90(pixels),
    "upside down": lambda pixels: pixels[::-1],
}


@pytest.mark.parametrize("how", CHANGED)
def test_a_changed_copy_is_found_and_no_other_cell_taken_for_it(how: str, tmp_path: Path) -> None:
    files = {f"a{seed}": jpeg(rgb(seed)) for seed in range(6)}
    images = write_images(tmp_path / "images", **files, z=jpeg(CHANGED[how](rgb(3))))
    rows = [f"{path.name},{BOX},LY" for path in sorted(images.iterdir())]
    run(write_csv(tmp_path / "boxes.csv", *rows), "--out", tmp_path / "out")
    assert faults(tmp_path / "out") == [("z.jpg", "kept", "near-duplicate image")]
    (change,) = rows_of(tmp_path / "out/changes.csv")
    assert change["reason"].startswith("it looks like a3.jpg")
    told = {row["NAME"]: row["duplicate_group"] for row in rows_of(tmp_path / "out/cleaned/provenance.csv")}
    assert {name for name, group in told.items() if group} == {"a3.jpg", "z.jpg"}
    assert told["a3.jpg"] == told["z.jpg"]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2


def told_groups(out: Path) -> dict[str, str]:
    return {row["NAME"]: row["duplicate_group"] for row in rows_of(out / "cleaned/provenance.csv")}


def test_groups_that_were_given_stay_and_take_in_what_is_found(tmp_path: Path) -> None:
    files = {"a": jpeg(rgb(0)), "b": jpeg(rgb(1)), "c": jpeg(rgb(2)), "d": jpeg(rgb(3)), "e": jpeg(rgb(4))}
    write_images(tmp_path / "images", **files, f=jpeg(rgb(0), quality=40), g=jpeg(rgb(2)))
    names = [f"{name}.jpg" for name in "abcdefg"]
    path = write_csv(tmp_path / "boxes.csv", *(f"{name},{BOX},LY" for name in names))
    # a and f look alike; g has the bytes of c, which stays.
    given = ("b.jpg,lab,slide", "a.jpg,lab,slide", "d.jpg,lab,other", "g.jpg,lab,other")
    write_csv(tmp_path / "provenance.csv", *given, header="NAME,source,duplicate_group")
    assert run(path, "--out", tmp_path / "out").exit_code == 0
    told = {**dict.fromkeys(("a.jpg", "b.jpg", "f.jpg"), "slide"), "c.jpg": "other", "d.jpg": "other"}
    assert told_groups(tmp_path / "out") == {**told, "e.jpg": ""}
    listed = {row["NAME"]: row["duplicate_group"] for row in rows_of(tmp_path / "out/images.csv")}
    assert listed == {**told, "e.jpg": "", "g.jpg": "other"}
    run(path, "--out", tmp_path / "unseen", "--without-images")
    assert told_groups(tmp_path / "unseen")["b.jpg"] == "slide"


def test_a_dropped_copy_still_ties_its_patient_to_the_image_that_stays(tmp_path: Path) -> None:
    """Else other images of the patient would be trained on, and nobody would know."""
    files = {"copy": jpeg(rgb(0)), "p7": jpeg(rgb(1)), "p8": jpeg(rgb(2)), "q8": jpeg(rgb(4))}
    write_images(tmp_path / "val/images", v=files["copy"], w=jpeg(rgb(3)))
    write_images(tmp_path / "train/images", **files, twin=files["p8"])
    val = write_csv(tmp_path / "val/val.csv", f"v.jpg,{BOX},LY", f"w.jpg,{BOX},LY")
    write_csv(tmp_path / "val/provenance.csv", "v.jpg,A,7", "w.jpg,A,7", header="NAME,source,patient")
    names = ("copy", "p7", "p8", "q8", "twin")
    train = write_csv(tmp_path / "train/train.csv", *(f"{name}.jpg,{BOX},LY" for name in names))
    given = ("copy.jpg,B,7", "p7.jpg,B,7", "p8.jpg,B,8", "q8.jpg,B,8", "twin.jpg,B,8")
    write_csv(tmp_path / "train/provenance.csv", *given, header="NAME,source,patient")
    run(val, train, "--out", tmp_path / "out")
    # The patient of the twin, too, is known without it.
    told = {"v.jpg": "v.jpg", "w.jpg": "", "p7.jpg": "v.jpg", "p8.jpg": "p8.jpg", "q8.jpg": ""}
    assert told_groups(tmp_path / "out") == told
    trained_on, judged_by = (read_beside([tmp_path / f"out/cleaned/{name}.csv"]) for name in ("train", "val"))
    assert kinship(trained_on, judged_by).startswith("2 of 2 validation images share a patient")


def test_groups_of_two_folders_have_names_of_their_own(tmp_path: Path) -> None:
    for place, folder in enumerate(("p1", "p2")):
        files = {"001": jpeg(rgb(place)), "002": jpeg(rgb(place), quality=40)}
        write_images(tmp_path / "images" / folder, **files)
    names = [f"{folder}/{name}.jpg" for folder in ("p1", "p2") for name in ("001", "002")]
    run(write_csv(tmp_path / "boxes.csv", *(f"{name},{BOX},LY" for name in names)), "--out", tmp_path / "out")
    assert told_groups(tmp_path / "out") == {name: f"{name[:2]}/001.jpg" for name in names}


def test_images_of_one_grey_level_look_like_nothing() -> None:
    assert near_duplicates([np.full((32, 32), grey, np.uint8) for grey in (0, 90, 90)]) == []
    assert near_duplicates([]) == []


def test_a_folder_may_be_named_and_images_left_alone(tmp_path: Path) -> None:
    images = write_images(tmp_path / "elsewhere", a=jpeg(rgb(0)), b=b"no image")
    path = write_csv(tmp_path / "boxes.csv", f"a.jpg,{BOX},LY", f"b.jpg,{BOX},LY")
    run(path, images, "--out", tmp_path / "seen")
    assert faults(tmp_path / "seen") == [("b.jpg", "dropped", "unreadable image")]
    images.rename(tmp_path / "images")
    result = run(path, "--out", tmp_path / "unseen", "--without-images")
    assert faults(tmp_path / "unseen") == []
    assert "No images of boxes.csv were looked at" in " ".join(result.output.split())
    assert not (tmp_path / "unseen/images.csv").exists()


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    assert look_at(tmp_path / "a.jpg").refusal == "it cannot be read (Is a directory); check its permissions"


def test_real_smears_have_no_fault_and_stay_as_they_are(tmp_path: Path) -> None:
    smears = data_path("smears")
    images = {path.name: path for path in map(smears.joinpath, paths_in(smears / "val.csv"))}
    link_images(images, tmp_path / "images")
    result = run(smears / "val.csv", tmp_path / "images", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert faults(tmp_path / "out") == []
    cleaned = tmp_path / "out/cleaned"
    assert read_boxes([cleaned / "val.csv"]).equals(read_boxes([smears / "val.csv"]))
    found = read_annotations([cleaned / "val.csv"], [cleaned / "images"], cleaned / "provenance.csv")
    assert len(found) == 354
    assert {image.source for image in found} == {"pbc", "bccd", "lmu_aml", "sidhom_apl"}


def paths_in(annotations: Path) -> list[str]:
    return [f"images/{row['NAME']}" for row in rows_of(annotations)]
