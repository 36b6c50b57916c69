"""Reports made by hand, of figures that nobody measured: doubles for what compares and draws them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge.bench.agreement import Agreement
from edge.bench.cold import ColdStart
from edge.bench.energy import Energy
from edge.bench.estimates import Estimate, StageTimes
from edge.bench.offered import figures_of
from edge.bench.report import SCHEMA, BenchReport, Conditions, EngineFigures, Idle

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "system": "Linux",
    "python": "3.11",
    "disk": "ext4",
    "packages": {"numpy": "2"},
}


def engine(
    name: str = "double:f32", slow: float = 1.0, images: int = 100, detect_ms: Sequence[float] | None = None
) -> EngineFigures:
    """Detection takes about 8 ms, and all of it 10 ms, times `slow`; every fourth image has no cell."""
    rng = np.random.default_rng(5)
    detect = np.array(detect_ms) if detect_ms is not None else slow * rng.normal(8, 0.4, images)
    classify = np.where(np.arange(images) % 4 == 0, 0.0, 1.5)
    times = {"detect": detect, "classify": classify, "total": detect + classify + 0.5}
    return EngineFigures(
        name=name,
        bundle="double-000000000000",
        engine=name,
        images=images,
        leukocytes=75,
        stages=tuple(StageTimes.of(stage, ms.tolist()) for stage, ms in times.items()),
        times_ms={stage: tuple(ms.tolist()) for stage, ms in times.items()},
        first_ms=20.0 * slow,
        warm_ms=(11.0 * slow, 12.0 * slow),
        backlog_per_s=(140.0 / slow, 150.0 / slow, 145.0 / slow),
        lanes=3,
    )


def report(slow: float = 1.0, **changes: object) -> BenchReport:
    """Of one engine, with every phase."""
    due_s = np.arange(400) / 10
    load = tuple(
        figures_of(share, due_s.tolist(), (due_s + slow * late_s).tolist(), 2)
        for share, late_s in ((0.5, np.tile((0.01, 0.01, 0.02, 0.01), 100)), (1.2, np.arange(1, 401) / 10))
    )
    made = BenchReport(
        schema=SCHEMA,
        taken_at="2026-01-01T00:00:00+00:00",
        input="16 drawn images",
        input_sha256="00",
        machine=MACHINE,
        conditions=Conditions("performance", 0.1, 0.05),
        engines=(engine(slow=slow),),
        waiting=32,
        cold=ColdStart((1.5, 1.6, 1.7), (30.0, 31.0, 32.0), (200.0, 201.0, 199.0), 300.0, 32, None),
        idle=Idle(5.0, (12.0 * slow, 13.0 * slow)),
        load=load,
        arrivals="exponential",
        energy=Energy({"package-0": 0.5}, ("card: there is no NVIDIA driver",)),
        no_card="there is no NVIDIA driver",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def with_another_engine(made: BenchReport, slow: float) -> BenchReport:
    """Beside the first, and not of one mind with it."""
    other = replace(
        engine("other:f32", slow),
        ratio=Estimate(slow, 0.9 * slow, 1.1 * slow),
        backlog_ratio=Estimate(1 / slow, 0.9 / slow, 1.1 / slow),
        agreement=Agreement(20, 19, 18, 17, 3.5, 0.1, 0.25),
        reference="double:f32",
    )
    return replace(made, engines=(replace(made.first, reference="double:f32"), other))
