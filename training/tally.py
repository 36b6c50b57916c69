"""Figures as functions of which images there are: so they can be had of any sample drawn from the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.metric import F1_WEIGHT, GIOU_WEIGHT
from training.pairing import Cell, Detection

Floats = NDArray[np.float64]

SCORE, MACRO_F1, GIOU_TERM, ACCURACY = "score", "macro_f1", "giou_term", "accuracy"
RECALL, PRECISION = "recall", "precision"
MEASURES = (SCORE, MACRO_F1, GIOU_TERM, ACCURACY, RECALL, PRECISION)
PROPORTIONS = (ACCURACY, RECALL, PRECISION)
"""Of cells or findings, each of which is right or not."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Counts by image.

    Attributes:
        images: n names.
        sources: their n sources.
        labels: k class codes, every one in the truth or paired with it.
        truth, said, right: float64 [n, k], cells with a class by it, by the class paired with them, and those
            where the two are the same.
        giou: float64 [n], sum over the cells with a class.
        n_boxes, n_found, n_predicted: float64 [n], true boxes, those matched one to one, and findings.
    """

    images: tuple[str, ...]
    sources: tuple[str, ...]
    labels: tuple[str, ...]
    truth: Floats
    said: Floats
    right: Floats
    giou: Floats
    n_boxes: Floats
    n_found: Floats
    n_predicted: Floats

    @classmethod
    def of(cls, cells: Sequence[Cell], false: Sequence[Detection], labels: Sequence[str] = ()) -> Self:
        """Count.

        Args:
            cells: all of all images.
            false: findings from the working threshold on that were matched with no cell.
            labels: classes to have columns for besides those that occur.
        """
        source = {cell.image: cell.source for cell in cells}
        for one in false:  # in an image without cells
            source.setdefault(one.image, one.source)
        place = {name: number for number, name in enumerate(source)}
        labelled = [(cell, cell.truth) for cell in cells if cell.truth is not None]
        occurring = {label for cell, true in labelled for label in (true, cell.nearest) if label is not None}
        codes = tuple(sorted(occurring | set(labels)))
        column = {code: number for number, code in enumerate(codes)}
        truth, said, right = (np.zeros((len(place), len(codes))) for _ in range(3))
        giou, n_boxes, n_found, n_predicted = (np.zeros(len(place)) for _ in range(4))
        for cell, true in labelled:
            row = place[cell.image]
            truth[row, column[true]] += 1
            if cell.nearest is not None:
                said[row, column[cell.nearest]] += 1
            right[row, column[true]] += cell.nearest == true
            giou[row] += cell.giou
        for cell in cells:
            n_boxes[place[cell.image]] += 1
            n_found[place[cell.image]] += cell.found is not None
        n_predicted += n_found
        for one in false:
            n_predicted[place[one.image]] += 1
        sources = tuple(source[name] for name in place)
        return cls(tuple(place), sources, codes, truth, said, right, giou, n_boxes, n_found, n_predicted)

    def measures(self, weights: Floats) -> dict[str, Floats]:
        """The figures of `MEASURES`, float64 [b] each; nan where undefined.

        Args:
            weights: float64 [b, n], how many times each of b samples has each image.
        """
        n_labelled = weights @ self.truth.sum(axis=1)
        f1 = self._f1(weights)
        macro = _share(np.nansum(f1, axis=1), (~np.isnan(f1)).sum(axis=1))
        giou_term = (_share(weights @ self.giou, n_labelled) + 1) / 2
        n_found = weights @ self.n_found
        return {
            SCORE: F1_WEIGHT * macro + GIOU_WEIGHT * giou_term,
            MACRO_F1: macro,
            GIOU_TERM: giou_term,
            ACCURACY: _share(weights @ self.right.sum(axis=1), n_labelled),
            RECALL: _share(n_found, weights @ self.n_boxes),
            PRECISION: _share(n_found, weights @ self.n_predicted),
        }

    def class_f1(self, weights: Floats) -> list[Floats]:
        """F1 of each of `labels`, float64 [b] each; nan where a sample has none, true or predicted."""
        return [*self._f1(weights).T]

    def _f1(self, weights: Floats) -> Floats:
        return _share(2 * (weights @ self.right), weights @ self.truth + weights @ self.said)

    def macro_f1_over(self, weights: Floats, codes: Sequence[str]) -> Floats:
        """Macro F1 over those of `codes` of which a sample has a true cell, float64 [b]."""
        kept = np.array([label in set(codes) for label in self.labels], dtype=bool)
        true = (weights @ self.truth)[:, kept]
        f1 = _share(2 * (weights @ self.right)[:, kept], true + (weights @ self.said)[:, kept])
        return _share(np.where(true > 0, f1, 0).sum(axis=1), (true > 0).sum(axis=1))

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Of each of `PROPORTIONS` over all images: how many are right, of how many."""
        return {
            ACCURACY: (int(self.right.sum()), int(self.truth.sum())),
            RECALL: (int(self.n_found.sum()), int(self.n_boxes.sum())),
            PRECISION: (int(self.n_found.sum()), int(self.n_predicted.sum())),
        }

    def only(self, chosen: NDArray[np.bool_]) -> Self:
        """Of some images: bool [n]. Classes that then have neither true nor predicted cells stay."""
        names = tuple(name for name, kept in zip(self.images, chosen, strict=True) if kept)
        sources = tuple(name for name, kept in zip(self.sources, chosen, strict=True) if kept)
        columns = ("truth", "said", "right", "giou", "n_boxes", "n_found", "n_predicted")
        parts = {column: getattr(self, column)[chosen] for column in columns}
        return replace(self, images=names, sources=sources, **parts)


def _share(part: Floats, whole: Floats | NDArray[np.int_]) -> Floats:
    """part / whole, nan where the whole is 0."""
    answer = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=answer, where=np.asarray(whole) > 0)
    return answer
