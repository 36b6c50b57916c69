"""The accuracy gate: an engine answers known images as the FP32 reference does, or it is not used."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from build_engines.reference import Image, Reference, golden_reference, reference_answers
from edge.backends.base import CPU_BACKEND_NAMES, Backend, Outputs, Session, find_backend
from edge.bundle import Bundle, Known
from edge.errors import BackendError
from edge.manifest import GateResult, NetworkSpec
from edge.selftest import (
    TOLERANCES,
    Deviation,
    Tolerance,
    compare_answers,
)

_NOTHING = Deviation(0, 0, 0)
_FAILED = Deviation(float("inf"), 1, 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of an engine.

    Attributes:
        name: of the engine, for people.
        worst: the image that strays most, in words; "" where nothing strays.
        fault: why it gave no answers; "" if it did.
    """

    name: str
    result: GateResult
    worst: str = ""
    fault: str = ""


def judge(
    sessions: Sequence[Session | None],
    reference: Reference,
    threshold: float,
    tolerance: Tolerance,
    batch: int = 1,
) -> tuple[Deviation, str]:
    """Put known images to an engine, and compare what it answers with the reference.

    Every batch is full: at the end of the images their beginning fills it up.

    Args:
        sessions: the engine's, in the order of `Manifest.networks`; one that is None is not asked.
        reference: of all networks.
        threshold: of a finding.
        tolerance: what may be.
        batch: how many images at a time.

    Returns:
        The largest differences, and the name of the image that strays most.

    Raises:
        BackendError: the engine failed, or gave a number that is not finite.
    """
    every = [
        (names[index], compare_answers(ours, theirs, threshold, tolerance))
        for session, known, names in zip(sessions, reference.answers.networks, reference.names, strict=True)
        if session is not None
        for index, ours, theirs in _pairs(session, known, batch)
    ]
    worst = _NOTHING
    for _, deviation in every:
        worst = worst.worst(deviation)
    name, most = max(
        ((name, strain(deviation, tolerance)) for name, deviation in every), key=lambda pair: pair[1]
    )
    return worst, name if most else ""


def _pairs(session: Session, known: Known, size: int) -> Iterable[tuple[int, Outputs, Outputs]]:
    """Index, reference answer and the session's answer of each image, every one a batch of one."""
    for start in range(0, len(known.inputs), size):
        places = np.arange(start, start + size) % len(known.inputs)
        found = session.run(np.ascontiguousarray(known.inputs[places]))
        for row, index in enumerate(places):
            yield (
                int(index),
                {name: values[index : index + 1] for name, values in known.outputs.items()},
                {name: values[row : row + 1] for name, values in found.items()},
            )


def strain(found: Deviation, tolerance: Tolerance) -> float:
    """How much of the tolerance is used; above 1 is outside of it."""
    if found.classes_differ:
        return float("inf")
    return max(
        found.box_px / tolerance.box_px,
        found.score / tolerance.score,
        found.probability / tolerance.probability,
    )


def verdict(
    backend: str,
    precision: str,
    sessions: Sequence[Session | None],
    reference: Reference,
    threshold: float,
    batch: int = 1,
) -> Verdict:
    """What comes of judging; an engine that fails does not pass. Arguments are those of `judge`."""
    tolerance = TOLERANCES[precision]
    fault = ""
    try:
        found, worst = judge(sessions, reference, threshold, tolerance, batch)
    except BackendError as error:
        found, worst, fault = _FAILED, "", str(error)
    result = GateResult(
        backend=backend,
        precision=precision,
        passed=tolerance.allows(found),
        images=reference.images,
        box_px=min(found.box_px, 1e9),
        score=found.score,
        probability=found.probability,
    )
    return Verdict(f"{backend} {precision}", result, worst, fault)


def installed_cpu_backends() -> list[str]:
    """Those of `CPU_BACKEND_NAMES` that this machine has."""
    names = []
    for name in CPU_BACKEND_NAMES:
        try:
            find_backend(name)
        except BackendError:
            continue
        names.append(name)
    return names


def cpu_reference(bundle: Bundle, images: Mapping[str, Image], images_are: str, most_crops: int) -> Reference:
    """What a bundle's FP32 graphs answer on the CPU, after the known answers that it carries.

    Args:
        bundle: whose graphs and known answers.
        images: uint8 [H, W, 3] RGB each, by name.
        images_are: what they are, in words.
        most_crops: crops of them beyond it are left out.
    """
    backend = find_backend(installed_cpu_backends()[-1])  # ONNX Runtime where there is a choice
    with _sessions(backend, bundle.path, bundle.manifest.networks, "f32") as sessions:
        found = reference_answers(
            [session.run for session in sessions],
            bundle.manifest.networks,
            images,
            bundle.manifest.thresholds.detection,
            most_crops,
            images_are,
        )
    return golden_reference(bundle).joined(found)


@contextmanager
def _sessions(
    backend: Backend, folder: Path, networks: Sequence[NetworkSpec], precision: str
) -> Iterator[list[Session]]:
    """All networks on an engine, and closed again."""
    with ExitStack() as opened:
        sessions = []
        for spec in networks:
            sessions.append(backend.open(folder, spec, precision))
            opened.callback(sessions[-1].close)
        yield sessions


def gate(
    folder: Path,
    networks: Sequence[NetworkSpec],
    reference: Reference,
    threshold: float,
    backends: Sequence[str] = CPU_BACKEND_NAMES,
) -> list[Verdict]:
    """Try every precision of backends on a bundle's graphs.

    Args:
        folder: of the graphs' files.
        networks: the graphs, in the order of `Manifest.networks`.
        reference: what is held against them.
        threshold: of a finding.
        backends: their names.
    """
    verdicts = []
    for name in backends:
        backend = find_backend(name)
        for precision in backend.precisions():
            with _sessions(backend, folder, networks, precision) as sessions:
                verdicts.append(verdict(name, precision, sessions, reference, threshold))
    return verdicts


def how_far(one: Verdict) -> str:
    """The differences in words."""
    off = one.result
    return (
        f"boxes {off.box_px:.3g} px off, scores {off.score:.3g}, probabilities {off.probability:.3g}, "
        f"the most on {one.worst}"
    )


def print_verdicts(verdicts: Sequence[Verdict], title: str) -> None:
    """A table of the gate on standard error."""
    table = Table("engine", "boxes, px", "scores", "probabilities", "strays most on", "gate", title=title)
    for one in verdicts:
        off = one.result
        numbers = (f"{value:.2g}" for value in (off.box_px, off.score, off.probability))
        passed = "passed" if off.passed else "[red]failed"
        table.add_row(one.name, *numbers, escape(one.fault or one.worst), passed)
    Console(stderr=True).print(table)
