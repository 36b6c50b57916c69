"""A station from the start of its process: when it is ready, what the first image takes, and its memory."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edge.bench.engines import EngineChoice
from edge.card_state import NvmlCard
from edge.child import Child, drop, watching
from edge.errors import BenchError
from edge.progress import counted

_PATIENCE_S = 300.0
"""Without a further answer."""
_POLL_S = 0.01
_SETTINGS = {"quiet_period_s": 0.05, "log_format": "json", "duplicates": "again"}


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Starts of the real `edge-watch`, each a fresh process whose files the system still held in memory.

    Attributes:
        ready_s: seconds from its start to READY=1.
        first_ms: milliseconds of the first image after that, from opening the file to its durable row.
        started_mb: memory of the process at READY, of each start.
        peak_mb: the most that the last one held after all images, which came to it at once.
        images: how many these were.
        card_mb: how much more of the card's memory was taken then than before; None: no card tells it.
    """

    ready_s: tuple[float, ...]
    first_ms: tuple[float, ...]
    started_mb: tuple[float, ...]
    peak_mb: float
    images: int
    card_mb: float | None


def measure_starts(
    choice: EngineChoice, images: Sequence[Path], times: int, scratch: Path, card: NvmlCard | None = None
) -> ColdStart:
    """Start a station `times` times, give it one image, and the last one all the others, too.

    Raises:
        BenchError: it ended, or did not answer.
        StationError: it did not start.
    """
    ready_s, first_ms, started_mb = [], [], []
    peak_mb, card_mb = 0.0, None
    before = card.memory_used_bytes() if card else 0
    for number in counted(range(times), "cold starts", Console(stderr=True)):
        home = scratch / f"start-{number}"
        inbox = home / "inbox"
        inbox.mkdir(parents=True)
        flags = choice.flags
        with watching(inbox, home / "out", home / "log", *flags, settings=_SETTINGS) as child:
            ready_s.append(child.ready_s)
            started_mb.append(child.memory_mb()[0])
            drop(inbox / f"0{images[0].suffix}", images[0].read_bytes())
            first_ms.append(_answered(child, 1)[0])
            if number == times - 1:
                for place, image in enumerate(images[1:], 1):
                    drop(inbox / f"{place}{image.suffix}", image.read_bytes())
                _answered(child, len(images))
                peak_mb = child.memory_mb()[1]
                if card:
                    card_mb = (card.memory_used_bytes() - before) / 1e6
    return ColdStart(tuple(ready_s), tuple(first_ms), tuple(started_mb), peak_mb, len(images), card_mb)


def _answered(child: Child, count: int) -> list[float]:
    """Milliseconds of the images so far, when so many have their rows."""
    found: list[float] = []
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        before, is_running = len(found), child.is_running
        found = list(_latencies_ms(child.log))
        if len(found) >= count:
            return found
        if not is_running:
            break
        if len(found) > before:
            deadline_s = time.monotonic() + _PATIENCE_S
        time.sleep(_POLL_S)
    raise BenchError(
        f"edge-watch answered {len(found)} of {count} images and then none; look at the end of what it says: "
        f"{child.log.read_text(errors='replace')[-300:]!r}."
    )


def _latencies_ms(log: Path) -> Iterator[float]:
    """From the lines of a log, of which the last may be in the making."""
    for line in log.read_text(errors="replace").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and "latency_ms" in told:
            yield float(told["latency_ms"])
