"""Charts as SVG inside a page that needs no other file."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, BAR = "#333344", "#7b4f9d"

_STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",  # letters stay letters: they can be searched, and the file stays small
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def svg(draw: Callable[[Axes], None], size_in: tuple[float, float], salt: str) -> str:
    """The picture as an element of a page; the same data give the same bytes."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=size_in, layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = buffer.getvalue()
    return text[text.index("<svg") :]
