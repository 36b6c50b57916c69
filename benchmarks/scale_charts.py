"""Pictures of the section "Scale", as SVG."""

import io
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.growth import Growth
from benchmarks.sharing import ALONE, Shared
from benchmarks.whole_cost import WholeCost

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

_GROWN, _BEGUN, _REST = "#009e73", "#d55e00", "#cccccc"
_STATIONS = ("#009e73", "#0072b2")
_STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",  # letters stay letters, and the file small
    "svg.hashsalt": "scale",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def growth_chart(growth: Growth, whole: WholeCost) -> str:
    """The station's own work by the number of entries, and what an image costs in all."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        own, in_all = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_own_work(own, growth)
        _draw_in_all(in_all, growth, whole)
        return _svg(figure)


def _draw_own_work(axes: Axes, growth: Growth) -> None:
    middles = [(one.entries + one.images / 2) / 1000 for one in growth.stretches]
    axes.plot(middles, [one.ms for one in growth.stretches], color=_GROWN, linewidth=1, label="each stretch")
    entries = [point.entries / 1000 for point in growth.points]
    for colour, name, sides in (
        (_GROWN, "grown journal", [point.grown for point in growth.points]),
        (_BEGUN, "empty journal", [point.begun for point in growth.points]),
    ):
        for mark, way, ms in (
            ("o", "alone", [median(side.lone_ms) for side in sides]),
            ("s", "waiting", [median(side.waiting_ms) for side in sides]),
        ):
            axes.plot(entries, ms, mark, color=colour, label=f"{way}, {name}", markersize=5, fillstyle="none")
    axes.set(xlabel="entries in the journal, thousands", ylim=(0, None))
    axes.set_title("the station's own work on one image, ms", loc="left")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center")


def _draw_in_all(axes: Axes, growth: Growth, whole: WholeCost) -> None:
    """Bars: what an image alone costs in all, with what each point adds to it."""
    places = np.arange(len(growth.points))
    empty = median(growth.points[0].begun.lone_ms)
    own = np.array(
        [empty + median(point.grown.lone_ms) - median(point.begun.lone_ms) for point in growth.points]
    )
    rest = np.full(len(places), whole.lone_ms - empty)
    axes.bar(places, own, color=_GROWN, label="the station's own work")
    axes.bar(places, rest, bottom=own, color=_REST, label="networks, and pixels of a real image")
    axes.axhspan(0.9 * whole.lone_ms, 1.1 * whole.lone_ms, color=_BEGUN, alpha=0.15, linewidth=0)
    axes.text(places[-1] + 0.45, 1.11 * whole.lone_ms, "within 10 %", ha="right", va="bottom", color=_BEGUN)
    axes.set_xticks(places, [_short(point.entries) for point in growth.points])
    axes.set(xlabel="entries in the journal", ylim=(0, 1.6 * whole.lone_ms))
    axes.set_title("one image alone in all, ms", loc="left")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _short(entries: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if entries >= size:
            return f"{entries / size:.3g}{letter}"
    return str(entries)


def sharing_chart(shared: Mapping[str, Sequence[Shared]]) -> str:
    """Images per second over time, of each way the round with the middle rate."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        plots = figure.subplots(1, len(shared), sharey=True, squeeze=False)[0]
        for axes, (way, runs) in zip(plots, shared.items(), strict=True):
            middle = sorted(runs, key=lambda run: run.together)[len(runs) // 2]
            for number, counts in enumerate(middle.by_second()):
                name = "the one" if way == ALONE else ("one", "the other")[number]
                whole = counts[:-1] or counts  # the last second is not a whole one
                width = (3, 1.2)[number]  # where both have as much, both are seen
                axes.stairs(whole, color=_STATIONS[number], label=name, baseline=None, linewidth=width)
            axes.set(xlabel="s since the first answer", ylim=(0, None))
            axes.set_title(way, loc="left")
            axes.legend(frameon=False, fontsize=8, loc="lower left")
        plots[0].set_ylabel("images a second")
        return _svg(figure)


def memory_chart(curves: Mapping[str, Mapping[int, float]]) -> str:
    """Resident memory in MiB over the number of images, and a band of 5 % over the first."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        axes = figure.subplots()
        for colour, (watch, curve) in zip(_STATIONS, curves.items(), strict=True):
            axes.plot(list(curve), list(curve.values()), "o-", color=colour, markersize=4, label=watch)
        first = min(curve[min(curve)] for curve in curves.values())
        axes.axhspan(first, 1.05 * first, color=_BEGUN, alpha=0.15, linewidth=0, label="at most 5 % more")
        axes.set(xlabel="images since the start", ylim=(0, 1.3 * first))
        axes.set_title("memory of the station, MiB", loc="left")
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
