"""Images that cost nearly nothing, so that what is left is the station's own work."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge.cells import Finding
from edge.stopwatch import Stopwatch
from tests.chaos.camera import Original


class OneCell:
    """A double of the pipeline: it finds one neutrophil in every image, at once.

    Args:
        lanes: how many threads call it for images that wait; 0: it reads one after the other.
    """

    bundle_id = "double-000000000000"
    engine_id = "double:f32"
    likeness = None

    def __init__(self, lanes: int = 0) -> None:
        self.lanes = lanes
        self.crowd = self if lanes else None

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        return [Finding((0, 0, 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})]


def tiny_image() -> Original:
    """A PNG of 8x8 px; each of its copies is another image to the station."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 120, 160)).save(out, "PNG")
    return Original(out.getvalue(), ".png", ())
