"""The figures as one page of HTML with plots: no other file, no script, nothing from elsewhere."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from edge.bench.charts import latency_chart, load_chart, ratio_chart, stage_chart
from edge.bench.compare import NO_DIFFERENCE, Comparison
from edge.bench.report import BenchReport, write_text
from edge.bench.table import (
    Rows,
    agreement_rows,
    comparison_rows,
    engine_rows,
    load_rows,
    notes,
    phase_rows,
    stage_rows,
    total_line,
)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #333344; background: #fff; max-width: 900px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4ec; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
.warning { border-left: 4px solid #d55e00; padding-left: .7rem; }
dt { font-weight: 600; } dd { margin: 0 0 .3rem 0; }
"""


def write_page(report: BenchReport, comparison: Comparison | None, path: Path) -> None:
    """Raises OutputFullError or BenchError if it cannot be written."""
    write_text(path, to_html(report, comparison))


def to_html(report: BenchReport, comparison: Comparison | None = None) -> str:
    """The page."""
    title = f"edge-bench: {report.first.bundle} on {report.first.engine}"
    body = "\n".join(_body(report, comparison))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n</body></html>\n"
    )


def _body(report: BenchReport, comparison: Comparison | None) -> Iterator[str]:
    first = report.first
    yield f"<p>{escape(report.taken_at)} (UTC)</p>"
    yield "\n".join(f"<p>{escape(sentence)}</p>" for sentence in notes(report))
    if comparison is not None:
        yield f"<h2>Against {escape(comparison.before)}</h2>"
        yield from (f'<p class="warning">{escape(warning)}</p>' for warning in comparison.warnings)
        told = [(change.what, change.ratio) for change in comparison.changes if change.has_interval]
        title = "ratio to before, right of 1 is slower; bars are 95 % intervals"
        yield ratio_chart(told, title, NO_DIFFERENCE)
        yield _table(comparison_rows(comparison))
    yield "<h2>How long an image takes</h2>"
    yield f"<p>{escape(total_line(first))}</p>"
    yield latency_chart(report.engines)
    yield f"<h2>Where the time goes, on {escape(first.name)}</h2>"
    yield stage_chart(first)
    yield _table(stage_rows(report))
    yield "<h2>From cold to crowded</h2>"
    yield _table(phase_rows(report))
    if len(report.engines) > 1:
        yield "<h2>Engines side by side</h2>"
        ratios = [(engine.name, engine.ratio) for engine in report.engines if engine.ratio is not None]
        yield ratio_chart(
            ratios,
            "time of an image, ratio to the first; right of 1 is slower; bars are 95 % intervals",
        )
        yield _table(engine_rows(report))
        yield f"<p>Findings against those of {escape(first.reference)}:</p>"
        yield _table(agreement_rows(report))
    if report.load:
        yield "<h2>Under load</h2>"
        yield (
            f"<p>Images arrive by themselves, with {escape(report.arrivals)} gaps; latency counts from the "
            "arrival of each. Lines are 95 % intervals; that of a p99 has no upper end where the table says "
            "or more.</p>"
        )
        yield load_chart(report.load)
        yield _table(load_rows(report))
    yield "<h2>Machine</h2>"
    facts = {**report.machine, **report.machine["packages"]}
    facts.pop("packages")
    yield _table(Rows(("", ""), tuple((name, str(value)) for name, value in facts.items())))


def _table(rows: Rows) -> str:
    return f"<table>{_row('th', rows.header)}{''.join(_row('td', row) for row in rows.rows)}</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
