"""The images of an audit: looked at with the station's own decoder, and repaired where no pixel is lost."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import ImageRejected
from edge.geometry import Image
from edge.images import decode
from training.image_links import find_image, stays_inside

THUMBNAIL_PX = 32

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


@dataclass(frozen=True, slots=True, eq=False)
class LookedAt:
    """One image file.

    Attributes:
        sha256: of the bytes as they are, hexadecimal; empty if they cannot be read.
        size_wh: of the upright image, also of the repaired one; None if there is none.
        thumbnail: uint8 [32, 32] grey, the whole image squeezed into it; None as size_wh.
        refusal: what the decoder said of the file; None if it reads it.
        repair: what was done to `repaired`, bytes that the decoder does read; None if nothing could be done.
    """

    path: Path
    sha256: str
    size_wh: tuple[int, int] | None = None
    thumbnail: NDArray[np.uint8] | None = None
    refusal: str | None = None
    repair: str | None = None
    repaired: bytes | None = None


def look_at(path: Path) -> LookedAt:
    """Read one file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return LookedAt(path, "", refusal=f"it cannot be read ({error.strerror}); check its permissions")
    digest = hashlib.sha256(data).hexdigest()
    try:
        rgb = decode(data)
    except ImageRejected as error:
        mended = repair(data)
        if mended is None:
            return LookedAt(path, digest, refusal=str(error))
        what, repaired, rgb = mended
        return LookedAt(path, digest, _size_wh(rgb), _thumbnail(rgb), str(error), what, repaired)
    return LookedAt(path, digest, _size_wh(rgb), _thumbnail(rgb))


def look_at_all(paths: Sequence[Path]) -> Iterator[LookedAt]:
    """All files in order, on all cores: decoders let other threads run."""
    with ThreadPoolExecutor() as threads:
        yield from threads.map(look_at, paths)


def repair(data: bytes) -> tuple[str, bytes, Image] | None:
    """A JPEG whose pixels are all there, made readable; None for all else.

    Bytes before its start are cut off, and a missing end marker is put on (in place of zeros, if it ends
    with these). Nothing is coded anew. That no pixel is missing is for the decoder to say, which looks
    whether the code reaches the last block.

    Returns:
        What was done, the new bytes and their pixels, uint8 [H, W, 3] RGB.
    """
    start = data.find(_JPEG_START)
    if start < 0:
        return None
    body, done = data[start:], []
    if start:
        done.append(f"{start} foreign bytes before the image were cut off")
    attempts = [(done, body)]
    without_zeros = body.rstrip(b"\0")
    ending = f"in place of {len(body) - len(without_zeros)} zeros " if len(without_zeros) < len(body) else ""
    attempts.append(
        ([*done, f"the missing end marker was put on {ending}".rstrip()], without_zeros + _JPEG_END)
    )
    for steps, attempt in attempts:
        try:
            return " and ".join(steps), attempt, decode(attempt)
        except ImageRejected:
            continue
    return None


def find_images(names: Iterable[str], folders: Sequence[Path]) -> dict[str, Path]:
    """Where the images of these names are, those that are in one of the folders; the first one counts."""
    return {
        name: path
        for name in dict.fromkeys(names)
        if name and stays_inside(name) and (path := find_image(name, folders))
    }


def _size_wh(rgb: Image) -> tuple[int, int]:
    return rgb.shape[1], rgb.shape[0]


def _thumbnail(rgb: Image) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA).astype(np.uint8)
