"""The images of an acceptance run. Its report knows them by number: no patient's file name goes out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from build_engines.errors import BuildError
from build_engines.reference import spread
from edge.demo.renderer import draw_field, draw_tile
from edge.errors import ImageRejected
from edge.images import decode
from edge.overlay import encode_jpeg
from edge.progress import counted
from edge.walking import images_below

_DRAWN_TILES = 48
_DRAWN_FIELDS = 2
"""Their many cells go through the engines of the larger batches."""


@dataclass(frozen=True, slots=True)
class KnownImages:
    """Images that can be decoded.

    Attributes:
        names: as the report calls them.
        sources: the file of each, or its bytes.
        words: what they are.
    """

    names: tuple[str, ...]
    sources: tuple[Path | bytes, ...]
    words: str

    def __len__(self) -> int:
        return len(self.names)

    def data(self, index: int) -> bytes:
        """The bytes of an image.

        Raises:
            BuildError: the file cannot be read any more; the message does not name it.
        """
        source = self.sources[index]
        if isinstance(source, bytes):
            return source
        try:
            return source.read_bytes()
        except OSError as error:
            raise BuildError(
                f"{self.names[index]} cannot be read any more ({error.strerror}); leave the folder alone "
                "until the run has ended."
            ) from error

    def rgb(self, index: int) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 [H, W, 3] RGB."""
        return decode(self.data(index))

    def spread(self, most: int) -> list[int]:
        """Indices of up to `most` images, evenly over all."""
        return spread(len(self), most)


def drawn_images() -> KnownImages:
    """Drawn smears: tiles with a cell or two, and fields with many."""
    tiles = [f"drawn smear {seed}" for seed in range(100, 100 + _DRAWN_TILES)]
    fields = [f"drawn field {seed}" for seed in range(_DRAWN_FIELDS)]
    rgbs: Iterator[NDArray[np.uint8]] = (draw_tile(100 + number).rgb for number in range(_DRAWN_TILES))
    data = [encode_jpeg(rgb) for rgb in rgbs]
    data += [encode_jpeg(draw_field(seed).rgb) for seed in range(_DRAWN_FIELDS)]
    words = f"{_DRAWN_TILES} drawn smears and {_DRAWN_FIELDS} drawn fields"
    return KnownImages((*tiles, *fields), tuple(data), words)


def images_of(folder: Path, console: Console) -> KnownImages:
    """The smear images of a folder and its sub-folders, by number in the order of their names.

    Raises:
        BuildError: none can be read.
    """
    paths = images_below(folder)
    names, readable = [], []
    for number, path in enumerate(counted(paths, "looking through the images", console), start=1):
        try:
            decode(path.read_bytes())
        except (ImageRejected, OSError) as error:
            console.print(f"{path.name} is left out: {error}", markup=False, soft_wrap=True)
            continue
        names.append(f"image {number}")
        readable.append(path)
    if not readable:
        raise BuildError(
            f"None of the {len(paths)} images of --images can be read; give a folder of smear images, or "
            "none for drawn ones."
        )
    left_out = f" ({len(paths) - len(readable)} could not be read)" if len(paths) > len(readable) else ""
    return KnownImages(tuple(names), tuple(readable), f"{len(readable)} smear images{left_out}")
