"""The report of an audit: one HTML file that needs no other."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from edge.cells import CELL_CLASSES
from training.annotations import LEUKOCYTE_WITHOUT_CLASS
from training.audit import charts
from training.audit.cleaning import CleanRow
from training.audit.faults import EXPLANATIONS, Action, Change, Fault
from training.audit.figures import Figures, count_classes
from training.audit.findings import Example, Findings

EXAMPLES = 12
_NAMES = {one.code: one.english for one in CELL_CLASSES} | {
    LEUKOCYTE_WITHOUT_CLASS: "leukocyte without a class"
}


def summary(findings: Findings) -> list[str]:
    """What was found, in plain sentences, the most important first."""
    n_given = sum(len(one.table.rows) for one in findings.tables)
    n_kept = sum(len(one.rows) for one in findings.tables)
    mended = {
        (one.file, one.line)
        for one in findings.changes
        if one.action is Action.MENDED and one.line is not None
    }
    kept_lines = {(one.table.label, row.line) for one in findings.tables for row in one.rows}
    sentences = [
        f"{_n(n_given, 'row')} in {_n(len(findings.tables), 'file')}: {n_kept:,} were kept, "
        f"{len(mended & kept_lines):,} of them mended; {n_given - n_kept:,} were dropped."
    ]
    counts = Counter(one.fault for one in findings.changes if one.line is None)
    to_tell = (
        (Fault.IN_TWO_FILES, "in more than one of the files"),
        (Fault.COPIES_DISAGREE, "with the bytes of another one, but other boxes or classes"),
        (Fault.NEAR_DUPLICATE, "that look like another one"),
        (Fault.LOST_SOME, "that lost some of their boxes and kept others"),
        (Fault.NO_ROWS, "that no row names"),
    )
    told = [f"{counts[fault]:,} {words}" for fault, words in to_tell if counts[fault]]
    if told:
        sentences.append(f"Images to look at: {'; '.join(told)}.")
    if len(findings.kept.classes) > 1:
        most, least = (pick(findings.kept.classes.items(), key=lambda one: one[1]) for pick in (max, min))
        sentences.append(
            f"The most frequent class, {most[0]}, has {most[1] / least[1]:.0f} times as many boxes as the "
            f"rarest, {least[0]} ({most[1]:,} and {least[1]:,})."
        )
    return sentences


def print_faults(findings: Findings, console: Console) -> None:
    """The summary and the faults on a terminal."""
    for sentence in (*summary(findings), *findings.unknown):
        console.print(sentence, markup=False, highlight=False)
    table = Table(box=SIMPLE, pad_edge=False)
    for place, name in enumerate(("fault", "images", "mended", "dropped", "to look at")):
        table.add_column(name, justify="right" if place else "left")
    for fault in Fault:
        cases = [one for one in findings.changes if one.fault is fault]
        if cases:
            counts = Counter(one.action for one in cases)
            images = len({(one.file, one.name) for one in cases})
            table.add_row(fault.value, str(images), *(str(counts[action] or "") for action in Action))
    if table.row_count:
        console.print(table)


def render(findings: Findings, examples_of: Callable[[Change], Example]) -> str:
    """The page.

    Args:
        examples_of: makes the pictures of one case; called for the first ones of each fault.
    """
    by_fault: dict[StrEnum, list[Change]] = defaultdict(list)
    for change in findings.changes:
        by_fault[change.fault].append(change)
    faults = [
        {
            "title": fault.value,
            "anchor": fault.name.lower(),
            "explanation": EXPLANATIONS[fault],
            "counts": Counter(one.action.value for one in cases),
            "n_images": len({(one.file, one.name) for one in cases}),
            "total": len(cases),
            "examples": [examples_of(one) for one in _spread(cases, EXAMPLES)],
        }
        for fault in Fault
        if (cases := by_fault.get(fault))
    ]
    rows = [row for one in findings.tables for row in one.rows]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("training.audit").joinpath("page.html").read_text("utf-8"))
    return template.render(
        findings=findings,
        summary=summary(findings),
        faults=faults,
        absent=[fault.value for fault in Fault if fault not in by_fault],
        figures=_figure_rows(findings.given, findings.kept),
        crosses=[table for table in (_by_file(findings), _by_source(findings)) if table],
        charts=draw_charts(findings, rows) if rows else {},
    )


def draw_charts(findings: Findings, rows: Sequence[CleanRow]) -> dict[str, Markup]:
    """The pictures of the kept rows, by their names in the page; there must be a row."""
    drawn = {
        "classes": charts.class_chart(findings.kept.classes, _NAMES),
        "sizes": charts.size_chart(rows),
        "positions": charts.position_chart(rows, findings.sizes_wh),
        "aspect": charts.aspect_chart(rows),
        "counts": charts.count_chart(findings.kept.boxes_per_image),
    }
    return {name: Markup(svg) for name, svg in drawn.items()}


def _figure_rows(given: Figures, kept: Figures) -> list[tuple[str, str, str]]:
    def both(what: str, tell: Callable[[Figures], str]) -> tuple[str, str, str]:
        return what, tell(given), tell(kept)

    return [
        both("boxes", lambda one: f"{one.n_boxes:,}"),
        both("images", lambda one: f"{one.n_images:,}"),
        both("images with one box", lambda one: f"{one.single_share:.1%}"),
        both("most boxes in an image", lambda one: str(max(one.boxes_per_image, default=0))),
        both("images with more than one class", lambda one: f"{one.several_classes:,}"),
        both("median box, px", lambda one: f"{one.median_wh[0]:g} x {one.median_wh[1]:g}"),
        both("classes", lambda one: str(len(one.classes.keys() - {LEUKOCYTE_WITHOUT_CLASS}))),
    ]


def _by_file(findings: Findings) -> dict[str, object] | None:
    if len(findings.tables) < 2:
        return None
    groups = {one.table.label: [row.label for row in one.rows] for one in findings.tables}
    return _cross("Boxes by class and file", groups)


def _by_source(findings: Findings) -> dict[str, object] | None:
    groups: dict[str, list[str]] = defaultdict(list)
    rows = (row for one in findings.tables for row in one.rows)
    for row, source in zip(rows, findings.sources, strict=True):
        groups[source].append(row.label)
    return _cross("Boxes by class and source", groups) if len(groups) > 1 else None


def _cross(title: str, groups: dict[str, list[str]]) -> dict[str, object]:
    counts = {name: count_classes(labels) for name, labels in sorted(groups.items())}
    classes = count_classes(label for labels in groups.values() for label in labels)
    rows = [(code, [one.get(code, 0) for one in counts.values()], total) for code, total in classes.items()]
    return {"title": title, "columns": list(counts), "rows": rows}


def _spread(cases: Sequence[Change], most: int) -> list[Change]:
    """Some of the cases, from the first to the last."""
    if len(cases) <= most:
        return [*cases]
    return [cases[place * (len(cases) - 1) // (most - 1)] for place in range(most)]


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
