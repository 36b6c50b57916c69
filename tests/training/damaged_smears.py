"""Drawn smears as JPEG bytes, and ways to damage them."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from edge.demo.renderer import draw_tile

SIZE_WH = (200, 180)

HEADER = "NAME,x1,y1,x2,y2,class"


@cache
def rgb(seed: int) -> np.ndarray:
    """A drawn tile with one leukocyte, uint8 [180, 200, 3] RGB."""
    return draw_tile(seed, "LY", size_wh=SIZE_WH).rgb


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    """RGB pixels as a JPEG file."""
    done, coded = cv2.imencode(
        ".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    assert done
    return coded.tobytes()


def write_csv(path: Path, *rows: str, header: str = HEADER) -> Path:
    """An annotation file with these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_images(folder: Path, **files: bytes) -> Path:
    """Files NAME.jpg in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.jpg").write_bytes(data)
    return folder
