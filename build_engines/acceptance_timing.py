"""How fast and steady is it: cold, warm, steady and after idle, with and without CUDA graphs; memory; state.

No speed is a failure, for none has been measured on a card yet. What fails is an answer that does not come or
differs from the one before, a time that the card does not tell, memory that grows, and a card that is slowed
down.
"""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build_engines.acceptance_run import PRECISION, Figure, Graphs, OnCard, Outcome, Run, on_card
from build_engines.errors import EngineError
from build_engines.parity import compare_findings
from edge.bench import PERCENTILES
from edge.cells import Finding
from edge.engine_files import engines_of
from edge.geometry import letterbox
from edge.images import decode
from edge.progress import counted
from edge.selftest import TOLERANCES
from edge.stopwatch import Stopwatch

HOST_GROWTH_MB = 16.0
CARD_GROWTH_MB = 16.0
"""More is a leak. Over 10,000 images it is 1.6 kB an image, less than any tensor of a network."""
_IMAGES_AT_HAND = 16
_SAMPLES = 100
_COLD_S = 600
_STATES = ("before", "under load", "after idle")
_CARD_STAGES = ("upload", "compute", "download")

Image = NDArray[np.uint8]


def cold(run: Run) -> Outcome:
    """Processes of their own, each from its start to its first answer."""
    image = run.scratch / "first-image"
    image.write_bytes(run.images.data(0))
    command = [*run.means.cold_command, str(run.built.path), run.target, str(image)]
    rows: list[dict[str, Figure]] = []
    for number in counted(range(run.amounts.cold_starts), "cold starts", run.console):
        started = time.monotonic_ns()
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COLD_S)
        if done.returncode:
            said = (done.stderr.splitlines() or ["and did not say why"])[-1]
            raise EngineError(
                f"The process of cold start {number + 1} ended with {done.returncode} ({said}); run "
                "`python -m build_engines.cold_start` by hand to see all that it says."
            )
        told = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            {
                "start": number + 1,
                "to the first answer, ms": (told["answered_ns"] - started) / 1e6,
                "of that opening, ms": told["opened_ms"],
                "of that the image, ms": told["read_ms"],
            }
        )
    times_ms = [float(row["to the first answer, ms"] or 0) for row in rows]
    notes = ["This command kept the driver awake; a start that has to wake it takes longer (docs/gpu.md)."]
    return Outcome(f"first answer after {_all_of(times_ms)} ms", rows=rows, notes=notes)


def latency(run: Run) -> Outcome:
    """The first image after opening, and then one after the other, with the card's own times."""
    images = _at_hand(run)
    with on_card(run) as engine:
        began = time.perf_counter_ns()
        engine.pipeline.read(images[0])
        warm_ms = (time.perf_counter_ns() - began) / 1e6
        times_ms: dict[str, list[float]] = {"image": []}
        for number in counted(range(run.amounts.steady_images), "steady", run.console):
            for stage, ms in _timed(engine, images[number % len(images)]).items():
                times_ms.setdefault(stage, []).append(ms)
            if number == run.amounts.steady_images // 2:
                run.note_state("under load")
    rows: list[dict[str, Figure]] = [
        {
            "stage": stage,
            "images": len(ms),
            **{f"p{p}, ms": float(np.percentile(ms, p)) for p in PERCENTILES},
            "most, ms": max(ms),
        }
        for stage, ms in times_ms.items()
    ]
    lacking = [
        f"{stage}, {part}"
        for stage in engine.sessions()
        for part in _CARD_STAGES
        if not times_ms.get(f"{stage}, {part}")
    ]
    why = ""
    if lacking:
        why = f"the card told no times of {', '.join(lacking)}; give images with cells, and update the driver"
    p50, p90, p99 = (float(np.percentile(times_ms["image"], p)) for p in PERCENTILES)
    said = f"warm {warm_ms:.2f} ms; steady p50 {p50:.2f}, p90 {p90:.2f}, p99 {p99:.2f} ms"
    return Outcome(said, why, {"warm, ms": warm_ms}, rows, blocks=False)


def idle(run: Run) -> Outcome:
    """The first image after a pause, which is how a microscope works."""
    rgb = _at_hand(run)[0]
    rows: list[dict[str, Figure]] = []
    differences: list[str] = []
    with on_card(run) as engine:
        steady_ms = statistics.median(_timed(engine, rgb)["image"] for _ in range(10))
        before = engine.pipeline.read(rgb)
        for number in counted(range(run.amounts.pauses), "idle", run.console):
            run.means.sleep(run.amounts.idle_s)
            if number == run.amounts.pauses - 1:
                run.note_state("after idle")
            began = time.perf_counter_ns()
            after = engine.pipeline.read(rgb)
            first_ms = (time.perf_counter_ns() - began) / 1e6
            pause = f"after pause {number + 1} of {run.amounts.idle_s:g} s"
            differences += _difference(run, rgb, before, after, pause)
            rows.append(
                {
                    "pause": number + 1,
                    "first image, ms": first_ms,
                    "times steady": first_ms / steady_ms,
                    "next image, ms": _timed(engine, rgb)["image"],
                }
            )
    first_ms_of_all = [float(row["first image, ms"] or 0) for row in rows]
    said = f"after {run.amounts.idle_s:g} s {_all_of(first_ms_of_all)} ms, steady {steady_ms:.2f} ms"
    figures: dict[str, Figure] = {"pause, s": run.amounts.idle_s, "steady, ms": steady_ms}
    return Outcome(said, "".join(differences[:1]), figures, rows, blocks=False)


def graphs(run: Run) -> Outcome:
    """The same images with CUDA graphs and without them, in turn."""
    images = _at_hand(run)
    recorded, plain = Graphs(), Graphs(wanted=False)
    times_ms: tuple[list[float], list[float]] = ([], [])
    differences: list[str] = []
    with on_card(run, recorded) as with_graphs, on_card(run, plain) as without:
        plans = len(engines_of(run.built.path, run.target))
        if recorded.recorded < plans:
            said = recorded.fault.rstrip(".") or "no reason was given"
            raise EngineError(
                f"{recorded.recorded} of {plans} engines were recorded as CUDA graphs ({said}); install "
                "cuda-bindings that fit the driver."
            )
        for number in counted(range(run.amounts.graph_images), "graphs", run.console):
            rgb = images[number % len(images)]
            for engine, times in zip((with_graphs, without), times_ms, strict=True):
                times.append(_timed(engine, rgb)["image"])
            if number < len(images):
                answers = [engine.pipeline.read(rgb) for engine in (with_graphs, without)]
                differences += _difference(run, rgb, answers[0], answers[1], "without CUDA graphs")
    graph_ms, plain_ms = (statistics.median(times) for times in times_ms)
    figures: dict[str, Figure] = {
        "graphs recorded": recorded.recorded,
        "with, p50 ms": graph_ms,
        "without, p50 ms": plain_ms,
        "without / with": plain_ms / graph_ms,
    }
    said = f"without graphs {plain_ms / graph_ms:.2f} times as long ({plain_ms:.2f} and {graph_ms:.2f} ms)"
    return Outcome(said, "".join(differences[:1]), figures, blocks=False)


def memory(run: Run) -> Outcome:
    """Memory of the host and the card over many images."""
    if run.nvml is None:
        raise EngineError(
            "The card's memory was not watched, since NVML does not tell it; mend what PREFLIGHT says of it."
        )
    count = run.amounts.memory_images
    every = max(count // _SAMPLES, 1)
    host_mb, card_mb = [], []
    with on_card(run) as engine:
        for number in counted(range(count), "memory", run.console):
            engine.pipeline.read(decode(run.images.data(number % len(run.images))))
            if number % every == 0:
                host_mb.append(_resident_bytes() / 1e6)
                card_mb.append(run.nvml.memory_used_bytes() / 1e6)
    grown = {"host": _growth(host_mb), "card": _growth(card_mb)}
    limits = {"host": HOST_GROWTH_MB, "card": CARD_GROWTH_MB}
    figures: dict[str, Figure] = {"images": count}
    for place, samples in (("host", host_mb), ("card", card_mb)):
        figures |= {
            f"{place}, growth, MB": grown[place],
            f"{place}, growth allowed, MB": limits[place],
            f"{place}, most, MB": max(samples),
        }
    why = "; ".join(
        f"the {place}'s memory grew by {grown[place]:.1f} MB over {count} images, and {limits[place]:.0f} MB "
        "are allowed; report it with this file"
        for place in grown
        if grown[place] > limits[place]
    )
    said = f"host {grown['host']:+.1f} MB, card {grown['card']:+.1f} MB over {count} images"
    return Outcome(said, why, figures, blocks=False)


def state(run: Run) -> Outcome:
    """What NVML tells of the card before, under load and after idle."""
    if run.nvml is None:
        raise EngineError("NVML does not tell of the card; mend what PREFLIGHT says of it.")
    readings = {when: asdict(run.states[when]) for when in _STATES if when in run.states}
    rows: list[dict[str, Figure]] = [
        {"": name, **{when: _plain(values[name]) for when, values in readings.items()}}
        for name in next(iter(readings.values()))
    ]
    lacking = [when for when in _STATES if when not in run.states]
    loaded = run.states.get("under load")
    why = ""
    if lacking:
        why = f"the card's state {' and '.join(lacking)} was not read, since LATENCY or IDLE ended before"
    elif loaded is not None and loaded.slowed_by:
        slowed_by = ", ".join(loaded.slowed_by)
        why = f"under load the card is slowed down by {slowed_by}; look at fans, dust and power"
    notes = []
    if loaded is not None and not loaded.persistence:
        notes.append("Persistence mode is off or not told: see docs/gpu.md about it.")
    said = "; ".join(f"{when} P{one.pstate}, {one.sm_mhz} MHz" for when, one in run.states.items())
    return Outcome(said, why, rows=rows, notes=notes, blocks=False)


def _at_hand(run: Run) -> list[Image]:
    return [run.images.rgb(index) for index in run.images.spread(_IMAGES_AT_HAND)]


def _timed(engine: OnCard, rgb: Image) -> dict[str, float]:
    """Milliseconds of one image: "image" in all, each stage by the host's clock, and the card's own times."""
    watch = Stopwatch()
    findings = engine.pipeline.read(rgb, watch)
    times_ms = {"image": watch.elapsed_ms, **watch.stage_ms}
    for stage, session in engine.sessions().items():
        if stage.startswith("detect") or findings:  # else the times are of the last image
            times_ms |= {f"{stage}, {part}": ms for part, ms in session.stage_ms.items()}
    return times_ms


def _difference(run: Run, rgb: Image, one: list[Finding], other: list[Finding], when: str) -> list[str]:
    """What is wrong, in a sentence, where two answers to one image are not the same; none if they are."""
    spec = run.bundle.manifest.detectors[0]
    _, placement = letterbox(rgb, spec.tile_size, spec.anchor, spec.pad)
    classes, tolerance = run.bundle.manifest.classes, TOLERANCES[PRECISION]
    pair = compare_findings(one, other, placement, classes, run.threshold, tolerance)
    if tolerance.allows(pair.deviation):
        return []
    return [
        f"{when} the answer to the same image is another one ({pair.reference_cells} cells before and "
        f"{pair.cells} then, boxes {pair.deviation.box_px:.3g} px off); do not use this card, and report it"
    ]


def _growth(samples: Sequence[float]) -> float:
    """From the second tenth, when all has been done for the first time, to the last tenth."""
    tenth = max(len(samples) // 10, 1)
    return statistics.median(samples[-tenth:]) - statistics.median(samples[tenth : 2 * tenth] or samples)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _plain(value: object) -> Figure:
    if isinstance(value, tuple):
        return ", ".join(value) or "nothing"
    return value if isinstance(value, str | int | float | bool) else "not told"


def _all_of(times_ms: Sequence[float]) -> str:
    return ", ".join(f"{ms:.1f}" for ms in times_ms)
