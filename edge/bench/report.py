"""What was measured, and how it is kept: one JSON file of a schema with a number."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edge.bench.agreement import Agreement
from edge.bench.cold import ColdStart
from edge.bench.energy import Energy
from edge.bench.estimates import Estimate, StageTimes
from edge.bench.offered import Offered
from edge.errors import BenchError
from edge.locks import OUT_OF_SPACE, OutputFullError

SCHEMA = 2
"""Version 1 had no number, and one engine's stages only."""

TOTAL = "total"
"""From opening the file to its durable row."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What else the machine was doing.

    Attributes:
        governor: what sets the clocks, or "not told".
        load_before: mean number of running processes over the minute before.
        others_cores: mean number of cores that other processes, or other guests, kept busy meanwhile.
    """

    governor: str
    load_before: float
    others_cores: float


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One bundle on one engine.

    Attributes:
        name: in the report.
        bundle, engine: as they stand in result rows.
        images: how many were timed, one several times if need be; `leukocytes`: the findings of the
            different ones among them.
        stages: each stage, and last "total": from opening the file to its durable row.
        times_ms: milliseconds of each image by stage, "total" with them: what the figures come from.
        first_ms: of the first image after opening, and `warm_ms` of the few after that.
        backlog_per_s: images a second of each round, while many wait; `lanes` of them at once, 0: one.
        ratio: its total by that of the first engine, median over the images; None: it is the first.
        backlog_ratio: its images a second by the first engine's, median over the rounds.
        agreement: its findings against those of the engine `reference`; None where it is alone.
    """

    name: str
    bundle: str
    engine: str
    images: int
    leukocytes: int
    stages: tuple[StageTimes, ...]
    times_ms: dict[str, tuple[float, ...]]
    first_ms: float
    warm_ms: tuple[float, ...]
    backlog_per_s: tuple[float, ...]
    lanes: int
    ratio: Estimate | None = None
    backlog_ratio: Estimate | None = None
    agreement: Agreement | None = None
    reference: str = ""

    @property
    def total(self) -> StageTimes:
        return self.stages[-1]


@dataclass(frozen=True, slots=True)
class Idle:
    """Images of the first engine that came after a pause.

    Attributes:
        ms: milliseconds of each.
    """

    pause_s: float
    ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All figures.

    Attributes:
        schema: `SCHEMA`.
        taken_at: UTC, ISO 8601.
        input: what the images were, in words; `input_sha256` of their bytes.
        machine: as `edge.bench.machine` tells it; `disk`: the type of the file system that was written to.
        engines: in the order in which they were asked for; starts, idle, load and energy are of the first.
        waiting: how many images waited in a round of the backlog.
        cold, idle: None if they were not measured.
        load: by offered rate, ascending; empty if not measured. `arrivals`: of what kind.
        no_card: why there are no figures of a card; "" if there are.
    """

    schema: int
    taken_at: str
    input: str
    input_sha256: str
    machine: dict[str, Any]
    conditions: Conditions
    engines: tuple[EngineFigures, ...]
    waiting: int
    cold: ColdStart | None
    idle: Idle | None
    load: tuple[Offered, ...]
    arrivals: str
    energy: Energy
    no_card: str

    @property
    def first(self) -> EngineFigures:
        return self.engines[0]


_ADAPTER = TypeAdapter(BenchReport)


def save_report(report: BenchReport, path: Path) -> None:
    """Raises OutputFullError or BenchError if it cannot be written."""
    write_text(path, _ADAPTER.dump_json(report, indent=1).decode() + "\n")


def write_text(path: Path, text: str) -> None:
    """Raises OutputFullError where there is no space, BenchError if it cannot be written otherwise."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise OutputFullError(
                f"There is no space for {path}; free some, or give another file."
            ) from error
        raise BenchError(f"{path} cannot be written ({error.strerror}); give another file.") from error


def require_place(path: Path) -> None:
    """Make sure that a file can be written: this is better known before a measurement than after it.

    Raises:
        BenchError: it cannot be.
    """
    if not path.parent.is_dir():
        raise BenchError(f"There is no folder {path.parent} for {path.name}; create it.")
    was_there = os.path.lexists(path)
    try:
        path.open("ab").close()
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror}); give another file.") from error
    if not was_there:
        path.unlink()


def load_report(path: Path) -> BenchReport:
    """Figures of an earlier run.

    Raises:
        BenchError: it cannot be read, is of another schema, or has figures that no run can have.
    """
    try:
        report = _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror}); give a file of --json.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BenchError(
            f"{path} is no file of edge-bench --json of schema {SCHEMA} ({where}: {first['msg']}); measure "
            "again with this version."
        ) from error
    if report.schema != SCHEMA:
        raise BenchError(
            f"{path} is of schema {report.schema} and this version reads {SCHEMA}; measure again with this "
            "version."
        )
    if not report.engines or not all(
        values and all(map(_is_measured, values)) for values in _figures(report)
    ):
        raise BenchError(
            f"{path} has figures that no run gives (0, NaN or none at all); give a file as --json wrote it."
        )
    return report


def _figures(report: BenchReport) -> Iterator[Sequence[float]]:
    """What another run is held against."""
    for engine in report.engines:
        yield from (engine.times_ms.get(TOTAL, ()), engine.warm_ms, engine.backlog_per_s)
    for one in report.load:
        yield one.answered_per_s, one.p99_ms.value, one.p99_ms.low, one.p99_ms.high
    if report.cold:
        yield from (report.cold.ready_s, report.cold.first_ms, (report.cold.peak_mb,))
    if report.idle:
        yield report.idle.ms


def _is_measured(value: float) -> bool:
    return 0 < value < math.inf
