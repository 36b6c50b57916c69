"""How far a long row of work is: a bar on a terminal, plain lines in a journal or a file."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_LINE_EVERY_S = 30.0

Item = TypeVar("Item")


def counted(items: Sequence[Item], title: str, console: Console) -> Iterator[Item]:
    """Go through items, and show how far: a bar on a terminal, a plain line from time to time elsewhere."""
    if console.is_terminal:
        yield from track(items, title, console=console, transient=True)
        return
    began = last_line = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last_line > _LINE_EVERY_S:
            last_line = time.monotonic()
            console.print(
                f"{title}: {number} of {len(items)}, {last_line - began:.0f} s so far", soft_wrap=True
            )
        yield item
