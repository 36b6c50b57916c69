"""What a classifier is taught of each sample: its classes, or a teacher's probabilities mixed with them."""

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.annotations import COLUMNS
from training.audit.cleaning import number_text
from training.errors import AnnotationError
from training.loop import TrainingError

log = logging.getLogger(__name__)

BOX_COLUMNS = COLUMNS[:5]
BoxKey = tuple[str, float, float, float, float]
"""NAME and corners of a true box, in pixels to two places: by it a box is known again in another file."""

Floats = NDArray[np.float32]


class Sample(Protocol):
    """A cell or a whole image to train on."""

    @property
    def label(self) -> str:
        """The class by which it is drawn in balance and judged."""

    @property
    def source(self) -> str:
        """The collection that it comes from."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The class of each cell that is to be seen in it."""

    @property
    def keys(self) -> tuple[BoxKey, ...]:
        """The true boxes that are to be seen in it."""


def box_key(name: str, box_xyxy: Iterable[float]) -> BoxKey:
    """The key of a true box in pixels of its image."""
    x1, y1, x2, y2 = (round(float(corner), 2) for corner in box_xyxy)
    return name, x1, y1, x2, y2


@dataclass(frozen=True, slots=True, eq=False)
class SoftLabels:
    """A teacher's probabilities of true boxes, as `python -m training.soft_labels` writes them.

    Attributes:
        classes: class codes, in the order of the probabilities.
        rows: float32 [C] of each box.
    """

    classes: tuple[str, ...]
    rows: Mapping[BoxKey, Floats]

    def in_order(self, classes: Sequence[str]) -> "SoftLabels":
        """For a network of these classes: 0 for those that the teacher does not know, without others.

        What is left sums to 1 again; a box of which nothing is left is no longer named.
        """
        columns = [self.classes.index(code) if code in self.classes else -1 for code in classes]
        rows = {}
        for key, row in self.rows.items():
            kept = np.append(row, np.float32(0))[columns]
            if kept.sum() > 0:
                rows[key] = kept / kept.sum()
        return SoftLabels(tuple(classes), rows)

    def write(self, path: Path) -> None:
        """One row a box: NAME,x1,y1,x2,y2 and a column for each class."""
        with path.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow([*BOX_COLUMNS, *self.classes])
            for (name, *corners), row in self.rows.items():
                lines.writerow([name, *map(number_text, corners), *(f"{value:.6g}" for value in row)])

    @classmethod
    def read(cls, path: Path) -> "SoftLabels":
        """What `write` wrote.

        Raises:
            AnnotationError: the file is missing or no such file.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *lines = csv.reader(file)
            if tuple(header[:5]) != BOX_COLUMNS or len(header) < 6:
                raise ValueError(f"its columns are {','.join(header)}")
            rows = {box_key(line[0], map(float, line[1:5])): np.array(line[5:], np.float32) for line in lines}
            if any(len(row) != len(header) - 5 or not row.min() >= 0 for row in rows.values()):
                raise ValueError("a row has not one number from 0 to 1 for each class")
        except (OSError, ValueError, csv.Error) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise AnnotationError(
                f"{path} is no file of soft labels ({why}); write one with python -m training.soft_labels."
            ) from error
        return cls(tuple(header[5:]), rows)


def targets_of(
    samples: Sequence[Sample], classes: Sequence[str], soft: SoftLabels | None = None, weight: float = 0.0
) -> Tensor:
    """What is taught, float32 [N, C].

    A sample without soft labels for all of its boxes is taught its own classes, 1 each; another one
    `weight * teacher + (1 - weight) * its classes` (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, at
    temperature 1). What the teacher says of an image is the mean over its boxes where they have one class,
    and for each class the highest where they have several.

    Args:
        classes: every class of every sample is among them.
        weight: of the teacher, 0 to 1.

    Raises:
        TrainingError: the teacher names none of the boxes.
    """
    places = {code: place for place, code in enumerate(classes)}
    targets = torch.zeros(len(samples), len(classes))
    for row, sample in enumerate(samples):
        targets[row, [places[label] for label in sample.cells]] = 1.0
    if soft is None:
        return targets
    rows = soft.in_order(classes).rows
    n_taught = 0
    for row, sample in enumerate(samples):
        said = [rows[key] for key in sample.keys if key in rows]
        if len(said) == len(sample.keys):
            one = np.mean(said, 0) if len(set(sample.cells)) == 1 else np.max(said, 0)
            targets[row] = weight * torch.from_numpy(one) + (1 - weight) * targets[row]
            n_taught += 1
    if not n_taught:
        raise TrainingError(
            "The soft labels name no box of the training files; write them anew from the same CSV files."
        )
    log.info("soft labels for %d of %d samples", n_taught, len(samples))
    return targets
