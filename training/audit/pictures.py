"""Small pictures of faults: the image with the box as given and as kept."""

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import ImageRejected
from edge.geometry import Image
from edge.images import decode
from training.audit.cleaning import XYXY
from training.audit.looking import repair

SIDE_PX = 200

GIVEN_RGB, KEPT_RGB = (214, 69, 65), (20, 140, 90)
_MARGIN_PX = 30
"""Drawn around the image at most, so that a box over its border can be seen."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A box and its colour, uint8 RGB."""

    box_xyxy: XYXY
    colour: tuple[int, int, int]


def picture(path: Path, marks: list[Marked]) -> str | None:
    """The image as a data URI of a JPEG that fits into 200 x 200 px, or None if it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        rgb = decode(data)
    except ImageRejected:
        repaired = repair(data)
        if repaired is None:
            return None
        rgb = repaired[2]
    small = _draw(rgb, marks)
    done, coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return f"data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}" if done else None


def _draw(rgb: Image, marks: list[Marked]) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    corners = [mark.box_xyxy for mark in marks]
    beyond = max([0.0, *(max(-x1, -y1, x2 - width, y2 - height) for x1, y1, x2, y2 in corners)])
    scale = SIDE_PX / max(width, height)
    margin = int(min(np.ceil(beyond * scale) + 4, _MARGIN_PX)) if beyond else 0
    scale = (SIDE_PX - 2 * margin) / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = cv2.copyMakeBorder(
        small, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(235, 232, 240)
    )
    for mark in marks:
        x1, y1, x2, y2 = (
            int(np.clip(round(corner * scale) + margin, 0, SIDE_PX - 1)) for corner in mark.box_xyxy
        )
        cv2.rectangle(canvas, (x1, y1), (x2, y2), mark.colour, 2)
    return np.asarray(canvas, np.uint8)
