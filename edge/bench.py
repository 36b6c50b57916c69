"""`edge-bench`: where the milliseconds of one image go on this machine."""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge.demo.renderer import draw_tile
from edge.desk import Reader
from edge.errors import StationError
from edge.images import IMAGE_SUFFIXES
from edge.overlay import encode_jpeg
from edge.records import State
from edge.station import open_desk
from edge.tasks import ImageResult

PERCENTILES = (50, 90, 99)
_DRAWN_IMAGES = 16
_WARM_UP_IMAGES = 10
_PACKAGES = ("cytologia-edge", "numpy", "opencv-python-headless", "pillow", "openvino", "onnxruntime")


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds of one stage over all timed images."""

    stage: str
    mean_ms: float
    percentiles_ms: dict[str, float]
    max_ms: float

    @classmethod
    def of(cls, stage: str, times_ms: Sequence[float]) -> "StageTimes":
        """From the times of the single images."""
        return cls(
            stage,
            float(np.mean(times_ms)),
            {f"p{p}": float(np.percentile(times_ms, p)) for p in PERCENTILES},
            float(np.max(times_ms)),
        )


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured, on what.

    Attributes:
        stages: each stage, and last "total": from opening the file to its durable row.
        images: how many images were read and timed; `leukocytes` is their findings' number.
        input: what they were, in words.
    """

    bundle: str
    engine: str
    input: str
    images: int
    leukocytes: int
    stages: tuple[StageTimes, ...]
    machine: dict[str, Any]


def measure(pipeline: Reader, images: Path | None, count: int) -> BenchReport:
    """Process `count` images one after the other, as the daemon does, in a folder of its own.

    Args:
        pipeline: what reads the images.
        images: a folder of smear images, used again and again in turn; None draws some.
        count: how many to time, after a few that warm up.

    Raises:
        StationError: there is no image that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        folder = Path(scratch)
        sources, words = _sources(images, folder / "drawn")
        answers: list[tuple[float, ImageResult]] = []
        console = Console(stderr=True)
        with open_desk(pipeline, folder / "out", duplicates="again") as (desk, _):
            numbers = range(count + _WARM_UP_IMAGES)
            for number in track(numbers, "timing", console=console, disable=not console.is_terminal):
                # Every image comes as a new file: the desk does not read the same path twice.
                path = Path(shutil.copy(sources[number % len(sources)], folder / f"image-{number}"))
                started = time.perf_counter_ns()
                result = desk.process(path)
                total_ms = (time.perf_counter_ns() - started) / 1e6
                path.unlink()
                answers.append((total_ms, replace(result, rgb=None)))
    read = (State.DONE, State.EMPTY)
    timed = [(total_ms, result) for total_ms, result in answers[_WARM_UP_IMAGES:] if result.status in read]
    if not timed:
        raise StationError(f"None of the {words} could be read ({answers[-1][1].reason}); give others.")
    stages = dict.fromkeys(stage for _, result in timed for stage in result.stage_ms)
    return BenchReport(
        bundle=pipeline.bundle_id,
        engine=pipeline.engine_id,
        input=words,
        images=len(timed),
        leukocytes=sum(len(result.findings) for _, result in timed),
        stages=(
            *(StageTimes.of(s, [result.stage_ms.get(s, 0.0) for _, result in timed]) for s in stages),
            StageTimes.of("total", [total_ms for total_ms, _ in timed]),
        ),
        machine=machine(),
    )


def _sources(images: Path | None, drawn: Path) -> tuple[list[Path], str]:
    if images is None:
        drawn.mkdir()
        paths = []
        for seed in range(_DRAWN_IMAGES):
            path = drawn / f"drawn-{seed}.jpg"
            path.write_bytes(encode_jpeg(draw_tile(seed).rgb))
            paths.append(path)
        return paths, f"{_DRAWN_IMAGES} drawn tiles of 360x363 px"
    found = (path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    paths = sorted(path for path in found if path.is_file())
    if not paths:
        raise StationError(f"{images} holds no image; give a folder of smear images, or none for drawn ones.")
    return paths, f"{len(paths)} images of {images.name}"


def machine() -> dict[str, Any]:
    """Processor, system and versions, so that a figure can be traced to what it was measured on."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def print_report(report: BenchReport) -> None:
    """A table a person can read."""
    table = Table(
        title=f"{report.images} images, one at a time: {report.bundle} on {report.engine}",
        caption=f"{report.input}; {report.leukocytes} leukocytes; {report.machine['processor']}, "
        f"{report.machine['cores']} cores",
    )
    table.add_column("stage")
    for column in ("mean", *(f"p{p}" for p in PERCENTILES), "max"):
        table.add_column(f"{column}, ms", justify="right")
    for times in report.stages:
        if times.stage == "total":
            table.add_section()
        row = (times.mean_ms, *times.percentiles_ms.values(), times.max_ms)
        table.add_row(times.stage, *(f"{value:.2f}" for value in row))
    Console().print(table)


def save_json(report: BenchReport, stream: TextIO) -> None:
    """All figures, with the machine and the versions."""
    json.dump(asdict(report), stream, indent=1)
    stream.write("\n")
