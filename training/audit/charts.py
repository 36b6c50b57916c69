"""Pictures of annotations, as SVG for the report."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator

from training.audit.cleaning import CleanRow
from training.svg_chart import BAR, svg

_FAINTEST = 0.3
"""Where the colours of counts begin: one box must be seen, too."""


def class_chart(classes: Mapping[str, int], names: Mapping[str, str]) -> str:
    """Boxes by class, one bar each.

    Args:
        names: the class in words by its code.
    """

    def draw(axes: Axes) -> None:
        places = np.arange(len(classes))
        axes.barh(places, list(classes.values()), color=BAR, height=0.72)
        axes.set_yticks(places, [f"{names.get(code, code)}  {code}" for code in classes])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.12, y=0.01)
        for place, count in zip(places, classes.values(), strict=True):
            axes.annotate(
                f"{count:,}", (count, place), (3, 0), textcoords="offset points", va="center", size=8
            )
        axes.set_xlabel("boxes")

    return svg(draw, (7.4, 0.8 + 0.235 * max(len(classes), 1)), "classes")


def size_chart(rows: Sequence[CleanRow]) -> str:
    """Width against height of the boxes."""
    sides = _sides(rows)

    def draw(axes: Axes) -> None:
        most = float(np.quantile(sides, 0.999)) * 1.05
        counts, _, _, cells = axes.hist2d(
            sides[:, 0],
            sides[:, 1],
            bins=60,
            range=[[0, most]] * 2,
            norm=LogNorm(vmin=_FAINTEST),
            cmap="Purples",
        )
        axes.plot([0, most], [0, most], color="#999999", linewidth=0.6, linestyle=":")
        width, height = np.median(sides, axis=0)
        axes.plot(width, height, "o", color="#e07a1f", markersize=5)
        axes.text(0.04, 0.95, f"median {width:g} x {height:g}", transform=axes.transAxes, color="#b85c0e")
        axes.set(xlabel="width, px", ylabel="height, px", aspect="equal")
        _scale(axes, cells, int(counts.max()))

    return svg(draw, (4.6, 3.6), "sizes")


def aspect_chart(rows: Sequence[CleanRow]) -> str:
    """Width by height of the boxes."""
    sides = _sides(rows)

    def draw(axes: Axes) -> None:
        ticks = [0.25, 0.5, 0.67, 1, 1.5, 2, 4]
        bins = np.geomspace(0.25, 4, 49).tolist()
        axes.hist(np.clip(sides[:, 0] / sides[:, 1], 0.25, 4), bins=bins, color=BAR)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="width / height (ends: beyond)", ylabel="boxes")

    return svg(draw, (4.6, 2.6), "aspect")


def count_chart(boxes_per_image: Mapping[int, int]) -> str:
    """Images by their number of boxes."""

    def draw(axes: Axes) -> None:
        axes.bar(list(boxes_per_image), list(boxes_per_image.values()), color=BAR, width=0.8)
        for boxes, images in boxes_per_image.items():
            axes.annotate(
                f"{images:,}", (boxes, images), (0, 2), textcoords="offset points", ha="center", size=8
            )
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.set_xlim(0.4, max(max(boxes_per_image), 6) + 0.6)
        axes.margins(y=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="boxes in an image", ylabel="images (logarithmic)")

    return svg(draw, (4.6, 2.6), "counts")


def position_chart(rows: Sequence[CleanRow], sizes_wh: Sequence[tuple[int, int] | None]) -> str:
    """Where the middles of the boxes lie: as a share of the image if all sizes are known, else in pixels."""
    boxes = np.array([row.box_xyxy for row in rows], np.float64)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    relative = all(size is not None for size in sizes_wh)
    if relative:
        middles = middles / np.array(sizes_wh, np.float64)

    def draw(axes: Axes) -> None:
        most = 1.0 if relative else float(np.quantile(middles, 0.999)) * 1.05
        counts, _, _, cells = axes.hist2d(
            middles[:, 0],
            middles[:, 1],
            bins=50,
            range=[[0, most]] * 2,
            norm=LogNorm(vmin=_FAINTEST),
            cmap="Purples",
        )
        unit = "share of the image" if relative else "px"
        axes.set(xlabel=f"from the left, {unit}", ylabel=f"from the top, {unit}", aspect="equal")
        axes.invert_yaxis()
        _scale(axes, cells, int(counts.max()))

    return svg(draw, (4.6, 3.6), "positions")


def _sides(rows: Sequence[CleanRow]) -> np.ndarray:
    boxes = np.array([row.box_xyxy for row in rows], np.float64)
    return boxes[:, 2:] - boxes[:, :2]


def _scale(axes: Axes, cells: QuadMesh, most: int) -> None:
    """What the colours mean: 1, 10, 100 ... and the most boxes that a cell holds."""
    powers = [10**power for power in range(len(str(most))) if 10**power < most / 1.5]
    bar = axes.figure.colorbar(cells, ax=axes, label="boxes", shrink=0.85, ticks=[*powers, most], format="%d")
    bar.ax.set_ylim(bottom=min(0.7, most))
    bar.ax.minorticks_off()
