"""What the station is to reach, as ratios of one run, and whether it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edge.bench.estimates import Estimate, median_ratio
from edge.bench.interleaved import Runs

EMBEDDED = "embedded bundle"
YOLO_B0 = "YOLO11n + EfficientNet-B0"

TORCH = "ultralytics torch + eager timm"
ONNX = "ultralytics ONNX Runtime + eager timm"
OPENVINO = "ultralytics OpenVINO + eager timm"


def station(pair: str, precision: str) -> str:
    """Name of the station's way."""
    return f"station, {pair}, {precision}"


def bare(pair: str, precision: str) -> str:
    """Name of the bare networks' way."""
    return f"bare networks, {pair}, {precision}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One ratio, and its target if it has one."""

    what: str
    ratio: Estimate
    bound: Literal["at most", "at least"] | None = None
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio itself reaches the target; None without one."""
        if self.target is None:
            return None
        value = self.ratio.value
        return value <= self.target if self.bound == "at most" else value >= self.target


def comparisons(
    tiles: Mapping[str, Runs],
    fields: Mapping[str, Runs],
    backlog: Mapping[str, Sequence[float]],
    precisions: Sequence[str],
) -> list[Comparison]:
    """All comparisons of a run.

    Args:
        tiles, fields: runs by the ways' names.
        backlog: images per second of each round, by the ways' names.
        precisions: of the station, the one that it takes by itself first.
    """
    found = []
    for precision in precisions:
        ours, small = station(YOLO_B0, precision), station(EMBEDDED, precision)
        for pair in (EMBEDDED, YOLO_B0):
            found.append(_slower("tile", tiles, station(pair, precision), bare(pair, precision), 1.15))
        found += [
            _faster(tiles, TORCH, ours, 5.0),
            _faster(tiles, ONNX, ours, 2.3),
            _faster(tiles, OPENVINO, ours, None),
            _faster(tiles, TORCH, small, 12.0),
            # How far a station could come that does nothing but ask its networks.
            _faster(tiles, TORCH, bare(YOLO_B0, precision), None),
            _faster(tiles, TORCH, bare(EMBEDDED, precision), None),
        ]
        for pair in (EMBEDDED, YOLO_B0):
            found.append(_slower("field", fields, station(pair, precision), bare(pair, precision), 1.2))
    for pair in (EMBEDDED, YOLO_B0):
        ours, limit = station(pair, precisions[0]), bare(pair, precisions[0])
        ratio = median_ratio(backlog[ours], backlog[limit])
        found.append(
            Comparison(f"backlog, images a second: {ours} / its bare networks", ratio, "at least", 0.95)
        )
    return found


def _slower(images: str, runs: Mapping[str, Runs], ours: str, limit: str, target: float) -> Comparison:
    ratio = median_ratio(runs[ours].ms, runs[limit].ms)
    return Comparison(f"{images}, time: {ours} / its bare networks", ratio, "at most", target)


def _faster(runs: Mapping[str, Runs], theirs: str, ours: str, target: float | None) -> Comparison:
    ratio = median_ratio(runs[theirs].ms, runs[ours].ms)
    bound: Literal["at least"] | None = "at least" if target else None
    return Comparison(f"tile, time: {theirs} / {ours}", ratio, bound, target)
