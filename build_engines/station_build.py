"""From what this machine has to what its station runs: choose a target, build it, gate it, and tell."""

from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from build_engines.engines_build import build_on_card, build_untried
from build_engines.errors import EngineError
from build_engines.gate import Verdict, cpu_reference, gate, how_far, installed_cpu_backends, print_verdicts
from build_engines.job import Job
from build_engines.per_layer import compare_layers
from build_engines.preflight import Preflight
from build_engines.reference import Reference, gate_images
from edge.bundle import Bundle, embedded_bundle
from edge.engine_files import TARGETS, Target
from edge.pipeline import open_pipeline
from edge.settings import load_settings

_GATE_CROPS = 64


@dataclass(frozen=True, slots=True)
class Station:
    """What is asked of the station; see `edge.settings.Settings`."""

    bundle: Bundle
    backend: str
    precision: str
    fallback: str | None
    server_url: str | None


def station_of(settings: Path | None, bundle: Path | None) -> Station:
    """The station's bundle and engine.

    Args:
        settings: its settings file; the environment is read as the station reads it.
        bundle: in place of the one that is set.

    Raises:
        SettingsError: a setting is wrong.
        BundleError: the bundle is.
    """
    # A build needs neither folder, but the settings do not stand without them.
    nowhere = Path("/nonexistent")
    chosen = load_settings(settings, inbox=nowhere / "inbox", out=nowhere / "out", bundle=bundle)
    path = chosen.bundle or embedded_bundle()
    return Station(Bundle.load(path), chosen.backend, chosen.precision, chosen.fallback, chosen.server_url)


def build_for_station(
    station: Station,
    found: Preflight,
    target: str | None,
    out: Path | None,
    *,
    images: Path | None,
    most: int,
    compute_capability: tuple[str, ...],
    batch: tuple[int, ...],
    rebuild: bool,
    per_layer: bool,
) -> None:
    """Build and gate; the options are those of `build.py`.

    Raises:
        EngineError: it cannot be built here, or what was built, or what the station would use, did not pass.
    """
    console = Console(stderr=True)
    wanted = _target(station, found, target, compute_capability)
    bundle = station.bundle
    reference = cpu_reference(bundle, *gate_images(images, most), _GATE_CROPS)
    cpu = gate_on_cpu(bundle, reference)
    if wanted is not None:
        on_card = not compute_capability and found.machine is not None
        job = Job(
            trt=found.libraries[wanted].module,
            bundle=bundle,
            out=out or bundle.path,
            machine=found.machine if on_card else None,
            capabilities=compute_capability,
            batches=tuple(sorted(set(batch))),
            rebuild=rebuild,
        )
        _require_f16(cpu)
        if on_card:
            build_on_card(job, reference, console)
        else:
            build_untried(job, console)
            click.echo("They were run on no card yet; a station tests them when it starts.")
    if per_layer:
        if found.machine is None or wanted is None:
            raise EngineError(
                f"The layers were not compared, since that runs on a card ({found.no_card or 'no target'}); "
                "leave out --per-layer."
            )
        compare_layers(bundle, wanted)
    if out is None:
        _tell_what_is_used(station, cpu)


def _target(
    station: Station, found: Preflight, target: str | None, capabilities: tuple[str, ...]
) -> Target | None:
    """What to build; None where the station runs on the processor, which needs nothing built."""
    if target is None:
        if capabilities:
            raise EngineError("--compute-capability is for `--target tensorrt-rtx` only; give that too.")
        among = [name for name in TARGETS if station.backend in ("auto", name)]
        best = found.best_target(among)
        if best is None:
            for name in among:
                click.echo(f"No engine of {name} is built: {found.why_not(name)}.")
        return best
    wanted: Target = "tensorrt_rtx" if target == "tensorrt-rtx" else "tensorrt"
    if capabilities and wanted == "tensorrt":
        raise EngineError(
            "TensorRT builds for the card of this machine only; leave out --compute-capability, or give "
            "`--target tensorrt-rtx`."
        )
    reason = found.why_not(wanted, for_another_card=bool(capabilities))
    if reason:
        also = (
            "" if capabilities or wanted == "tensorrt" else "; for other cards than this machine's give "
            "--compute-capability"
        )  # fmt: skip
        raise EngineError(f"No engine of {wanted} can be built here ({reason}){also}.")
    return wanted


def gate_on_cpu(bundle: Bundle, reference: Reference) -> list[Verdict]:
    """Try what this machine's processor computes: also the FP16 graphs, whose numbers a card's are to be."""
    verdicts = gate(
        bundle.path,
        bundle.manifest.networks,
        reference,
        bundle.manifest.thresholds.detection,
        installed_cpu_backends(),
    )
    print_verdicts(verdicts, f"{bundle.id} on the processor against FP32, {reference.images}")
    return verdicts


def _require_f16(cpu: list[Verdict]) -> None:
    for one in cpu:
        if one.result.precision == "f16" and not one.result.passed:
            raise EngineError(
                f"The bundle's FP16 strays from FP32 already on {one.name} ({one.fault or how_far(one)}), so "
                "no engine is built of it; build the bundle anew, or stay with FP32 on the processor."
            )


def _tell_what_is_used(station: Station, cpu: list[Verdict]) -> None:
    engine = (station.backend, station.precision, station.fallback, station.server_url)
    with open_pipeline(station.bundle, *engine) as pipeline:
        why = f" ({pipeline.why})" if pipeline.why else ""
        click.echo(f"edge-watch runs {pipeline.bundle_id} on {pipeline.engine_id}{why}.")
        used = pipeline.engine_id.split(":")[:2]
    for one in cpu:
        if used == [one.result.backend, one.result.precision] and not one.result.passed:
            raise EngineError(
                f"{one.name}, which the station takes, did not pass the gate ({one.fault or how_far(one)}); "
                "set `precision` or `backend` to one that passed."
            )
