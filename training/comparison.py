"""Two systems on the same annotated images: what differs, and whether it is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.bootstrap import N_RESAMPLES, Difference, mcnemar, paired_differences
from training.errors import AnnotationError
from training.pairing import CELLS_CSV, Cell, Detection, read_cells
from training.tally import ACCURACY, MACRO_F1, MEASURES, RECALL, SCORE, Floats, Tally

OF_SOURCES = (ACCURACY, MACRO_F1, RECALL)
"""Figures that are compared by source."""


@dataclass(frozen=True, slots=True)
class System:
    """One evaluated system: the folder of its report, and what it said of each cell."""

    folder: Path
    cells: tuple[Cell, ...]
    false: tuple[Detection, ...]

    @classmethod
    def read(cls, folder: Path) -> "System":
        """From the folder that `python -m training.evaluate` wrote.

        Raises:
            AnnotationError: there is no list of cells, or none that can be read.
        """
        cells, false = read_cells(folder / CELLS_CSV)
        # In one order for all, whatever the order of the annotation files was.
        cells.sort(key=lambda cell: (cell.image, cell.box_xyxy, cell.truth or ""))
        return cls(folder, tuple(cells), tuple(false))


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A.

    Attributes:
        measures: by the names of `training.tally.MEASURES`.
        classes: F1, by class code.
        sources: accuracy, macro F1 and recall, by source.
        only_a, only_b: cells with a class that only one names rightly, by the challenge's pairing.
        n_cells: cells with a class.
        p_agreement: of McNemar's test, as if each cell were by itself.
    """

    measures: dict[str, Difference]
    classes: dict[str, Difference]
    sources: dict[str, dict[str, Difference]]
    only_a: int
    only_b: int
    n_cells: int
    p_agreement: float


def compare(a: System, b: System, n_resamples: int = N_RESAMPLES) -> Comparison:
    """Compare, cell by cell and image by image.

    Raises:
        AnnotationError: the two were not evaluated on the same annotations.
    """
    tally_a, tally_b = _tallies(a, b)
    own_of = {
        source: np.array([one == source for one in tally_a.sources])
        for source in sorted(set(tally_a.sources))
    }

    def figures(tally: Tally, weights: Floats) -> dict[tuple[str, str], Floats]:
        answer = {("all", name): one for name, one in tally.measures(weights).items()}
        for label, one in zip(tally.labels, tally.class_f1(weights), strict=True):
            answer["class", label] = one
        for source, own in own_of.items():
            # The randomisation puts the images of A and of B side by side.
            chosen = np.tile(own, len(tally.images) // len(own))
            part, drawn = tally.only(chosen), weights[:, chosen]
            measures = {**part.measures(drawn), MACRO_F1: part.macro_f1_over(drawn, part.labels)}
            answer |= {(f"source {source}", name): measures[name] for name in OF_SOURCES}
        return answer

    found = paired_differences(tally_a, tally_b, figures, n_resamples)
    pairs = [(x, y) for x, y in zip(a.cells, b.cells, strict=True) if x.truth is not None]
    only_a, only_b, p = mcnemar(
        [x.nearest == x.truth for x, _ in pairs], [y.nearest == y.truth for _, y in pairs]
    )
    return Comparison(
        measures={name: found["all", name] for name in MEASURES},
        classes={label: found["class", label] for label in tally_a.labels},
        sources={source: {name: found[f"source {source}", name] for name in OF_SOURCES} for source in own_of},
        only_a=only_a,
        only_b=only_b,
        n_cells=len(pairs),
        p_agreement=p,
    )


def score_difference(a: System, b: System, n_resamples: int = N_RESAMPLES) -> Difference:
    """In the challenge's score alone; errors as `compare`."""
    tally_a, tally_b = _tallies(a, b)
    found = paired_differences(tally_a, tally_b, Tally.measures, n_resamples)
    return found[SCORE]


def verdict(found: Difference, a: str, b: str) -> str:
    """One sentence: which is better and by how much, or that they are not told apart."""
    if np.isnan(found.difference):
        return f"{a} and {b} cannot be compared: one of them has no score."
    size, p = abs(found.difference), f"p = {found.p:.2g}" if found.p >= 0.001 else "p < 0.001"
    if found.interval is None and size == 0:
        return f"{a} and {b} are alike: no sample of the images tells one from the other."
    if found.interval is None:  # each source has one image, so that every sample is the same
        return f"B - A is {found.difference:+.3f}, of too few images to tell {a} and {b} apart."
    low, high = found.interval.low, found.interval.high
    if found.told_apart:
        better, low, high = (b, low, high) if found.difference > 0 else (a, -high, -low)
        return f"{better} is better by {size:.3f} (95 % CI {low:.3f} to {high:.3f}, {p})."
    told = f"B - A is {found.difference:+.3f} (95 % CI {low:+.3f} to {high:+.3f}, {p})"
    return f"{a} and {b} are not told apart: {told}."


def _tallies(a: System, b: System) -> tuple[Tally, Tally]:
    """With the same images and the same classes in the same order."""
    truth = [[(cell.image, cell.box_xyxy, cell.truth) for cell in one.cells] for one in (a, b)]
    if truth[0] != truth[1]:
        counts = [
            f"{len(one.cells)} cells in {len({cell.image for cell in one.cells})} images" for one in (a, b)
        ]
        raise AnnotationError(
            f"{a.folder} and {b.folder} were not evaluated on the same annotations ({counts[0]} and "
            f"{counts[1]}); run python -m training.evaluate on the same files with both bundles."
        )
    labels = {label for one in (a, b) for cell in one.cells for label in (cell.truth, cell.nearest) if label}
    return Tally.of(a.cells, a.false, sorted(labels)), Tally.of(b.cells, b.false, sorted(labels))


def rows(found: Comparison) -> Sequence[tuple[str, Mapping[str, Difference]]]:
    """The differences in parts, each with a title."""
    parts: list[tuple[str, Mapping[str, Difference]]] = [
        ("All images", {name.replace("_", " "): one for name, one in found.measures.items()}),
        ("F1 by class", found.classes),
    ]
    for name in OF_SOURCES:
        parts.append(
            (
                f"{name.replace('_', ' ')} by source",
                {source: one[name] for source, one in found.sources.items()},
            )
        )
    return parts
