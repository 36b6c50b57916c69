"""The figures as rows of text, and as tables on a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.bench.about import IN_MEMORY
from edge.bench.compare import Comparison
from edge.bench.estimates import PERCENTILES, Estimate, has_upper_end, median
from edge.bench.report import TOTAL, BenchReport, EngineFigures


@dataclass(frozen=True, slots=True)
class Rows:
    """A table as text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def print_report(report: BenchReport, console: Console) -> None:
    """All of it."""
    first = report.first
    title = f"{first.images} images, one at a time: {first.bundle} on {first.engine}"
    _print(console, title, stage_rows(report))
    _say(console, total_line(first))
    _print(console, "from cold to crowded", phase_rows(report))
    if len(report.engines) > 1:
        _print(console, "engines, image by image in turn", engine_rows(report))
        _print(console, f"findings against {first.reference}", agreement_rows(report))
    if report.load:
        _print(console, f"images that arrive with {report.arrivals} gaps, ms from arrival", load_rows(report))
    for sentence in notes(report):
        _say(console, sentence)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Before and after."""
    _print(console, f"now against {comparison.before} ({comparison.taken_at})", comparison_rows(comparison))
    for warning in comparison.warnings:
        _say(console, f"Warning: {warning}")


def stage_rows(report: BenchReport) -> Rows:
    """Stages of the first engine; the total comes last."""
    rows = []
    for times in report.first.stages:
        p50, *others = times.percentiles_ms.values()
        interval = _interval(50, *times.intervals_ms["p50"], report.first.images)
        cells = (f"{value:.2f}" for value in (*others, times.max_ms))
        rows.append((times.stage, f"{times.mean_ms:.2f}", f"{p50:.2f}", interval, *cells))
    header = ("stage, ms", "mean", "p50", "95 % of it", *(f"p{p}" for p in PERCENTILES[1:]), "max")
    return Rows(header, tuple(rows))


def total_line(engine: EngineFigures) -> str:
    """The total's percentiles with their intervals."""
    total, told = engine.total, []
    for p in PERCENTILES:
        interval = _interval(p, *total.intervals_ms[f"p{p}"], engine.images)
        told.append(f"p{p} {total.percentiles_ms[f'p{p}']:.2f} ({interval})")
    return f"From file to durable row, ms with 95 % intervals: {', '.join(told)}."


def _interval(percentile: int, low: float, high: float, count: int) -> str:
    return f"{low:.2f} to {high:.2f}" if has_upper_end(percentile, count) else f"{low:.2f} or more"


def phase_rows(report: BenchReport) -> Rows:
    """From the start of a process to a queue that never ends."""
    rows = []
    for what, unit, values in _phases(report):
        figures = (f"{value:.2f}" for value in (np.median(values), min(values), max(values)))
        rows.append((what, unit, *figures, str(len(values))))
    return Rows(("", "unit", "median", "least", "most", "of"), tuple(rows))


def _phases(report: BenchReport) -> list[tuple[str, str, Sequence[float]]]:
    first = report.first
    found: list[tuple[str, str, Sequence[float]]] = []
    if report.cold:
        found += [
            ("cold start: edge-watch until READY", "s", report.cold.ready_s),
            ("first image after that", "ms", report.cold.first_ms),
        ]
    found += [
        ("first image of an engine opened here", "ms", [first.first_ms]),
        ("warm: the images after it", "ms", first.warm_ms),
        ("steady: one image at a time", "ms", first.times_ms[TOTAL]),
    ]
    if report.idle:
        found.append((f"after a pause of {report.idle.pause_s:g} s", "ms", report.idle.ms))
    lanes = f"{first.lanes} at once" if first.lanes else "one after the other"
    found.append((f"backlog: {report.waiting} waiting images, {lanes}", "images/s", first.backlog_per_s))
    return found


def engine_rows(report: BenchReport) -> Rows:
    """Speed of the engines side by side."""
    rows = tuple(
        (
            engine.name,
            f"{engine.total.percentiles_ms['p50']:.2f}",
            _or_dash(engine.ratio),
            f"{median(engine.backlog_per_s).value:.1f}",
            _or_dash(engine.backlog_ratio),
        )
        for engine in report.engines
    )
    return Rows(("engine", "p50, ms", "time, ratio to the first", "backlog, images/s", "ratio"), rows)


def agreement_rows(report: BenchReport) -> Rows:
    """What the engines found, against the reference."""
    rows = tuple(
        (
            engine.name,
            f"{agreed.cells} of {agreed.reference_cells}",
            str(agreed.matched),
            str(agreed.same_class),
            f"{agreed.worst_box_px:.2f}",
            f"{agreed.worst_probability:.3f}",
        )
        for engine in report.engines
        if (agreed := engine.agreement) is not None
    )
    header = ("engine", "cells", "matched", "same class", "worst box, px", "worst probability")
    return Rows(header, rows)


def load_rows(report: BenchReport) -> Rows:
    """Latency by offered rate."""
    rows = tuple(
        (
            f"{one.share:.0%}",
            f"{one.rate_per_s:.1f}",
            f"{one.answered_per_s:.1f}",
            f"{one.p50_ms.value:.1f}",
            f"{one.p99_ms.value:.1f}" + ("" if has_upper_end(99, one.images) else " or more"),
            f"{one.most_ms:.1f}",
            str(one.longest_queue),
            one.verdict,
        )
        for one in report.load
    )
    return Rows(
        ("of the backlog", "offered/s", "answered/s", "p50, ms", "p99, ms", "max, ms", "queue", ""), rows
    )


def comparison_rows(comparison: Comparison) -> Rows:
    """Figures before and after."""
    rows = tuple(
        (
            change.what,
            change.unit,
            f"{change.before:.2f}",
            f"{change.after:.2f}",
            str(change.ratio) if change.has_interval else f"{change.ratio.value:.2f}",
            change.verdict,
        )
        for change in comparison.changes
    )
    return Rows(("", "unit", "before", "now", "ratio (95 %)", ""), rows)


def notes(report: BenchReport) -> list[str]:
    """Memory, energy, machine and conditions, a sentence each."""
    found = []
    if (cold := report.cold) is not None:
        started_mb = median(cold.started_mb).value
        said = f"Memory of edge-watch: {started_mb:.0f} MB when ready, {cold.peak_mb:.0f} MB at most"
        said += f" with {cold.images} images at once"
        if cold.card_mb is not None:
            said += f"; {cold.card_mb:.0f} MB of the card"
        found.append(f"{said}.")
    if report.no_card:
        found.append(f"Memory of a card not told: {report.no_card}.")
    if report.energy.joules_an_image:
        told = (f"{name} {joules:.2f} J" for name, joules in report.energy.joules_an_image.items())
        found.append(f"Energy of an image under backlog: {', '.join(told)}.")
    if report.energy.lacking:
        found.append(f"Energy not told: {'; '.join(report.energy.lacking)}.")
    machine, conditions = report.machine, report.conditions
    if machine.get("disk") in IN_MEMORY:
        found.append(
            f"All was written into memory ({machine['disk']}), where a commit costs next to nothing; set "
            "TMPDIR to a folder on the disk of the station."
        )
    found.append(f"Input: {report.input}; {report.first.leukocytes} leukocytes found.")
    found.append(
        f"Machine: {machine['processor']}, {machine['cores']} cores, governor {conditions.governor}; load "
        f"before {conditions.load_before:.2f}, others kept {conditions.others_cores:.2f} cores busy."
    )
    return found


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _or_dash(estimate: Estimate | None) -> str:
    return "-" if estimate is None else str(estimate)


def _print(console: Console, title: str, rows: Rows) -> None:
    table = Table(title=escape(title), title_justify="left")
    for place, column in enumerate(rows.header):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in rows.rows:
        if row[0] == TOTAL:
            table.add_section()
        table.add_row(*map(escape, row), end_section=row[0] == TOTAL)
    console.print(table)
