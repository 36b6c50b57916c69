"""The charts of an evaluation's report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.bootstrap import wilson_interval
from training.metric import Confusion
from training.reliability import CoveragePoint, Recommendation, ReliabilityBin


def draw_confusion(confusion: Confusion, path: Path) -> None:
    """A PNG of the counts, rows the truth, coloured by their share of the row."""
    counts = np.array(confusion.counts)
    side_in = 3.0 + 0.45 * len(counts)
    figure = Figure(figsize=(side_in, side_in), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(counts))
    axes.set_xticks(places, [*confusion.labels, "missed"], rotation=90)
    axes.set_yticks(places, [*confusion.labels, "no cell there"])
    axes.set(
        xlabel="predicted", ylabel="true", title="Cells matched one to one, coloured by share of the row"
    )
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    for border in (axes.axhline, axes.axvline):
        border(len(counts) - 1.5, color="grey", linewidth=1)
    figure.savefig(path, dpi=110)


def draw_reliability(series: Mapping[str, Sequence[ReliabilityBin]], path: Path) -> None:
    """A PNG of accuracy against confidence, and how many cells each bin holds.

    Args:
        series: bins by their name in the legend, at most two.
    """
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    diagram.text(0.02, 0.95, "above the line: more often right than it says", color="grey", fontsize=8)
    diagram.text(0.98, 0.05, "below: less often", color="grey", fontsize=8, ha="right")
    for place, (name, bins) in enumerate(series.items()):
        colour, aside = ("tab:orange", "tab:blue")[place], (place - (len(series) - 1) / 2) * 0.012
        within = [wilson_interval(round(one.accuracy * one.n), one.n) for one in bins]
        for one, ends in zip(bins, within, strict=True):
            if ends is not None:
                at = one.confidence + aside
                diagram.plot([at, at], [ends.low, ends.high], color=colour, linewidth=1, alpha=0.6)
        confidence, accuracy = [one.confidence + aside for one in bins], [one.accuracy for one in bins]
        diagram.plot(confidence, accuracy, "o", color=colour, markersize=5, label=name)
        middles = [(one.low + one.high) / 2 + aside * 1.7 for one in bins]
        bars = counts.bar(
            middles, [one.n for one in bins], width=0.02 if len(series) > 1 else 0.05, color=colour
        )
        counts.bar_label(bars, fontsize=6)
    diagram.set(
        ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02), title="Reliability of the classes"
    )
    if series:
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    counts.set(xlabel="probability of the predicted class; lines are 95 % intervals (Wilson)", ylabel="cells")
    counts.margins(y=0.15)
    figure.savefig(path, dpi=110)


def draw_coverage(
    points: Sequence[CoveragePoint], target: float, recommendation: Recommendation | None, path: Path
) -> None:
    """A PNG of the accuracy of the cells that are kept, against the share that is kept."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [one.coverage for one in points], [one.accuracy for one in points], color="tab:blue", marker="."
    )
    axes.axhline(target, color="grey", linewidth=1, linestyle=":")
    axes.annotate(
        f"{target:g} wanted", (0, target), (4, 3), textcoords="offset points", color="grey", fontsize=8
    )
    if recommendation is not None:
        at = (recommendation.coverage, recommendation.accuracy)
        axes.plot(*at, "o", color="tab:orange", markersize=8)
        axes.annotate(
            f"threshold {recommendation.threshold:.4f}:\n{recommendation.accuracy:.1%} right "
            f"of {recommendation.coverage:.1%}",
            at,
            (-12, -12),
            textcoords="offset points",
            ha="right",
            va="top",
        )
    axes.set(
        xlabel="share of the found cells that is kept",
        ylabel="share of the kept that is right",
        xlim=(0, 1.02),
        title="Accuracy when the less sure cells are set apart",
    )
    figure.savefig(path, dpi=110)
