"""What the boxes of annotation files are like, in numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge.cells import CELL_CLASSES
from training.annotations import LEUKOCYTE_WITHOUT_CLASS
from training.audit.cleaning import CleanRow


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers of some rows; nan where there are none.

    Attributes:
        boxes_per_image: number of images by their number of boxes.
        several_classes: images with boxes of more than one class.
        median_wh: of the boxes, pixels.
        classes: boxes by class, in the order of a differential count, WBC last.
    """

    n_boxes: int
    n_images: int
    boxes_per_image: Mapping[int, int]
    several_classes: int
    median_wh: tuple[float, float]
    classes: Mapping[str, int]

    @property
    def single_share(self) -> float:
        """Share of the images that hold one box, 0 to 1."""
        return self.boxes_per_image.get(1, 0) / self.n_images if self.n_images else float("nan")


def figures_of(rows: Sequence[tuple[str, CleanRow]]) -> Figures:
    """Count rows, each with the label of its file: equal names in two files are two images."""
    boxes = Counter((file, row.name) for file, row in rows)
    kinds = {(file, row.name, row.label) for file, row in rows}
    labels_per_image = Counter((file, name) for file, name, _ in kinds)
    corners = np.array([row.box_xyxy for _, row in rows], np.float64).reshape(-1, 4)
    sides = np.abs(corners[:, 2:] - corners[:, :2])
    return Figures(
        n_boxes=len(rows),
        n_images=len(boxes),
        boxes_per_image=dict(sorted(Counter(boxes.values()).items())),
        several_classes=sum(count > 1 for count in labels_per_image.values()),
        median_wh=(float(np.median(sides[:, 0])), float(np.median(sides[:, 1])))
        if len(rows)
        else (float("nan"), float("nan")),
        classes=count_classes(row.label for _, row in rows),
    )


def count_classes(labels: Iterable[str]) -> dict[str, int]:
    """Labels counted in the order of a differential count, WBC last."""
    counts = Counter(labels)
    order = [one.code for one in CELL_CLASSES] + [LEUKOCYTE_WITHOUT_CLASS]
    return {label: counts[label] for label in order if counts[label]}
