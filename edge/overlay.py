"""Annotated copies: a smear image with its findings drawn into it, for eyes."""

import errno
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.cells import Finding, Lineage, cell_class

if TYPE_CHECKING:
    from edge.tasks import ImageResult

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Region = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels; right and bottom are the first beyond it."""

_COLOUR_RGB = {
    Lineage.GRANULOCYTE: (0, 158, 115),
    Lineage.MONOCYTE: (0, 114, 178),
    Lineage.LYMPHOCYTE: (230, 159, 0),
    Lineage.BLAST: (213, 94, 0),
    Lineage.OTHER: (95, 95, 95),
}
"""Okabe and Ito's palette, which colour-blind eyes tell apart too."""
_LIGHTNESS, _LIGHT = (0.299, 0.587, 0.114), 100
"""Of a colour, as eyes weigh its channels; on lighter ones black letters have more contrast than white."""

_LONGEST_SIDE_PX = 65_500


def annotate(rgb: Image, findings: Sequence[Finding]) -> Image:
    """A copy with a box and a label at each finding, uint8 [H, W, 3] RGB.

    A label lies where it covers least of the other cells and labels.
    Lines and letters grow with the image, so that a 5-megapixel field stays legible when it is shrunk.
    """
    picture = np.array(rgb)
    scale = max(max(rgb.shape[:2]) / 900, 0.7)
    taken = [_whole(finding) for finding in findings]
    colours = [_COLOUR_RGB[cell_class(finding.label).lineage] for finding in findings]
    for (left, top, right, bottom), colour in zip(taken, colours, strict=True):
        last_pixel = (max(right - 1, left), max(bottom - 1, top))
        cv2.rectangle(picture, (left, top), last_pixel, colour, max(round(2 * scale), 1))
    for finding, colour in zip(findings, colours, strict=True):
        text = f"{finding.label} {finding.class_score:.0%}"
        taken.append(_label(picture, text, _whole(finding), colour, scale, taken))
    return picture


def _whole(finding: Finding) -> Region:
    left, top, right, bottom = (round(value) for value in finding.box_xyxy)
    return left, top, right, bottom


def _label(
    picture: Image, text: str, box: Region, colour: tuple[int, int, int], scale: float, taken: list[Region]
) -> Region:
    """Write on a filled strip above, below or beside a box, where it covers least of what is taken.

    Returns:
        Where the strip lies.
    """
    font, size, thickness = cv2.FONT_HERSHEY_DUPLEX, 0.6 * scale, max(round(scale), 1)
    (width, letters), base = cv2.getTextSize(text, font, size, thickness)
    height = letters + base + round(4 * scale)
    x1, y1, x2, y2 = box
    corners = [
        *((x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2)),
        *((x2, y1), (x1 - width, y1), (x2, y2 - height), (x1 - width, y2 - height)),
    ]
    lowest, rightmost = (
        max(side - own, 0) for side, own in zip(picture.shape, (height, width), strict=False)
    )
    inside = [(min(max(x, 0), rightmost), min(max(y, 0), lowest)) for x, y in corners]
    strips = np.array([(x, y, x + width, y + height) for x, y in inside])
    left, top = inside[int(_overlaps(strips, np.array(taken)).sum(1).argmin())]
    cv2.rectangle(picture, (left, top), (left + width, top + height - 1), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, _LIGHTNESS) > _LIGHT else (255, 255, 255)
    cv2.putText(picture, text, (left, top + height - base), font, size, ink, thickness, cv2.LINE_AA)
    return left, top, left + width, top + height


def _overlaps(some: NDArray[np.int_], others: NDArray[np.int_]) -> NDArray[np.int_]:
    """Common pixels of each two regions, [n, 4] and [m, 4] → [n, m]."""
    begin = np.maximum(some[:, None, :2], others[None, :, :2])
    end = np.minimum(some[:, None, 2:], others[None, :, 2:])
    areas: NDArray[np.int_] = (end - begin).clip(0).prod(2)
    return areas


def encode_jpeg(rgb: Image) -> bytes:
    """JPEG bytes of uint8 [H, W, 3] RGB, of quality 90.

    Raises:
        OSError: a side is longer than libjpeg writes.
    """
    if (side_px := max(rgb.shape)) > _LONGEST_SIDE_PX:  # OpenCV gives no bytes for it, and no error
        raise OSError(errno.EFBIG, f"{side_px} px are more than a JPEG's {_LONGEST_SIDE_PX}")
    return bytes(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def save_overlay(folder: Path, result: "ImageResult") -> None:
    """Save the annotated copy of an image that was read, as `folder/sample/name.jpg`; whole or not at all.

    A new version that gets none of its own takes away the copy of the one before; a file that cannot be read
    does not. A copy is no promise: one that cannot be written or removed is logged, and the rows stand
    without it.
    """
    if not result.is_new or (result.rgb is None and not result.is_new_version):
        return
    target = folder / result.sample / f"{result.path.name}.jpg"
    partial = target.with_name(f".{target.name}.part")
    try:
        if result.rgb is None:
            target.unlink(missing_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(encode_jpeg(annotate(result.rgb, result.findings)))
        partial.replace(target)
    except OSError as error:
        log.error("The annotated copy %r cannot be written or removed (%s).", str(target), error.strerror)
