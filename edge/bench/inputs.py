"""The images that are timed: files of a folder, or smears drawn for it."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edge.demo.renderer import draw_field, draw_tile
from edge.errors import BenchError, ImageRejected
from edge.images import decode
from edge.names import name_of
from edge.overlay import encode_jpeg
from edge.progress import counted
from edge.walking import images_below

_LARGE_PX = 1_000_000
_LEAST_PX, _MOST_PX, _MOST_CELLS = 32, 10_000, 1000


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn: one leukocyte in the middle of a tile, or as many as are asked for in a field.

    Attributes:
        size_wh: width and height in pixels.
    """

    size_wh: tuple[int, int] = (360, 363)
    cells: int = 1

    @classmethod
    def parse(cls, text: str) -> "Drawing":
        """From "WIDTHxHEIGHT:CELLS".

        Raises:
            BenchError: it is nothing of the kind, or too large.
        """
        found = re.fullmatch(r"(\d+)x(\d+):(\d+)", text)
        if found is None:
            raise BenchError(
                f"{text!r} is no size and number of cells; give WIDTHxHEIGHT:CELLS, like 2592x1944:20."
            )
        width, height, cells = map(int, found.groups())
        if min(width, height) < _LEAST_PX or max(width, height) > _MOST_PX or cells > _MOST_CELLS:
            raise BenchError(
                f"{text!r} cannot be drawn; give sides from {_LEAST_PX} to {_MOST_PX} px and at "
                f"most {_MOST_CELLS} cells."
            )
        return cls((width, height), cells)

    def __str__(self) -> str:
        cells = f"{self.cells} cell{'' if self.cells == 1 else 's'}"
        return f"{self.size_wh[0]}x{self.size_wh[1]} px with {cells}"

    @property
    def count(self) -> int:
        """How many different ones are enough: drawing a large one takes a second."""
        return 4 if self.size_wh[0] * self.size_wh[1] > _LARGE_PX else 16


@dataclass(frozen=True, slots=True)
class Inputs:
    """Images for a measurement; all of them can be read.

    Attributes:
        words: what they are.
        sha256: of all their bytes in any order: two measurements know by it whether they saw the same images.
    """

    paths: tuple[Path, ...]
    words: str
    sha256: str


def folder_inputs(folder: Path, count: int) -> Inputs:
    """Up to `count` images of a folder and its sub-folders; those that cannot be read are left out.

    Raises:
        BenchError: there is none that can be read.
    """
    paths = find_images(folder, count)
    readable, reason = [], ""
    for path in paths:
        try:
            decode(path.read_bytes())
        except ImageRejected as error:
            reason = error.reason
        except OSError as error:
            reason = error.strerror or "unreadable"
        else:
            readable.append(path)
    name = name_of(folder)
    words = f"{len(paths)} images of the folder {name}"
    if not readable:
        raise BenchError(f"None of the {words} could be read ({reason}); give others.")
    if len(readable) < len(paths):
        left_out = len(paths) - len(readable)
        words = f"{len(readable)} images of the folder {name}, without {left_out} that cannot be read"
    return _inputs(readable, words)


def drawn_inputs(folder: Path, drawing: Drawing) -> Inputs:
    """Drawn smears, as JPEG files in an empty folder."""
    words = f"{drawing.count} drawn images of {drawing}"
    return _inputs(draw_images(folder, drawing, drawing.count), words)


def _inputs(paths: Sequence[Path], words: str) -> Inputs:
    each = sorted(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    return Inputs(tuple(paths), words, hashlib.sha256(b"".join(each)).hexdigest())


def find_images(folder: Path, count: int) -> list[Path]:
    """Up to `count` images spread over a folder by name; what a station never looks at is left out.

    Raises:
        BenchError: it holds none.
        StationError: it, or a folder in it, may not be read.
    """
    paths = images_below(folder)
    if not paths:
        raise BenchError(f"{folder} holds no image; give a folder of smear images, or none for drawn ones.")
    count = min(count, len(paths))
    return [paths[number * len(paths) // count] for number in range(count)]


def draw_images(folder: Path, drawing: Drawing, count: int) -> list[Path]:
    """Drawn smears as JPEG files; those that are there already are used again."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = drawing.size_wh
    paths = []
    for seed in counted(range(count), "drawing smears", Console(stderr=True)):
        path = folder / f"{width}x{height}-{drawing.cells}-{seed}.jpg"
        if not path.exists():
            if drawing.cells == 1:
                smear = draw_tile(seed, size_wh=drawing.size_wh)
            else:
                smear = draw_field(seed, drawing.cells, drawing.size_wh)
            partial = path.with_suffix(".part")
            partial.write_bytes(encode_jpeg(smear.rgb))
            partial.replace(path)
        paths.append(path)
    return paths
