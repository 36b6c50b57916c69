"""Drawn smears as training images, beside the real ones."""

import logging
from pathlib import Path

import cv2

from edge.demo.renderer import draw_field, draw_tile
from training.annotations import AnnotatedImage

log = logging.getLogger(__name__)

SOURCE = "drawn"
_FIELD_EVERY = 10
FIRST_SEED = 1_000_000
"""The demo and the tests draw from small seeds, so that no model was trained on what it is shown there."""


def drawn_images(folder: Path, count: int) -> list[AnnotatedImage]:
    """Draw `count` smears into a folder (those already there are drawn over): tiles, every tenth a field."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for index in range(count):
        seed = FIRST_SEED + index
        is_field = index % _FIELD_EVERY == 0
        smear = draw_field(seed, cells=seed % 30) if is_field else draw_tile(seed)
        path = folder / f"drawn-{seed}.jpg"
        bgr = cv2.cvtColor(smear.rgb, cv2.COLOR_RGB2BGR)
        coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        path.write_bytes(coded.tobytes())  # cv2 would not tell of a full disk
        images.append(AnnotatedImage(path.name, path, smear.boxes_xyxy, smear.labels, SOURCE))
    log.info("drew %d smears into %s", count, folder)
    return images
