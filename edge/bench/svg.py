"""Small plots as SVG inside a page that needs no other file and no script. A station has no matplotlib."""

import math
from collections.abc import Callable
from html import escape

INK, FAINT, GRID = "#333344", "#777788", "#e4e4ec"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of Okabe and Ito, which colour-blind people can tell apart."""

_LETTER = 6.5
"""Pixels of width, at the size of the page's plots."""

Scale = Callable[[float], float]


def linear(low: float, high: float, from_px: float, to_px: float) -> Scale:
    """Values to pixels."""
    return lambda value: from_px + (value - low) / (high - low) * (to_px - from_px)


def logarithmic(low: float, high: float, from_px: float, to_px: float) -> Scale:
    """Values above 0 to pixels."""
    inner = linear(math.log(low), math.log(high), from_px, to_px)
    return lambda value: inner(math.log(value))


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round values from low to high: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from low to high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]


class Plot:
    """One picture; x to the right and y down, in pixels.

    Args:
        label: what it shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self._size = (width, height)
        self._label = label
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, colour: str, hint: str = "") -> None:
        """A filled rectangle; `hint` is shown under the pointer."""
        title = f"<title>{escape(hint)}</title>" if hint else ""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
            f'fill="{colour}">{title}</rect>'
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str = GRID, width: float = 1, dash: str = ""
    ) -> None:
        """A straight line."""
        self.path([(x1, y1), (x2, y2)], colour, width, dash)

    def path(self, points: list[tuple[float, float]], colour: str, width: float = 2, dash: str = "") -> None:
        """Straight lines from point to point."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
        )

    def dot(self, x: float, y: float, colour: str, hint: str = "") -> None:
        """A point of a line; `hint` is shown under the pointer."""
        title = f"<title>{escape(hint)}</title>" if hint else ""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{title}</circle>')

    def text(
        self, x: float, y: float, words: str, anchor: str = "start", colour: str = INK, room: float = math.inf
    ) -> None:
        """Words whose baseline begins, has its middle or ends at a point; made narrower if they need it."""
        narrow = (
            f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"' if len(words) * _LETTER > room else ""
        )
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{narrow}>'
            f"{escape(words)}</text>"
        )

    def x_axis(self, marks: list[float], scale: Scale, top: float, bottom: float, title: str) -> None:
        """Grid lines with their values below, and what they are."""
        for mark in marks:
            self.line(scale(mark), top, scale(mark), bottom)
            self.text(scale(mark), bottom + 15, f"{mark:g}", "middle", FAINT)
        self.text((scale(marks[0]) + scale(marks[-1])) / 2, bottom + 31, title, "middle")

    def y_axis(self, marks: list[float], scale: Scale, left: float, right: float) -> None:
        """Grid lines with their values at the left."""
        for mark in marks:
            self.line(left, scale(mark), right, scale(mark))
            self.text(left - 6, scale(mark) + 4, f"{mark:g}", "end", FAINT)

    def __str__(self) -> str:
        width, height = self._size
        return (
            f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
            f'aria-label="{escape(self._label)}">{"".join(self._parts)}</svg>'
        )
