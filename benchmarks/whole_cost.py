"""What an image costs in all, with the networks of the embedded bundle."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.bench.interleaved import run_interleaved
from edge.bench.ways import station_way
from edge.bundle import Bundle, embedded_bundle
from edge.outputs import open_desk
from edge.pipeline import open_pipeline
from edge.tasks import Arrival

_LONE, _WARM_UP = 60, 10


@dataclass(frozen=True, slots=True)
class WholeCost:
    """Of an image of the backlog.

    Attributes:
        lone_ms: median of images that came alone; of it `lone_networks_ms` in the networks (median).
        waiting_ms: mean of images that waited for each other.
        lanes: in how many these were read; 0: one after the other.
    """

    bundle: str
    engine: str
    lone_ms: float
    lone_networks_ms: float
    waiting_ms: float
    lanes: int


def measure_whole_cost(images: Sequence[bytes], suffix: str, scratch: Path) -> WholeCost:
    """Read images alone and all at once, into a new journal."""
    folder = scratch / "tiles"
    folder.mkdir()
    paths = [folder / f"{number:05}{suffix}" for number in range(len(images))]
    for path, data in zip(paths, images, strict=True):
        path.write_bytes(data)
    with open_pipeline(Bundle.load(embedded_bundle())) as pipeline:
        with station_way("alone", pipeline, scratch / "alone") as way:
            for path in paths[:_WARM_UP]:
                way.answer(way.prepare(path))
            alone = run_interleaved([way], [paths[n % len(paths)] for n in range(_LONE)], "alone")["alone"]
        median_ms = {stage: statistics.median(times) for stage, times in alone.stage_ms.items()}
        with open_desk(pipeline, scratch / "whole") as (desk, _):
            began_s = time.perf_counter()
            count = sum(1 for _ in desk.process_all(map(Arrival, paths)))
            waiting_ms = 1000 * (time.perf_counter() - began_s) / count
        return WholeCost(
            pipeline.bundle_id,
            pipeline.engine_id,
            statistics.median(alone.ms),
            median_ms["detect"] + median_ms["classify"],
            waiting_ms,
            pipeline.crowd.lanes if pipeline.crowd else 0,
        )
