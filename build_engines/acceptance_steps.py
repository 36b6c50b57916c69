"""Is it right: what the machine has, engines that are built and loaded, and answers held against FP32."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path

from build_engines.acceptance_run import PRECISION, Figure, Outcome, Run, job_of, on_card
from build_engines.engine_store import plan_name
from build_engines.engines_build import try_engines
from build_engines.errors import EngineError
from build_engines.gate import cpu_reference, how_far, installed_cpu_backends, strain
from build_engines.parity import Parity, compare_findings
from build_engines.preflight import installed_version
from edge.bundle import Bundle
from edge.engine_files import ENGINES_FOLDER, engines_of
from edge.errors import EdgeError
from edge.geometry import letterbox
from edge.pipeline import open_pipeline
from edge.progress import counted
from edge.selftest import TOLERANCES, Deviation, require_known_answers

_GATE_CROPS = 64
_MEMORY_BYTES = 2_000_000_000
"""Of the host, that must be free."""
_CARD_MEMORY_MB = 1000
_PACKAGES = ("pycuda", "cuda-bindings", "nvidia-ml-py")


def preflight(run: Run) -> Outcome:
    """Driver, CUDA, TensorRT, pycuda, cuda-bindings, memory, disk, and the images."""
    found = run.found
    reasons = [found.why_not(run.target)]
    blocks = bool(reasons[0])
    if found.machine is None:
        return Outcome(why=f"{found.no_card}; docs/gpu.md tells what to install")
    versions = {package: installed_version(package) for package in _PACKAGES}
    reasons += [
        f"{package} is not installed; `pip install {package}`"
        for package, has in versions.items()
        if not has and package not in reasons[0]
    ]
    free_bytes = _free_memory_bytes()
    if free_bytes < _MEMORY_BYTES:
        reasons.append(
            f"{free_bytes / 1e9:.1f} GB of memory are free, and {_MEMORY_BYTES / 1e9:.0f} GB are needed"
        )
    figures: dict[str, Figure] = {
        "card": found.machine.gpu,
        "compute capability": found.machine.compute_capability,
        "driver": found.machine.driver or "unknown",
        run.target: found.libraries[run.target].version or "not usable",
        **{package: has or "not installed" for package, has in versions.items()},
        "memory free, GB": free_bytes / 1e9,
        "memory of the card, GB": found.machine.memory_bytes / 1e9,
        "disk free, GB": found.disk_bytes / 1e9,
    }
    try:
        run.nvml = run.means.find_nvml()
        run.note_state("before")
        reasons.append(_why_not_state(run, versions["cuda-bindings"]))
        figures["CUDA of the driver"] = run.states["before"].cuda
    except EdgeError as error:
        reasons.append(str(error).rstrip("."))
    try:
        figures["images"] = run.images.words
    except EdgeError as error:
        reasons.append(str(error).rstrip("."))
        blocks = True
    why = "; ".join(filter(None, reasons))
    said = f"{found.machine.gpu}, driver {found.machine.driver}, {run.target} {figures[run.target]}"
    return Outcome(said, why, figures, blocks=blocks)


def _why_not_state(run: Run, bindings: str) -> str:
    """What is wrong with what NVML tells, "" if nothing."""
    state = run.states["before"]
    if state.cuda is not None and bindings and int(state.cuda.split(".")[0]) < int(bindings.split(".")[0]):
        return (
            f"the driver knows CUDA {state.cuda} and cuda-bindings is {bindings}; update the driver, or "
            f"`pip install 'cuda-bindings=={state.cuda.split('.')[0]}.*'`"
        )
    if state.memory_total_mb is None or state.memory_used_mb is None:
        return "NVML does not tell the card's memory; update the driver"
    free_mb = state.memory_total_mb - state.memory_used_mb
    if free_mb < _CARD_MEMORY_MB:
        return (
            f"{free_mb:.0f} MB of the card's memory are free, and {_CARD_MEMORY_MB} MB are needed; end other "
            "programs that use it"
        )
    return ""


def build(run: Run) -> Outcome:
    """All engines of the bundle, in a folder where there were none."""
    folder = run.scratch / "bundle"
    shutil.copytree(run.bundle.path, folder, ignore=shutil.ignore_patterns(ENGINES_FOLDER))
    job = job_of(run, folder)
    orders = {plan_name(run.target, order, job.machine): order for order in job.orders()}
    began = time.monotonic()
    run.means.build(job, run.console)
    build_s = time.monotonic() - began
    engines = {engine.plan.name: engine for engine in engines_of(folder, run.target)}
    lacking = [str(order) for name, order in orders.items() if name not in engines]
    if lacking:
        raise EngineError(
            f"{len(lacking)} of {len(orders)} engines were not built, first that of {lacking[0]}; look at "
            "what the builder said before."
        )
    run.built = Bundle.load(folder)
    rows: list[dict[str, Figure]] = [
        {
            "engine": name,
            "MB": engine.plan.stat().st_size / 1e6,
            "s": engine.record.build_s,
            "FP16 outputs of layers": engine.record.layer_types.get("HALF", 0),
            "outputs of layers": sum(engine.record.layer_types.values()),
        }
        for name, engine in engines.items()
    ]
    return Outcome(f"{len(engines)} engines in {build_s:.1f} s", figures={"s": build_s}, rows=rows)


def deserialise(run: Run) -> Outcome:
    """Every engine is loaded, gets a context and buffers, and runs three times."""
    began = time.monotonic()
    with on_card(run):
        open_s = time.monotonic() - began
    count = len(engines_of(run.built.path, run.target))
    return Outcome(f"{count} engines loaded and warmed up in {open_s:.1f} s", figures={"s": open_s})


def self_test(run: Run) -> Outcome:
    """The known answers that the bundle carries, as at every start of a station."""
    with on_card(run) as engine:
        found = require_known_answers(engine.networks, run.bundle.golden(), run.threshold, PRECISION)
    return Outcome(_words(found), figures=_figures(found))


def gate(run: Run) -> Outcome:
    """Every engine at its own size of batch, on known answers and on images."""
    chosen = run.images.spread(run.amounts.gate_images)
    rgbs = {run.images.names[index]: run.images.rgb(index) for index in chosen}
    reference = cpu_reference(run.bundle, rgbs, f"{len(rgbs)} of {run.images.words}", _GATE_CROPS)
    tried = try_engines(run.built, run.built.path, run.backend(), run.target, reference)
    rows: list[dict[str, Figure]] = []
    failed: list[str] = []
    for _, one in tried:
        off = one.result
        rows.append(
            {
                "engine": one.name,
                "boxes, px": off.box_px,
                "scores": off.score,
                "probabilities": off.probability,
                "strays most on": one.worst,
                "gate": "passed" if off.passed else "failed",
            }
        )
        if not off.passed:
            failed.append(f"{one.name} ({one.fault or how_far(one)})")
    why = f"{'; '.join(failed)}; build again, since two builds can differ" if failed else ""
    return Outcome(f"{len(tried)} engines on {reference.images}", why, rows=rows, blocks=False)


def parity(run: Run) -> Outcome:
    """Findings end to end on every image, of the engines and of FP32 on the processor."""
    tolerance, spec = TOLERANCES[PRECISION], run.bundle.manifest.detectors[0]
    cpu = installed_cpu_backends()[-1]
    worst, worst_strain, worst_index = Deviation(0, 0, 0), 0.0, 0
    every: list[Parity] = []
    with on_card(run) as engine, open_pipeline(run.bundle, cpu, "f32") as reference:
        for index in counted(range(len(run.images)), "parity", run.console):
            rgb = run.images.rgb(index)
            _, placement = letterbox(rgb, spec.tile_size, spec.anchor, spec.pad)
            pair = compare_findings(
                reference.read(rgb),
                engine.pipeline.read(rgb),
                placement,
                run.bundle.manifest.classes,
                run.threshold,
                tolerance,
            )
            every.append(pair)
            worst = worst.worst(pair.deviation)
            if strain(pair.deviation, tolerance) > worst_strain:
                worst_strain, worst_index = strain(pair.deviation, tolerance), index
    name = run.images.names[worst_index] if worst_strain else ""
    figures: dict[str, Figure] = {
        "images": len(every),
        "cells on the card": sum(pair.cells for pair in every),
        f"cells on {cpu} f32": sum(pair.reference_cells for pair in every),
        "cells too near to the threshold to count": sum(pair.unsure for pair in every),
        "classes too close to call that differ": sum(pair.close_calls for pair in every),
        "strays most on": name,
        **_figures(worst),
    }
    why = ""
    if not tolerance.allows(worst):
        pair = every[worst_index]
        why = (
            f"{name} strays most: {pair.cells} cells on the card and {pair.reference_cells} on {cpu} f32, "
            f"{_words(pair.deviation)}; build again, since two builds can differ"
        )
        _tell_file(run, worst_index)
    said = f"{figures['cells on the card']} cells in {len(every)} images, {_words(worst)}"
    return Outcome(said, why, figures, blocks=False)


def _tell_file(run: Run, index: int) -> None:
    """Here and not in the report, which leaves the machine."""
    source = run.images.sources[index]
    if isinstance(source, Path):
        run.console.print(f"{run.images.names[index]} is {source}", markup=False, soft_wrap=True)


def _words(found: Deviation) -> str:
    tolerance = TOLERANCES[PRECISION]
    return (
        f"boxes {found.box_px:.3g} px off ({tolerance.box_px} allowed), scores {found.score:.3g} "
        f"({tolerance.score}), probabilities {found.probability:.3g} ({tolerance.probability}), "
        f"{found.classes_differ} classes differ"
    )


def _figures(found: Deviation) -> dict[str, Figure]:
    return {f"largest difference, {name}": value for name, value in asdict(found).items()}


def _free_memory_bytes() -> int:
    """Memory that a new program can have; 0 where the kernel does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
