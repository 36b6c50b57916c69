"""All engines of a bundle: which there are, built, held to the gate, and put where the station finds them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from build_engines.engine import build_engine
from build_engines.engine_network import Order
from build_engines.engine_store import (
    building_in,
    plan_name,
    remove_unreadable,
    unchanged_engine,
    write_engine,
)
from build_engines.errors import EngineError, writing
from build_engines.gate import Verdict, how_far, print_verdicts, verdict
from build_engines.job import Job
from build_engines.progress import BuildProgress
from build_engines.reference import Reference
from edge.backends.base import Backend, Session, find_backend
from edge.bundle import Bundle
from edge.engine_files import ENGINES_FOLDER, EngineFile, EngineRecord, Target, engines_of
from edge.errors import EdgeError

_STAGED = ".build"
"""Below the folder of engines: what is built and not yet tried."""


def build_untried(job: Job, console: Console) -> list[EngineFile]:
    """Build engines and put them into the bundle; none is tried here, the station's self-test will.

    Raises:
        EngineError: what could not be built, after all that could.
    """
    folder = job.out / ENGINES_FOLDER / job.target
    engines, errors = [], []
    with building_in(job.out / ENGINES_FOLDER):
        remove_unreadable(job.out, job.target)
        for order in job.orders():
            engine = _unchanged(job, order, console)
            if engine is None:
                try:
                    plan, record = _build(job, order, console)
                except EngineError as error:
                    console.print(f"{order}: not built", style="red", soft_wrap=True)
                    errors.append(str(error))
                    continue
                engine = write_engine(folder / plan_name(job.target, order, job.machine), plan, record)
            engines.append(engine)
    print_engines(engines)
    if errors:
        total = len(engines) + len(errors)
        raise EngineError(f"{len(errors)} of {total} engines were not built; of the first: {errors[0]}")
    return engines


def build_on_card(job: Job, reference: Reference, console: Console) -> list[EngineFile]:
    """Build engines, hold each to the gate on this card, and only then put them where the station looks.

    Not run on a GPU.

    Raises:
        EngineError: an engine could not be built or did not pass; then none is put there.
    """
    engines_folder = job.out / ENGINES_FOLDER
    orders = job.orders()
    finished: list[EngineFile] = []
    # Like the bundle, so that the backend can open from it what the station must not see yet.
    staged = engines_folder / _STAGED
    with building_in(engines_folder), _gone_at_the_end(staged):
        remove_unreadable(job.out, job.target)
        with writing(staged, EngineError):
            staged.mkdir()
            for graph in {order.onnx_path for order in orders}:
                (staged / graph.name).symlink_to(graph.resolve())
        for order in orders:
            engine = _unchanged(job, order, console)
            if engine is not None and engine.record.gate is not None:
                finished.append(engine)
                continue
            plan, record = (engine.read(), engine.record) if engine else _build(job, order, console)
            file = plan_name(job.target, order, job.machine)
            write_engine(staged / ENGINES_FOLDER / job.target / file, plan, record)
        try:
            built = gate_engines(job.bundle, staged, find_backend(job.target), job.target, reference)
        except EdgeError:
            if job.timing_cache is not None:  # the next build would choose the same kernels by it
                job.timing_cache.unlink(missing_ok=True)
            raise
        for engine in built:
            path = engines_folder / job.target / engine.plan.name
            finished.append(write_engine(path, engine.read(), engine.record))
    print_engines(finished)
    return finished


@contextmanager
def _gone_at_the_end(folder: Path) -> Iterator[None]:
    """Remove a folder in the end, and what a build that was killed has left of it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def gate_engines(
    bundle: Bundle, folder: Path, backend: Backend, target: Target, reference: Reference
) -> list[EngineFile]:
    """Hold every engine of a folder to the gate, each at its own batch size.

    Args:
        bundle: whose engines they are.
        folder: with the bundle's FP16 graphs and `engines/`.
        backend: that runs them.
        target: theirs.
        reference: what is held against them.

    Returns:
        The engines, with the gate in their records.

    Raises:
        EngineError: one did not pass.
    """
    gated = try_engines(bundle, folder, backend, target, reference)
    print_verdicts([one for _, one in gated], f"{target} against FP32")
    for engine, one in gated:
        if not one.result.passed:
            raise EngineError(
                f"{engine.plan.name} did not pass its gate and is not used ({one.fault or how_far(one)}); "
                "build again, since two builds can differ, or set another backend."
            )
    return [engine for engine, _ in gated]


def try_engines(
    bundle: Bundle, folder: Path, backend: Backend, target: Target, reference: Reference
) -> list[tuple[EngineFile, Verdict]]:
    """Every engine of a folder with the gate in its record, and what the gate says; see `gate_engines`."""
    threshold = bundle.manifest.thresholds.detection
    gated: list[tuple[EngineFile, Verdict]] = []
    for engine in engines_of(folder, target):
        record = engine.record
        sessions: list[Session | None] = [
            backend.open(folder, spec, record.precision) if spec.graph.fp16 == record.graph else None
            for spec in bundle.manifest.networks
        ]
        one = verdict(target, record.precision, sessions, reference, threshold, batch=record.batch)
        for session in filter(None, sessions):
            session.close()
        judged = EngineFile(engine.plan, record.model_copy(update={"gate": one.result}))
        gated.append((judged, replace(one, name=engine.plan.stem)))
    return gated


def _unchanged(job: Job, order: Order, console: Console) -> EngineFile | None:
    if job.rebuild:
        return None
    engine = unchanged_engine(job.out, job.target, order, job.trt.__version__, job.machine)
    if engine is not None:
        console.print(f"{order}: unchanged, not built again", soft_wrap=True)
    return engine


def _build(job: Job, order: Order, console: Console) -> tuple[bytes, EngineRecord]:
    with BuildProgress(str(order), console) as progress:
        return build_engine(job.trt, order, job.machine, progress)


def print_engines(engines: Sequence[EngineFile]) -> None:
    """Size and seconds of each, on standard output."""
    for engine in engines:
        record = engine.record
        halves, total = record.layer_types.get("HALF", 0), sum(record.layer_types.values())
        size_mb = engine.plan.stat().st_size / 1e6
        click.echo(
            f"{engine.plan}: {size_mb:.1f} MB, {record.build_s:.1f} s, {halves} of {total} tensors FP16"
        )
