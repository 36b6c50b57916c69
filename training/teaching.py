"""A bundle as a teacher: what it says of true boxes becomes soft labels."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import track

from edge.cells import CELL_CLASSES
from edge.errors import ImageRejected
from edge.pipeline import Pipeline
from training.annotations import AnnotatedImage, read_pixels
from training.targets import SoftLabels, box_key


def taught_by(
    pipeline: Pipeline, images: Sequence[AnnotatedImage], console: Console
) -> tuple[SoftLabels, int]:
    """What a bundle says of all boxes of all images, and of how many boxes it says nothing."""
    rows = {}
    n_boxes = 0
    for image in track(images, description="Asking the teacher", console=console):
        n_boxes += len(image.boxes_xyxy)
        try:
            rgb = read_pixels(image)
        except ImageRejected:
            continue
        for box, row in zip(image.boxes_xyxy, pipeline.name(rgb, image.boxes_xyxy), strict=True):
            if row.any():
                rows[box_key(image.name, box)] = row
    return SoftLabels(pipeline.bundle.manifest.classes, rows), n_boxes - len(rows)


def joined(parts: Sequence[SoftLabels]) -> SoftLabels:
    """All boxes, with all classes in the order of a differential count; 0 for those a part does not know."""
    known = {code for part in parts for code in part.classes}
    classes = tuple(one.code for one in CELL_CLASSES if one.code in known)
    rows = {
        key: np.asarray(row, np.float32) for part in parts for key, row in part.in_order(classes).rows.items()
    }
    return SoftLabels(classes, rows)
