"""Which images are timed."""

import errno
import os
from pathlib import Path

import pytest

from edge.bench.inputs import Drawing, draw_images, drawn_inputs, find_images, folder_inputs
from edge.demo.renderer import draw_tile
from edge.errors import BenchError, StationError
from edge.images import decode
from edge.overlay import encode_jpeg


def test_images_are_spread_over_their_folder(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.jpg").touch()
    assert [path.stem for path in find_images(tmp_path, 3)] == ["0", "3", "6"]
    assert [path.stem for path in find_images(tmp_path, 6)] == ["0", "1", "3", "5", "6", "8"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BenchError, match="holds no image"):
        find_images(tmp_path / "nothing", 3)


@pytest.mark.parametrize("refused", ["scandir", "access"])
def test_a_folder_that_may_not_be_read_or_entered_is_named(
    tmp_path: Path, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A double of the system, as root may do all."""
    locked = tmp_path / "sample" / "locked"
    locked.mkdir(parents=True)
    (tmp_path / "a.jpg").touch()
    scandir = os.scandir

    def scandir_but_one(path: str) -> object:
        if str(path) == str(locked):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    def access_but_one(path: object, *_: object, **__: object) -> bool:
        return str(path) != str(locked)

    monkeypatch.setattr(os, refused, {"scandir": scandir_but_one, "access": access_but_one}[refused])
    said = rf"{locked} cannot be read \(Permission denied\); correct its rights, or leave it out"
    with pytest.raises(StationError, match=said):
        find_images(tmp_path, 3)


def test_names_that_a_station_ignores_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / ".hidden above"
    for name in ("sample/a.jpg", "sample/@eaDir/a.jpg", ".b.jpg", "._a.jpg", ".trash/c/d.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert find_images(folder, 10) == [folder / "sample/a.jpg"]


def test_drawn_images_are_drawn_once_and_as_asked_for(tmp_path: Path) -> None:
    drawing = Drawing.parse("200x150:2")
    (path,) = draw_images(tmp_path, drawing, 1)
    assert decode(path.read_bytes()).shape == (150, 200, 3)
    before = path.stat().st_mtime_ns
    assert draw_images(tmp_path, drawing, 1) == [path]
    assert path.stat().st_mtime_ns == before
    assert [one.name for one in tmp_path.iterdir()] == ["200x150-2-0.jpg"]


@pytest.mark.parametrize("text", ["", "200x150", "200:2", "axb:c", "20x150:1", "200x10001:1", "200x150:1001"])
def test_what_cannot_be_drawn_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(BenchError, match=r"; give (WIDTH|sides)"):
        Drawing.parse(text)


def test_files_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(draw_tile(1).rgb))
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "c.jpg").mkdir()
    inputs = folder_inputs(tmp_path, 10)
    assert [path.name for path in inputs.paths] == ["a.jpg"]
    assert inputs.words == f"1 images of the folder {tmp_path.name}, without 1 that cannot be read"


def test_inputs_are_the_same_if_their_bytes_are(tmp_path: Path) -> None:
    small = Drawing((64, 64), 1)
    ours, theirs = (drawn_inputs(tmp_path / name, small) for name in "ab")
    assert ours.sha256 == theirs.sha256
    assert folder_inputs(tmp_path / "a", 100).sha256 == ours.sha256
    assert folder_inputs(tmp_path / "a", 3).sha256 != ours.sha256
