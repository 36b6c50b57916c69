"""`make gpu-acceptance`: the one command that proves the way over TensorRT on the first card it meets.

It builds, loads, tries and measures, in this order, and writes a report after every step. Nothing is skipped:
a step that cannot be run because another one failed has failed, too. Not run on a GPU: only on doubles of the
card.
"""

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from edge.cli import FOLDER, NumberRange, show_any_name
from edge.errors import EdgeError

if TYPE_CHECKING:
    from build_engines.acceptance_report import Report, StepReport
    from build_engines.acceptance_run import Outcome, Run

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """One step: its name, the steps without which it cannot be run, and what it does."""

    name: str
    needs: tuple[str, ...]
    do: "Callable[[Run], Outcome]"


def steps() -> tuple[Step, ...]:
    """All steps, in their order."""
    from build_engines import acceptance_steps as right
    from build_engines import acceptance_timing as timing

    return (
        Step("PREFLIGHT", (), right.preflight),
        Step("BUILD", ("PREFLIGHT",), right.build),
        Step("DESERIALISE", ("BUILD",), right.deserialise),
        Step("SELFTEST", ("DESERIALISE",), right.self_test),
        Step("GATE", ("DESERIALISE",), right.gate),
        Step("PARITY", ("DESERIALISE",), right.parity),
        Step("COLD", ("SELFTEST",), timing.cold),
        Step("LATENCY", ("DESERIALISE",), timing.latency),
        Step("IDLE", ("DESERIALISE",), timing.idle),
        Step("GRAPHS", ("DESERIALISE",), timing.graphs),
        Step("MEMORY", ("DESERIALISE",), timing.memory),
        Step("STATE", ("DESERIALISE",), timing.state),
    )


def accept(run: "Run", keep: "Callable[[Report], None]") -> "Report":
    """Do all steps that can be done.

    Args:
        run: what is tried.
        keep: gets the report after every step, so that one is there even if the process dies in the next.
    """
    from build_engines.acceptance_report import Report, Result, StepReport, project_versions
    from edge.bench import machine

    amounts = {name.replace("_", " "): value for name, value in asdict(run.amounts).items()}
    subject = {"bundle": run.bundle.id, "target": run.target, **amounts}
    begun_at = datetime.now(UTC).isoformat(timespec="seconds")
    report = Report(begun_at, subject, project_versions(), machine(), ())
    done: list[StepReport] = []
    blocked: set[str] = set()
    every = steps()
    for number, step in enumerate(every):
        rest = [
            StepReport(one.name, _what(one), Result.NOT_RUN, "the command ended before it")
            for one in every[number + 1 :]
        ]
        running = StepReport(step.name, _what(step), Result.FAILED, "the process died in it")
        keep(replace(report, steps=(*done, running, *rest)))
        lacking = [name for name in step.needs if name in blocked]
        if lacking:
            found = replace(running, result=Result.NOT_RUN, why=f"needs {' and '.join(lacking)}")
        else:
            found = _done(step, run)
        if found.result is not Result.PASSED and found.outcome.blocks:
            blocked.add(step.name)
        done.append(found)
        _tell(found)
        if found.why == _INTERRUPTED:
            done += rest
            break
    report = replace(report, steps=tuple(done))
    keep(report)
    return report


_INTERRUPTED = "interrupted by hand"


def _done(step: Step, run: "Run") -> "StepReport":
    from build_engines.acceptance_report import Result, StepReport, finite
    from build_engines.acceptance_run import Outcome
    from edge.backends.tensorrt_log import one_line

    began = time.monotonic()
    try:
        outcome = step.do(run)
    except EdgeError as error:
        outcome = Outcome(why=str(error).rstrip("."))
    except KeyboardInterrupt:
        outcome = Outcome(why=_INTERRUPTED)
    except Exception as error:  # a step that fails in a way nobody foresaw must not hide the next ones
        log.exception("%s failed.", step.name)
        outcome = Outcome(why=f"{type(error).__name__}: {one_line(str(error))}; report it with this file")
    outcome = replace(
        outcome,
        figures={name: finite(value) for name, value in outcome.figures.items()},
        rows=[{name: finite(value) for name, value in row.items()} for row in outcome.rows],
    )
    result = Result.FAILED if outcome.why else Result.PASSED
    return StepReport(step.name, _what(step), result, outcome.why, time.monotonic() - began, outcome)


def _what(step: Step) -> str:
    return " ".join((step.do.__doc__ or "").split())


def _tell(step: "StepReport") -> None:
    if step.result == "not run":  # the last line names them all
        return
    click.echo(f"{step.result:8}{step.name:12}{step.why or step.outcome.said} ({step.seconds:.1f} s)")


@click.command()
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="What is tried; without it, the best that this machine can.",
)
@click.option("--bundle", type=FOLDER, help="Model bundle; the embedded one without it.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of smear images for gate, parity, latency and memory; drawn ones without it.",
)
@click.option("--count", type=click.IntRange(1), default=10_000, show_default=True,
              help="Images of the memory run.")  # fmt: skip
@click.option("--pauses", type=click.IntRange(1), default=5, show_default=True, help="Idle pauses.")
@click.option("--idle-s", type=NumberRange(0), default=60.0, show_default=True,
              help="Seconds of an idle pause.")  # fmt: skip
@click.option("--out", type=FOLDER, default="gpu-acceptance", show_default=True, help="Folder of the report.")
def main(target: str | None, bundle: Path | None, images: Path | None, count: int, pauses: int, idle_s: float,
         out: Path) -> None:  # fmt: skip
    """Build, load, try and measure the engines of a bundle on this machine's card, and write a report."""
    show_any_name()
    logging.basicConfig(format="%(message)s")
    try:
        report = _accept_here(target, bundle, images, count, pauses, idle_s, out)
    except EdgeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"The report is in {out}; it names no image by its file.")
    click.echo(report.verdict, err=not report.passed)
    sys.exit(0 if report.passed else 1)


def _accept_here(target: str | None, path: Path | None, images: Path | None, count: int, pauses: int,
                 idle_s: float, out: Path) -> "Report":  # fmt: skip
    from rich.console import Console

    from build_engines.acceptance_images import drawn_images, images_of
    from build_engines.acceptance_report import save
    from build_engines.acceptance_run import Amounts, Means, Run
    from build_engines.errors import EngineError
    from build_engines.preflight import Preflight
    from edge.bundle import Bundle, embedded_bundle
    from edge.engine_files import TARGETS, Target
    from edge.memory import keep_memory_flat

    keep_memory_flat()  # as the station does
    console = Console(stderr=True)
    found = Preflight.look(out)
    named: Target | None = (
        None if target is None else "tensorrt_rtx" if target == "tensorrt-rtx" else "tensorrt"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".scratch-", dir=out))
    except OSError as error:
        raise EngineError(
            f"{out} cannot be written ({error.strerror}); give another folder with --out."
        ) from error
    try:
        run = Run(
            bundle=Bundle.load(path or embedded_bundle()),
            found=found,
            target=named or found.best_target() or TARGETS[0],
            make_images=lambda: drawn_images() if images is None else images_of(images, console),
            amounts=Amounts(memory_images=count, pauses=pauses, idle_s=idle_s),
            means=Means(),
            scratch=scratch,
            console=console,
        )
        return accept(run, lambda report: save(report, out))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
