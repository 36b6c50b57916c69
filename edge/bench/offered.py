"""Images that arrive at a given rate, whether or not the station keeps up: the latency that users see.

The load is open: when an image arrives was drawn before, and the latency of each counts from that moment,
also if the station was busy then. A measurement that waits for an answer before it sends the next image
leaves just those delays out ("coordinated omission": Tene, "How NOT to Measure Latency", 2013).
"""

import shutil
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from edge.bench.estimates import Estimate, percentiles
from edge.tasks import Arrival, ImageResult

SHARES = (0.25, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2)
"""Offered rates, as shares of the rate of the backlog."""
_KEEPS_UP = 0.95
_FEW_LATE = 8
"""So many images are late now and then where they come by chance, also at a station that keeps up."""

FALLS_BEHIND, PERHAPS_BEHIND = "falls behind", "perhaps behind"

Arrivals = Literal["exponential", "regular"]


class Answering(Protocol):
    """What is loaded: a `Desk`."""

    def process_all(self, arrivals: Iterator[Arrival]) -> Iterator[ImageResult]: ...

    def settle(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of images that arrived at one rate.

    Attributes:
        share: of the rate of the backlog.
        rate_per_s: at which images arrived, as it was drawn.
        answered_per_s: from the first durable row to the last.
        p50_ms, p99_ms, most_ms: latency from an image's arrival to its durable row.
        longest_queue: most images that had arrived and were not answered.
    """

    share: float
    images: int
    rate_per_s: float
    answered_per_s: float
    p50_ms: Estimate
    p99_ms: Estimate
    most_ms: float
    longest_queue: int

    @property
    def verdict(self) -> str:
        """FALLS_BEHIND where fewer were answered than came, PERHAPS_BEHIND if that may be chance, or ""."""
        if self.answered_per_s >= _KEEPS_UP * self.rate_per_s:
            return ""
        # Of a backlog it answers rate / share a second.
        late = (self.images - 1) * (self.rate_per_s / self.answered_per_s - 1) / self.share
        return FALLS_BEHIND if late > _FEW_LATE else PERHAPS_BEHIND


def arrivals_s(rate_per_s: float, seconds: float, kind: Arrivals) -> list[float]:
    """When images arrive, in ascending seconds from 0 on; at least two.

    "exponential" gaps are those of images that know nothing of each other (a Poisson process).
    """
    count = max(round(rate_per_s * seconds), 2)
    if kind == "regular":
        return [number / rate_per_s for number in range(count)]
    gaps = np.random.default_rng(0).exponential(1 / rate_per_s, count - 1)
    # Rescaled, so that the rate is what was asked for also where few images come.
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    return [float(at) for at in times * ((count - 1) / rate_per_s / times[-1])]


def offer(
    desk: Answering,
    paths: Sequence[Path],
    due_s: Sequence[float],
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[list[float], int]:
    """Let files arrive one by one, and answer them as the daemon does: all that wait, then the next.

    Args:
        paths: files that lie there from the beginning; the desk is told of each when it is due.
        due_s: when, in ascending seconds from the start.

    Returns:
        Seconds from the start to the durable row of each, in their order; the longest queue.
    """
    coming = deque(zip(due_s, paths, strict=True))
    done_s: dict[Path, float] = {}
    longest = 0
    began = clock()

    def arrived() -> Iterator[Arrival]:
        nonlocal longest
        while coming and coming[0][0] <= (now_s := clock() - began):
            longest = max(longest, bisect_right(due_s, now_s) - len(done_s))
            yield Arrival(coming.popleft()[1])

    while coming:
        for result in desk.process_all(arrived()):
            done_s[result.path] = clock() - began
        desk.settle()
        if coming and (wait_s := coming[0][0] - (clock() - began)) > 0:
            sleep(wait_s)
    return [done_s[path] for path in paths], longest


def measure_offered(
    desk: Answering,
    inbox: Path,
    images: Sequence[Path],
    backlog_per_s: float,
    share: float,
    seconds: float,
    kind: Arrivals,
) -> Offered:
    """Offer a share of the backlog's rate for some seconds; a station that falls behind takes longer."""
    due_s = arrivals_s(share * backlog_per_s, seconds, kind)
    paths = []
    for number in range(len(due_s)):
        image = images[number % len(images)]
        paths.append(Path(shutil.copy(image, inbox / f"comes-{share:g}-{number}{image.suffix}")))
    done_s, longest = offer(desk, paths, due_s)
    for path in paths:
        path.unlink()
    return figures_of(share, due_s, done_s, longest)


def figures_of(share: float, due_s: Sequence[float], done_s: Sequence[float], longest: int) -> Offered:
    """From the arrivals and the answers, in seconds from the start."""
    latencies_ms = 1000 * np.subtract(done_s, due_s)
    found = percentiles(latencies_ms, (50, 99))
    return Offered(
        share=share,
        images=len(due_s),
        rate_per_s=(len(due_s) - 1) / (due_s[-1] - due_s[0]),
        answered_per_s=(len(due_s) - 1) / max(max(done_s) - min(done_s), 1e-9),
        p50_ms=found[50],
        p99_ms=found[99],
        most_ms=float(latencies_ms.max()),
        longest_queue=longest,
    )
