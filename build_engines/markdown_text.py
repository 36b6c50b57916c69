"""Markdown of reports and model cards; the names in it come from folders and files of other people."""

from collections.abc import Iterable


def table_line(cells: Iterable[str]) -> str:
    """One line of a table; a cell cannot end it, begin another cell, or open an element of HTML."""
    inside = [one_line(cell).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(inside)} |"


def one_line(text: str) -> str:
    """The text without line ends, and as text where a page would read it as HTML."""
    return " ".join(text.split()).replace("<", "&lt;")
