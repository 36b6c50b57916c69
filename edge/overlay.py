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

    Lines and letters grow with the image, so that a 5-megapixel field stays legible when it is shrunk.
    """
    picture = np.array(rgb)
    scale = max(max(rgb.shape[:2]) / 900, 0.7)
    line_px = max(round(2 * scale), 1)
    for finding in findings:
        colour = _COLOUR_RGB[cell_class(finding.label).lineage]
        x1, y1, x2, y2 = (round(value) for value in finding.box_xyxy)
        x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)  # the last pixels inside
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, line_px)
        _label(picture, f"{finding.label} {finding.class_score:.0%}", (x1, y1, y2), scale, colour)
    return picture


def _label(
    picture: Image, text: str, place: tuple[int, int, int], scale: float, colour: tuple[int, int, int]
) -> None:
    """Text on a filled strip above a box; below it where the image ends; inside where it ends there, too.

    Args:
        place: left, top and bottom of the box.
    """
    left, top, bottom = place
    font, size, thickness = cv2.FONT_HERSHEY_DUPLEX, 0.6 * scale, max(round(scale), 1)
    (width, height), base = cv2.getTextSize(text, font, size, thickness)
    strip = height + base + round(4 * scale)
    left = min(max(left, 0), max(picture.shape[1] - width, 0))
    if top >= strip:
        top -= strip
    elif bottom + 1 + strip <= picture.shape[0]:
        top = bottom + 1
    cv2.rectangle(picture, (left, top), (left + width, top + strip - 1), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, _LIGHTNESS) > _LIGHT else (255, 255, 255)
    cv2.putText(picture, text, (left, top + strip - base), font, size, ink, thickness, cv2.LINE_AA)


def encode_jpeg(rgb: Image, quality: int = 90) -> bytes:
    """JPEG bytes of uint8 [H, W, 3] RGB.

    Raises:
        OSError: a side is longer than libjpeg writes.
    """
    if (side_px := max(rgb.shape)) > _LONGEST_SIDE_PX:  # OpenCV gives no bytes for it, and no error
        raise OSError(errno.EFBIG, f"{side_px} px are more than a JPEG's {_LONGEST_SIDE_PX}")
    return bytes(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


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
