"""What belongs together: things joined by pairs, directly or through others."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group_of_each(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """The number of the group of each of `count` things, int32 [count], in the order of their first ones."""
    joined = np.array(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(joined), np.int8), (joined[:, 0], joined[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int32)[place]


def groups_sharing(marks: Sequence[Iterable[Hashable]]) -> NDArray[np.int32]:
    """The number of the group of each thing, given its marks: those that share one are of one group."""
    first_with: dict[Hashable, int] = {}
    pairs = [(first_with.setdefault(mark, place), place) for place, own in enumerate(marks) for mark in own]
    return group_of_each(len(marks), pairs)
