"""The report of an acceptance run, to be sent to who wrote this: Markdown to read, JSON to compute with.

It names no image but drawn ones: all others are numbers.
"""

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from build_engines.acceptance_run import Figure, Outcome
from build_engines.engine_store import write_whole
from build_engines.preflight import installed_version

STEM = "gpu-acceptance"
_PACKAGES = (
    "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13", "pycuda", "cuda-bindings",
    "nvidia-ml-py", "onnxruntime", "openvino",
)  # fmt: skip


class Result(StrEnum):
    """What became of a step. All but PASSED count as failed: nothing is skipped."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step.

    Attributes:
        name: in capitals.
        what: it does, in a sentence.
        why: it did not pass, or could not be run.
        seconds: it took.
        outcome: what it found.
    """

    name: str
    what: str
    result: Result
    why: str = ""
    seconds: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run.

    Attributes:
        subject: what was tried and how: bundle, target, amounts.
        versions: of this project and of all that takes part.
        machine: processor, system and packages.
    """

    begun_at: str
    subject: Mapping[str, Figure]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    steps: Sequence[StepReport]

    @property
    def passed(self) -> bool:
        """Whether every step did."""
        return all(step.result is Result.PASSED for step in self.steps)

    @property
    def verdict(self) -> str:
        """The last line of the command: which steps failed, and why."""
        failed = [f"{step.name} ({step.why})" for step in self.steps if step.result is Result.FAILED]
        not_run = [step.name for step in self.steps if step.result is Result.NOT_RUN]
        if self.passed:
            return f"GPU acceptance passed: all {len(self.steps)} steps."
        also = f"; not run, and so failed: {', '.join(not_run)}" if not_run else ""
        return f"GPU acceptance failed: {'; '.join(failed)}{also}."


def save(report: Report, folder: Path) -> None:
    """Write both files, each whole or not at all.

    Raises:
        EngineError: the folder cannot be written.
    """
    text = json.dumps({"passed": report.passed, **asdict(report)}, indent=1, default=str, allow_nan=False)
    write_whole(folder / f"{STEM}.json", f"{text}\n".encode())
    write_whole(folder / f"{STEM}.md", as_markdown(report).encode())


def finite(value: Figure) -> Figure:
    """JSON knows no infinity, which is the distance of a cell that has no partner."""
    return value if not isinstance(value, float) or math.isfinite(value) else "infinite"


def as_markdown(report: Report) -> str:
    """The report for people."""
    parts = [f"# {report.verdict}", ""]
    facts = {"begun": report.begun_at, **report.subject, **report.versions}
    facts |= {name: value for name, value in report.machine.items() if name != "packages"}
    parts += _table([{"": name, " ": value} for name, value in facts.items()])
    parts += _table(
        [
            {
                "step": step.name,
                "result": step.result,
                "s": f"{step.seconds:.1f}",
                "": step.why or step.outcome.said,
            }
            for step in report.steps
        ]
    )
    for step in report.steps:
        if step.result is Result.NOT_RUN:
            continue
        outcome = step.outcome
        parts += [f"## {step.name}: {step.result}", "", step.what, ""]
        if step.why:
            parts += [_cell(step.why), ""]
        parts += _table([{"": name, " ": value} for name, value in outcome.figures.items()])
        parts += _table(outcome.rows)
        parts += [line for note in outcome.notes for line in (note, "")]
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_cell(row.get(name)) for name in head] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return " ".join(str("" if value is None else value).split()).replace("|", "\\|")


def project_versions() -> dict[str, str]:
    """Of this project and its commit, and of the packages that take part."""
    try:
        said = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        said = "unknown: no git, or not run from its folder"
    found = {"cytologia-edge": installed_version("cytologia-edge"), "commit": said}
    return found | {package: has for package in _PACKAGES if (has := installed_version(package))}
