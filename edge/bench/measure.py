"""The whole measurement: starts, steady images of every engine in turn, backlog, and what was asked for."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from edge.bench.about import disk, governor, machine
from edge.bench.agreement import Agreement, agreement
from edge.bench.backlog import StationBacklog
from edge.bench.cold import measure_starts
from edge.bench.energy import EnergyMeter, find_card, meter_of_this_machine
from edge.bench.engines import EngineChoice, OpenEngine, open_engines, reference_of
from edge.bench.estimates import StageTimes, median, median_ratio
from edge.bench.inputs import Inputs
from edge.bench.interleaved import Runs, run_in_turn, run_interleaved, timed_ms
from edge.bench.load import Load
from edge.bench.offered import SHARES, Arrivals, Offered, measure_offered
from edge.bench.report import SCHEMA, TOTAL, BenchReport, Conditions, EngineFigures, Idle
from edge.bench.ways import StationWay, station_way
from edge.errors import BackendError
from edge.progress import counted

_WARM_UP = 11
_DIGITS = 4
"""Of a millisecond in the file: a tenth of a microsecond."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is measured.

    Attributes:
        images: timed one after the other, of each engine.
        starts: of the daemon; 0: none.
        waiting: images of a round of the backlog; `rounds` of them.
        pause_s: before each of `pauses` images; None: no pauses.
        load_s: seconds at each offered rate; None: no load.
    """

    images: int = 200
    starts: int = 3
    waiting: int = 32
    rounds: int = 5
    pause_s: float | None = None
    pauses: int = 5
    load_s: float | None = None
    arrivals: Arrivals = "exponential"
    shares: tuple[float, ...] = SHARES


@dataclass(frozen=True, slots=True)
class _Bench:
    engine: OpenEngine
    way: StationWay
    first_ms: float
    warm_ms: tuple[float, ...]


def measure(choices: Sequence[EngineChoice], inputs: Inputs, amounts: Amounts, scratch: Path) -> BenchReport:
    """Measure engines side by side.

    Args:
        choices: at least one; the others are held against the first.
        scratch: an empty folder on the disk that a station would write to.

    Raises:
        EdgeError: an engine cannot be opened, or fails.
    """
    load = Load()
    card, no_card = find_card()
    meter = meter_of_this_machine(card, no_card)
    if card is not None:
        try:
            card.memory_used_bytes()
        except BackendError as error:
            card, no_card = None, str(error).removesuffix(".")
    cold = None
    if amounts.starts:
        _say(f"starting edge-watch, {amounts.starts} time{'' if amounts.starts == 1 else 's'}")
        waiting = _cycled(inputs.paths, amounts.waiting)
        cold = measure_starts(choices[0], waiting, amounts.starts, scratch, card)
    _say(f"opening {len(choices)} engine{'' if len(choices) == 1 else 's'}")
    with contextlib.ExitStack() as closing:
        engines = closing.enter_context(open_engines(choices))
        benches = []
        for place, engine in enumerate(engines):
            folder = scratch / f"engine-{place}"
            way = closing.enter_context(station_way(engine.name, engine.pipeline, folder))
            first_ms, *warm_ms = _warm_up(way, inputs)
            benches.append(_Bench(engine, way, first_ms, tuple(warm_ms)))
        ways = [bench.way for bench in benches]
        _say(f"timing {amounts.images} images, one at a time")
        runs = run_interleaved(ways, _cycled(inputs.paths, amounts.images), "one at a time")
        _say(f"timing {amounts.rounds} rounds of {amounts.waiting} waiting images")
        rates = _backlog(ways, inputs, amounts, meter)
        first = ways[0]
        idle = _after_pauses(first, inputs, amounts)
        offered = _offered(first, inputs, amounts, median(rates[first.name]).value)
        figures = _figures(benches, runs, rates, len(inputs.paths))
    return BenchReport(
        schema=SCHEMA,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        input=inputs.words,
        input_sha256=inputs.sha256,
        machine={**machine(), "disk": disk(scratch)},
        conditions=Conditions(governor(), load.before, load.others()),
        engines=figures,
        waiting=amounts.waiting,
        cold=cold,
        idle=idle,
        load=offered,
        arrivals=amounts.arrivals,
        energy=meter.energy(),
        no_card=no_card,
    )


def _say(what: str) -> None:
    """Where it is, for those who wait."""
    Console(stderr=True).print(what, markup=False, highlight=False)


def _warm_up(way: StationWay, inputs: Inputs) -> list[float]:
    return [timed_ms(way, way.prepare(image))[0] for image in _cycled(inputs.paths, _WARM_UP)]


def _cycled(paths: Sequence[Path], count: int) -> list[Path]:
    return [paths[number % len(paths)] for number in range(count)]


def _backlog(
    ways: Sequence[StationWay], inputs: Inputs, amounts: Amounts, meter: EnergyMeter
) -> dict[str, tuple[float, ...]]:
    """Images per second of each round by the ways' names; the meter is on while the first way works."""
    waiting = _cycled(inputs.paths, amounts.waiting)
    runs: dict[str, Callable[[], float]] = {
        way.name: StationBacklog(way.desk, way.inbox, waiting).images_per_second for way in ways
    }
    first = runs[ways[0].name]

    def metered() -> float:
        with meter.running(amounts.waiting):
            return first()

    runs[ways[0].name] = metered
    return run_in_turn(runs, amounts.rounds, "backlog")


def _after_pauses(way: StationWay, inputs: Inputs, amounts: Amounts) -> Idle | None:
    if amounts.pause_s is None:
        return None
    _say(f"timing {amounts.pauses} images after pauses of {amounts.pause_s:g} s")
    found = []
    for image in counted(_cycled(inputs.paths, amounts.pauses), "after pauses", Console(stderr=True)):
        prepared = way.prepare(image)
        time.sleep(amounts.pause_s)
        found.append(timed_ms(way, prepared)[0])
    return Idle(amounts.pause_s, tuple(found))


def _offered(way: StationWay, inputs: Inputs, amounts: Amounts, backlog_per_s: float) -> tuple[Offered, ...]:
    if amounts.load_s is None:
        return ()
    _say(f"offering {len(amounts.shares)} rates, {amounts.load_s:g} s each")
    return tuple(
        measure_offered(
            *(way.desk, way.inbox, inputs.paths, backlog_per_s, share, amounts.load_s, amounts.arrivals)
        )
        for share in counted(amounts.shares, "offered load", Console(stderr=True))
    )


def _figures(
    benches: Sequence[_Bench],
    runs: dict[str, Runs],
    rates: dict[str, tuple[float, ...]],
    different: int,
) -> tuple[EngineFigures, ...]:
    first = benches[0].way.name
    reference = reference_of([bench.engine for bench in benches]).name

    def agreeing(name: str) -> Agreement | None:
        if len(benches) == 1 or name == reference:
            return None
        return agreement(runs[reference].findings[:different], runs[name].findings[:different])

    found = []
    for bench in benches:
        name, pipeline = bench.way.name, bench.engine.pipeline
        run = runs[name]
        times_ms = {**run.stage_ms, TOTAL: run.ms}
        found.append(
            EngineFigures(
                name=name,
                bundle=pipeline.bundle_id,
                engine=pipeline.engine_id,
                images=len(run.ms),
                leukocytes=sum(map(len, run.findings[:different])),
                stages=tuple(StageTimes.of(stage, times) for stage, times in times_ms.items()),
                times_ms={
                    stage: tuple(round(ms, _DIGITS) for ms in times) for stage, times in times_ms.items()
                },
                first_ms=bench.first_ms,
                warm_ms=bench.warm_ms,
                backlog_per_s=rates[name],
                lanes=pipeline.crowd.lanes if pipeline.crowd else 0,
                ratio=None if name == first else median_ratio(run.ms, runs[first].ms),
                backlog_ratio=None if name == first else median_ratio(rates[name], rates[first]),
                agreement=agreeing(name),
                reference=reference if len(benches) > 1 else "",
            )
        )
    return tuple(found)
