"""Folds for training and validation that keep together what belongs together. Pure: rows in, folds out."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from edge.errors import EdgeError
from training.groups import groups_sharing

_TOLERANCE = 0.2
"""Part of the even number of boxes by which a fold may miss it; one box is always allowed."""


class SplitError(EdgeError):
    """The data cannot be split as asked. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class BoxRow:
    """One row of an annotation file.

    Attributes:
        cells: NAME, x1, y1, x2, y2, class as text.
        label: a class code, or WBC.
        source: of its image.
        together: what its image must not be parted from: all images that share one of these texts.
    """

    cells: tuple[str, ...]
    label: str
    source: str
    together: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The NAME of its image."""
        return self.cells[0]


@dataclass(frozen=True, slots=True)
class Pair:
    """What to train on and what to judge by.

    Attributes:
        train, val: rows, in the order in which they were given; no image is in both.
        left_out: rows in neither, since their image belongs together with one of `val`.
    """

    name: str
    train: tuple[BoxRow, ...]
    val: tuple[BoxRow, ...]
    left_out: tuple[BoxRow, ...] = ()


def groups_of(rows: Sequence[BoxRow]) -> NDArray[np.int32]:
    """The number of each row's group, int32 [n]: rows of one image, and of images that belong together."""
    return groups_sharing(
        [(("image", row.name), *(("together", mark) for mark in row.together)) for row in rows]
    )


def k_folds(rows: Sequence[BoxRow], n_folds: int, seed: int = 0) -> list[Pair]:
    """As many pairs as folds: each row is in `val` of exactly one of them, and no group in two.

    Classes, and within them sources, are spread as evenly as the groups allow
    (scikit-learn's StratifiedGroupKFold). The same rows and seed give the same folds.

    Raises:
        SplitError: there are fewer groups than folds.
    """
    groups = groups_of(rows)
    n_groups = len(set(groups.tolist()))
    if n_groups < n_folds:
        raise SplitError(
            f"{n_folds} folds were asked for, and there are only {n_groups} groups of images that may be "
            "parted; ask for fewer folds or group by less."
        )
    strata = np.unique([f"{row.label}\n{row.source}" for row in rows], return_inverse=True)[1]
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    fold_of = np.full(len(rows), -1)
    for fold, held in enumerate(_held_out(splitter, strata, groups)):
        fold_of[held] = fold
    pairs = []
    for fold in range(n_folds):
        held_out = fold_of == fold
        pairs.append(
            Pair(
                f"fold-{fold + 1}",
                tuple(row for row, is_out in zip(rows, held_out, strict=True) if not is_out),
                tuple(row for row, is_out in zip(rows, held_out, strict=True) if is_out),
            )
        )
    if empty := [pair.name for pair in pairs if not pair.val]:
        raise SplitError(
            f"{', '.join(empty)} of {n_folds} would be empty, since the groups are too large; ask for "
            "fewer folds."
        )
    return pairs


def _held_out(
    splitter: StratifiedGroupKFold, strata: NDArray[np.intp], groups: NDArray[np.int32]
) -> list[NDArray[np.intp]]:
    # It refuses data in which every stratum has fewer members than there are folds, and warns of single ones:
    # what is missing from a fold is told by `shortfalls`.
    n_folds = splitter.get_n_splits()
    labels = strata if np.bincount(strata).max() >= n_folds else np.zeros_like(strata)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return [held for _, held in splitter.split(np.zeros(len(strata)), labels, groups)]


def leave_one_source_out(rows: Sequence[BoxRow]) -> list[Pair]:
    """One pair a source: `val` holds all its rows, `train` those of the others.

    Rows of another source that belong together with one of the source are in neither.

    Raises:
        SplitError: there are fewer than two sources, or nothing is left to train on.
    """
    sources = list(dict.fromkeys(row.source for row in rows))
    if len(sources) < 2:
        raise SplitError(
            f"All images are of one source, {sources[0]}, and leaving one out needs two; "
            "name the source of each image in provenance.csv."
        )
    groups = groups_of(rows).tolist()
    pairs = []
    for source in sorted(sources):
        held = {group for row, group in zip(rows, groups, strict=True) if row.source == source}
        others = [(row, group) for row, group in zip(rows, groups, strict=True) if row.source != source]
        train = tuple(row for row, group in others if group not in held)
        if not train:
            raise SplitError(
                f"Without {source} nothing is left to train on, since all images belong together with "
                "one of it; group by less, or correct duplicate_group in provenance.csv."
            )
        pairs.append(
            Pair(
                source,
                train,
                tuple(row for row in rows if row.source == source),
                tuple(row for row, group in others if group in held),
            )
        )
    return pairs


def class_counts(rows: Sequence[BoxRow]) -> Counter[str]:
    """Boxes by class."""
    return Counter(row.label for row in rows)


def shortfalls(rows: Sequence[BoxRow], pairs: Sequence[Pair]) -> list[str]:
    """What k folds could not balance, in sentences: classes that a fold lacks, has too many of or too few."""
    groups_with: dict[str, set[int]] = defaultdict(set)
    for row, group in zip(rows, groups_of(rows).tolist(), strict=True):
        groups_with[row.label].add(group)
    counts: Mapping[str, Counter[str]] = {pair.name: class_counts(pair.val) for pair in pairs}
    sentences = []
    for label, total in sorted(class_counts(rows).items()):
        even = total / len(pairs)
        lacking = [name for name, count in counts.items() if not count[label]]
        uneven = [
            f"{name} {count[label]}"
            for name, count in counts.items()
            if abs(count[label] - even) > max(1.0, _TOLERANCE * even)
        ]
        n_groups = len(groups_with[label])
        if n_groups < len(pairs):
            sentences.append(
                f"{label} is in {n_groups} groups of images, fewer than {len(pairs)} folds: "
                f"{', '.join(lacking)} cannot judge it."
            )
        elif lacking:
            sentences.append(f"{label} is absent from {', '.join(lacking)}.")
        elif uneven:
            sentences.append(f"{label} should have {even:.1f} boxes a fold, and has in {', '.join(uneven)}.")
    return sentences
