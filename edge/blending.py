"""Class probabilities of several networks, each in its own order of classes, become one row a cell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ClassOrder:
    """From a network's order of classes to the bundle's.

    Attributes:
        columns: the place of each of the network's classes in the bundle's order; None where both are equal.
        class_count: of the bundle.
    """

    columns: NDArray[np.intp] | None
    class_count: int

    @classmethod
    def of(cls, own: Sequence[str], bundle: Sequence[str]) -> "ClassOrder":
        """Of class codes; `own` is empty where the network has the bundle's order."""
        if not own or tuple(own) == tuple(bundle):
            return cls(None, len(bundle))
        return cls(np.array([bundle.index(code) for code in own]), len(bundle))

    def mapped(self, rows: Floats) -> Floats:
        """float32 [n, classes of the network] → [n, classes of the bundle]; 0 for those it does not know."""
        if self.columns is None:
            return rows
        mapped = np.zeros((len(rows), self.class_count), np.float32)
        mapped[:, self.columns] = rows
        return mapped


def blend(opinions: Sequence[tuple[Floats, Floats | float]]) -> Floats:
    """The weighted mean of probabilities, over the weights that each cell has.

    Args:
        opinions: each float32 [n, C] with its weight, one for all cells or float32 [n]; for no cell are all
            weights 0.

    Returns:
        float32 [n, C].
    """
    mean, total = np.zeros(opinions[0][0].shape), np.zeros((len(opinions[0][0]), 1))
    for rows, weight in opinions:
        weights = np.reshape(np.asarray(weight, np.float64), (-1, 1))
        mean += weights * rows
        total += weights
    return np.asarray(mean / total, np.float32)
