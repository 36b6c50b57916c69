"""The plots of the page: how long images take, on what, under which load, and against what."""

from collections.abc import Sequence

import numpy as np

from edge.bench.estimates import PERCENTILES, Estimate, Floats
from edge.bench.offered import FALLS_BEHIND, Offered
from edge.bench.report import TOTAL, EngineFigures
from edge.bench.svg import COLOURS, FAINT, INK, Plot, Scale, linear, log_ticks, logarithmic, ticks

_WIDTH, _LEFT, _RIGHT = 860, 190, 800
_ROW = 26
_PANEL = 96
_BINS = 60
_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)
_FEW_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
_NARROW = 5
"""How many times the least mark the most one may be, for all of `_RATIOS` to have room."""


def latency_chart(engines: Sequence[EngineFigures]) -> str:
    """How many images took how long, a panel for each engine, with the percentiles marked."""
    times = [np.array(engine.times_ms[TOTAL]) for engine in engines]
    low = 0.9 * min(float(one.min()) for one in times)
    high = 1.1 * max(float(np.percentile(one, 99)) for one in times)
    bottom = 14 + _PANEL * len(engines)
    plot = Plot(_WIDTH, bottom + 40, "Latency distribution of each engine")
    x = linear(low, high, _LEFT, _RIGHT)
    plot.x_axis(ticks(low, high, 8), x, 14, bottom, "milliseconds from file to durable row")
    for place, (engine, ms) in enumerate(zip(engines, times, strict=True)):
        colour, base = COLOURS[place % len(COLOURS)], 14 + _PANEL * (place + 1)
        counts, edges = np.histogram(ms, _BINS, (low, high))
        y = linear(0, int(counts.max()), base, base - _PANEL + 26)
        for count, start, end in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
            if count:
                hint = f"{count} of {len(ms)} images: {start:.1f} to {end:.1f} ms"
                plot.rect(x(start), y(count), x(end) - x(start) - 0.5, base - y(count), colour, hint)
        _mark_percentiles(plot, ms, x, base)
        plot.line(_LEFT, base, _RIGHT, base, FAINT)
        plot.text(_LEFT - 10, base - _PANEL / 2 + 8, engine.name, "end", room=_LEFT - 15)
        beyond = int((ms > high).sum())
        plot.text(
            _LEFT - 10,
            base - _PANEL / 2 + 24,
            f"{len(ms)} images" + (f", {beyond} beyond" if beyond else ""),
            "end",
            FAINT,
        )
    return str(plot)


def _mark_percentiles(plot: Plot, ms: Floats, x: Scale, base: float) -> None:
    taken = -1e9
    for p, value in zip(PERCENTILES, np.percentile(ms, PERCENTILES), strict=True):
        plot.line(x(value), base - _PANEL + 18, x(value), base, INK, 1, "3 2")
        at = max(x(value), taken + 64)  # words do not lie on each other
        plot.text(at, base - _PANEL + 14, f"p{p} {value:.1f}", "middle")
        taken = at


def stage_chart(engine: EngineFigures) -> str:
    """A waterfall: each stage begins where the one before it ended, in mean milliseconds."""
    stages = [times for times in engine.stages if times.stage != TOTAL]
    high = max(sum(times.mean_ms for times in stages), engine.total.mean_ms)
    bottom = 10 + _ROW * (len(stages) + 1)
    plot = Plot(_WIDTH, bottom + 40, "Waterfall of the stages")
    x = linear(0, high, _LEFT, _RIGHT)
    plot.x_axis(ticks(0, high, 8), x, 10, bottom, "milliseconds, mean of an image")
    began_ms = 0.0
    for row, times in enumerate((*stages, engine.total)):
        is_total = times.stage == TOTAL
        start_ms = 0.0 if is_total else began_ms
        y, colour = 10 + _ROW * row, FAINT if is_total else COLOURS[0]
        width = max(x(times.mean_ms) - x(0), 1)
        plot.rect(x(start_ms), y + 4, width, _ROW - 8, colour, f"{times.stage}: mean {times.mean_ms:.2f} ms")
        plot.text(_LEFT - 10, y + 17, times.stage, "end")
        words = f"{times.mean_ms:.2f}"
        if is_total:
            plot.text(_RIGHT + 6, y + 17, words)
        elif x(start_ms) + width > _RIGHT - 60:
            plot.text(x(start_ms) - 6, y + 17, words, "end")
        else:
            plot.text(x(start_ms) + width + 6, y + 17, words)
        began_ms += times.mean_ms
    return str(plot)


def load_chart(load: Sequence[Offered]) -> str:
    """Latency against the offered rate; both axes tell what is offered, not what is answered."""
    rates = [one.rate_per_s for one in load]
    least = min(one.p50_ms.low for one in load)
    most = max(one.p99_ms.high for one in load)
    top, bottom, left = 14, 300, 70
    plot = Plot(_WIDTH, bottom + 40, "Latency against offered load")
    x = linear(0, 1.05 * max(rates), left, _RIGHT)
    y = logarithmic(0.8 * least, 1.3 * most, bottom, top)
    plot.x_axis(ticks(0, 1.05 * max(rates), 8), x, top, bottom, "images offered a second")
    plot.y_axis(log_ticks(0.8 * least, 1.3 * most), y, left, _RIGHT)
    if behind := [one.rate_per_s for one in load if one.verdict == FALLS_BEHIND]:
        plot.line(x(min(behind)), top, x(min(behind)), bottom, COLOURS[1], 1, "4 3")
        plot.text(x(min(behind)) - 6, top + 12, "falls behind from here", "end", COLOURS[1])
    for name, colour, found in (
        ("p50", COLOURS[0], [one.p50_ms for one in load]),
        ("p99", COLOURS[3], [one.p99_ms for one in load]),
    ):
        plot.path([(x(rate), y(one.value)) for rate, one in zip(rates, found, strict=True)], colour)
        for rate, one in zip(rates, found, strict=True):
            plot.line(x(rate), y(one.low), x(rate), y(one.high), colour)
            plot.dot(x(rate), y(one.value), colour, f"{name} at {rate:.1f} a second: {one} ms")
        plot.text(x(rates[-1]) + 8, y(found[-1].value) + 4, f"{name}, ms", colour=colour)
    return str(plot)


def ratio_chart(rows: Sequence[tuple[str, Estimate]], title: str, alike: float = 0.0) -> str:
    """Ratios with their intervals around 1; to the right is slower.

    Args:
        alike: how far from 1 a ratio has no colour.
    """
    low = min(0.9, *(max(one.low, 0.1) for _, one in rows))
    high = max(1.1, *(min(one.high, 10.0) for _, one in rows))
    bottom = 10 + _ROW * len(rows)
    plot = Plot(_WIDTH, bottom + 40, title)
    x = logarithmic(low * 0.97, high * 1.03, _LEFT, _RIGHT - 130)
    marks = [mark for mark in (_RATIOS if high < _NARROW * low else _FEW_RATIOS) if low <= mark <= high]
    plot.x_axis(marks, x, 10, bottom, title)
    plot.line(x(1), 6, x(1), bottom, INK)
    for row, (name, one) in enumerate(rows):
        colour = COLOURS[1] if one.low > 1 + alike else COLOURS[2] if one.high < 1 - alike else FAINT
        y = 10 + _ROW * (row + 0.5)
        plot.line(x(max(one.low, low)), y, x(min(max(one.high, low), high)), y, colour, 3)
        plot.dot(x(min(max(one.value, low), high)), y, colour, f"{name}: {one}")
        plot.text(_LEFT - 10, y + 4, name, "end", room=_LEFT - 15)
        plot.text(_RIGHT - 110, y + 4, str(one))
    return str(plot)
