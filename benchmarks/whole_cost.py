"""What an image costs in all, with the networks of the embedded bundle."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge import bench
from edge.bundle import Bundle, embedded_bundle
from edge.pipeline import open_pipeline
from edge.station import open_desk
from edge.tasks import Arrival

_LONE = 60


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
        report = bench.measure(pipeline, folder, _LONE)
        median_ms = {stage.stage: stage.percentiles_ms["p50"] for stage in report.stages}
        with open_desk(pipeline, scratch / "whole") as (desk, _):
            began_s = time.perf_counter()
            count = sum(1 for _ in desk.process_all(map(Arrival, paths)))
            waiting_ms = 1000 * (time.perf_counter() - began_s) / count
        return WholeCost(
            pipeline.bundle_id,
            pipeline.engine_id,
            median_ms["total"],
            median_ms["detect"] + median_ms["classify"],
            waiting_ms,
            pipeline.crowd.lanes if pipeline.crowd else 0,
        )
