"""Annotated copies."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.cells import Finding
from edge.overlay import annotate, save_overlay
from edge.records import State
from edge.tasks import ImageResult
from tests.edge.desk.bench import Bench


def finding(*box: float, label: str = "LY") -> Finding:
    return Finding(tuple(map(float, box)), label, 0.9, 0.8, {label: 0.8})


def test_the_box_is_drawn_in_the_colour_of_the_lineage_and_the_original_is_kept() -> None:
    rgb = np.full((300, 400, 3), 200, np.uint8)
    rgb.flags.writeable = False  # as the decoder gives it
    picture = annotate(rgb, [finding(100, 120, 200, 220), finding(250, 120, 350, 220, label="MO")])
    assert picture[170, 100].tolist() == [230, 159, 0]
    assert picture[170, 250].tolist() == [0, 114, 178]
    assert (picture[130:210, 110:190] == 200).all()  # the cell itself stays clear
    assert (rgb == 200).all()


def test_labels_stay_inside_the_picture() -> None:
    rgb = np.full((120, 160, 3), 200, np.uint8)
    for corner in ((0, 0), (150, 0), (0, 110), (150, 110)):
        x, y = corner
        picture = annotate(rgb, [finding(x, y, x + 9, y + 9)])
        assert picture.shape == rgb.shape
        assert (picture != rgb).any(2).sum() > 300


def test_a_cell_at_the_border_is_not_covered_and_has_four_lines() -> None:
    rgb = np.full((300, 300, 3), 200, np.uint8)
    for x, y in ((0, 0), (200, 0), (0, 200), (200, 200)):
        picture = annotate(rgb, [finding(x, y, x + 100, y + 100, label="MO")])
        for row, column in ((y, x + 50), (y + 99, x + 50), (y + 50, x), (y + 50, x + 99)):
            assert picture[row, column].tolist() == [0, 114, 178]
        assert (picture[y + 3 : y + 97, x + 3 : x + 97] == 200).all()


def test_labels_cover_no_other_cell_and_no_other_label() -> None:
    rgb = np.full((900, 900, 3), 200, np.uint8)
    alone = [
        finding(400, 400, 460, 460, label="MO"),
        finding(400, 300, 460, 380),
        finding(330, 465, 390, 525),
    ]
    written = [int((annotate(rgb, [one]) != rgb).any(2).sum()) for one in alone]
    together = annotate(rgb, alone)
    assert (together != rgb).any(2).sum() == sum(written)
    for one in alone:
        x1, y1, x2, y2 = (int(value) for value in one.box_xyxy)
        assert (together[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3] == 200).all()


@pytest.mark.parametrize(("label", "ink"), [("LY", 0), ("PNN", 0), ("MBL", 0), ("MO", 255), ("Er", 255)])
def test_letters_have_the_contrast_that_their_strip_allows(label: str, ink: int) -> None:
    """At least 4.5, as the Web Content Accessibility Guidelines ask of text."""
    picture = annotate(np.full((900, 900, 3), 200, np.uint8), [finding(400, 400, 500, 500, label=label)])
    strip = picture[375:398, 400:430].reshape(-1, 3).astype(float) / 255
    light = np.where(strip <= 0.04045, strip / 12.92, ((strip + 0.055) / 1.055) ** 2.4) @ (
        0.2126,
        0.7152,
        0.0722,
    )
    assert (strip * 255 == ink).all(1).any()
    assert (light.max() + 0.05) / (light.min() + 0.05) > 4.5


def test_copies_of_samples_with_equal_names_do_not_meet(tmp_path: Path) -> None:
    rgb = np.zeros((40, 50, 3), np.uint8)
    for sample in ("", "a", "a/b"):
        result = ImageResult(Path("/in/x.png"), sample, State.DONE, is_new=True, rgb=rgb)
        save_overlay(tmp_path, result)
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert made == ["a/b/x.png.jpg", "a/x.png.jpg", "x.png.jpg"]
    with Image.open(tmp_path / "a/x.png.jpg") as picture:
        assert picture.size == (50, 40)


def test_an_image_that_is_longer_than_a_jpeg_gets_no_copy_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rgb = np.zeros((1, 65_501, 3), np.uint8)
    save_overlay(tmp_path, ImageResult(Path("/in/x.png"), "", State.EMPTY, is_new=True, rgb=rgb))
    assert list(tmp_path.iterdir()) == []
    assert "cannot be written or removed (65501 px are more than a JPEG's 65500)" in caplog.text


def test_an_image_that_was_not_read_gets_no_copy(tmp_path: Path) -> None:
    save_overlay(tmp_path, ImageResult(Path("x.jpg"), "", State.REJECTED, "empty", is_new=True))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.restart(keep_pixels=True)
    yield bench
    bench.close()


@pytest.mark.parametrize("status", [State.DUPLICATE, State.REJECTED])
def test_the_copy_of_a_version_goes_when_the_next_is_not_read(bench: Bench, status: State) -> None:
    folder = bench.folder / "annotated"
    bench.put("a.png")
    bench.put("b.png", 100)
    for name in ("a.png", "b.png"):
        save_overlay(folder, bench.process(name))
    if status is State.REJECTED:
        bench.path("a.png").write_bytes(b"notes")
    else:
        bench.put("a.png", 100)
    result = bench.process("a.png")
    save_overlay(folder, result)
    assert result.status is status
    assert [path.name for path in folder.iterdir()] == ["b.png.jpg"]


def test_the_copy_of_a_version_goes_when_the_next_stops_the_station(bench: Bench) -> None:
    folder = bench.folder / "annotated"
    bench.put("a.png")
    save_overlay(folder, bench.process("a.png"))
    bench.put("a.png", 100)
    for _ in range(3):
        bench.pipeline.error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            bench.process("a.png")
        bench.restart(keep_pixels=True)
    result = bench.process("a.png")
    save_overlay(folder, result)
    assert result.reason == "the station ended while it read the image (3 times)"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("another_between", [False, True])
def test_the_copy_of_a_file_that_could_not_be_read_for_a_while_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, another_between: bool
) -> None:
    folder = bench.folder / "annotated"
    bench.put("a.png")
    save_overlay(folder, bench.process("a.png"))
    data = bench.path("a.png").read_bytes()
    if another_between:  # whose copy it is then
        bench.put("a.png", 100)
        save_overlay(folder, bench.process("a.png"))
    bench.path("a.png").unlink()
    bench.path("a.png").write_bytes(data)  # restored: another inode and time
    with monkeypatch.context() as withheld:

        def refuse(*_: object) -> None:
            raise PermissionError

        withheld.setattr("edge.opening._read_regular", refuse)
        result = bench.process("a.png")
        save_overlay(folder, result)
    assert (result.status, result.is_new) == (State.FAILED, True)
    result = bench.process("a.png")
    save_overlay(folder, result)
    assert (result.status, result.is_new) == (State.DUPLICATE, True)
    assert (folder / "a.png.jpg").exists() is not another_between


def test_the_copy_of_a_file_that_was_moved_with_its_folder_stays(bench: Bench) -> None:
    folder = bench.folder / "annotated"
    bench.put("a.png")
    save_overlay(folder, bench.process("a.png"))
    bench.path("").rename(bench.folder / "moved")
    result = bench.desk.process(bench.folder / "moved/a.png")
    save_overlay(folder, result)
    assert (result.status, result.is_new) == (State.DUPLICATE, True)
    assert (folder / "a.png.jpg").exists()
