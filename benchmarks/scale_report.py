"""The section "Scale" of docs/performance.md with its pictures, and every figure as JSON."""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.growth import Growth, Point
from benchmarks.scale_charts import growth_chart, sharing_chart
from benchmarks.sharing import ALONE, PINNED, TWO, Shared
from benchmarks.starting import Starts
from benchmarks.whole_cost import WholeCost

PAGE, FIGURES, GROWTH, SHARING = "performance.md", "scale.json", "scale-growth.svg", "scale-sharing.svg"

_MOST_GROWTH, _LONGEST_START_S, _LEAST_RATIO = 0.1, 5.0, 0.9
_HEADING = "## Scale\n"
_WIDTH = 119


@dataclass(frozen=True, slots=True)
class Measurements:
    """Everything that one run measured.

    Attributes:
        about: date, machine, images, in words or numbers.
        shared: runs of each way, round by round.
    """

    about: Mapping[str, Any]
    whole: WholeCost
    growth: Growth
    starts: Starts
    shared: Mapping[str, Sequence[Shared]]


def write(measured: Measurements, folder: Path) -> None:
    """Put the section in the place of the one that the page has, or at its end; other sections stay."""
    page = folder / PAGE
    text = page.read_text("utf-8") if page.exists() else "# Performance\n"
    section = to_markdown(measured)
    found = re.search(rf"^{_HEADING}(?:.*\n)*?(?=## |\Z)", text, re.MULTILINE)
    begin, end = found.span() if found else (len(text), len(text))
    before, after = text[:begin].rstrip("\n"), text[end:]
    page.write_text("\n".join([before, "", section.rstrip("\n"), *(["", after] if after else [""])]), "utf-8")
    (folder / GROWTH).write_text(growth_chart(measured.growth, measured.whole), "utf-8")
    (folder / SHARING).write_text(sharing_chart(measured.shared), "utf-8")
    (folder / FIGURES).write_text(json.dumps(to_json(measured)) + "\n", "utf-8")


def to_json(measured: Measurements) -> dict[str, Any]:
    """All figures; times of single images with three digits."""
    figures: dict[str, Any] = _rounded(
        {
            "about": dict(measured.about),
            "whole": asdict(measured.whole),
            "growth": {
                "entries": measured.growth.entries,
                "journal_bytes": measured.growth.journal_bytes,
                "stretches": [asdict(stretch) for stretch in measured.growth.stretches],
                "points": [
                    {
                        "entries": point.entries,
                        **{
                            name: {
                                "lone_ms": side.lone_ms,
                                "lone_median_stage_ms": _median_stages(side.lone_stage_ms),
                                "waiting_ms": side.waiting_ms,
                            }
                            for name, side in (("grown", point.grown), ("empty", point.begun))
                        },
                    }
                    for point in measured.growth.points
                ],
            },
            "starts": asdict(measured.starts),
            "shared": {
                way: [
                    {"rates": run.rates, "ratio": run.ratio, "jain": run.jain, "by_second": run.by_second()}
                    for run in runs
                ]
                for way, runs in measured.shared.items()
            },
        }
    )
    return figures


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


def to_markdown(measured: Measurements) -> str:
    """The section: `scale.md` of this folder with the facts and the tables in it."""
    growth, whole, starts = measured.growth, measured.whole, measured.starts
    last = growth.points[-1]
    most = max(abs(share) for point in growth.points for share in _shares(point, whole))
    ready_s, ratio = max(starts.ready_known_s), median(run.ratio for run in measured.shared[TWO])
    template = Path(__file__).with_name("scale.md").read_text("utf-8")
    return _wrapped(
        template.format(
            **measured.about,
            **{key: value for key, value in asdict(whole).items() if key != "lanes"},
            lanes=f" and are read in {whole.lanes} lanes" if whole.lanes else "",
            entries=growth.entries,
            last_entries=last.entries,
            own_lone=median(last.grown.lone_ms) / median(last.begun.lone_ms),
            own_waiting=median(last.grown.waiting_ms) / median(last.begun.waiting_ms),
            growth_verdict=_verdict(most <= _MOST_GROWTH, f"at most {most:.1%} away"),
            growth_table=_growth_table(growth, whole),
            stages_table=_stages_table(last),
            journal_mb=growth.journal_bytes / 1e6,
            bytes_per_image=growth.journal_bytes / growth.entries,
            known=starts.known_files,
            starts_table=_starts_table(starts, growth.entries),
            starts_verdict=_verdict(ready_s < _LONGEST_START_S, f"the slowest took {ready_s:.1f} s"),
            sharing_table=_sharing_table(measured.shared),
            sharing_verdict=_verdict(ratio >= _LEAST_RATIO, f"{ratio:.2f}"),
            pinned=_pinned(measured.shared),
        )
    )


def _wrapped(text: str) -> str:
    """Paragraphs in lines of one width; tables, headings and pictures as they are."""
    blocks = text.rstrip("\n").split("\n\n")
    lines = (
        block if block.startswith(("|", "#", "!")) else textwrap.fill(block, _WIDTH, break_on_hyphens=False)
        for block in blocks
    )
    return "\n\n".join(lines) + "\n"


def _verdict(is_met: bool, figure: str) -> str:
    return f"{'met' if is_met else '**missed**'} ({figure})"


def _shares(point: Point, whole: WholeCost) -> tuple[float, float]:
    """What the grown journal adds to an image, alone and waiting, by what the image costs in all."""
    return (
        (median(point.grown.lone_ms) - median(point.begun.lone_ms)) / whole.lone_ms,
        (median(point.grown.waiting_ms) - median(point.begun.waiting_ms)) / whole.waiting_ms,
    )


def _growth_table(growth: Growth, whole: WholeCost) -> str:
    header = (
        *("entries", "alone, p50, ms", "empty journal", "of an image in all"),
        *("waiting, ms", "empty journal", "of an image in all"),
    )
    rows = []
    for point in growth.points:
        alone, waiting = _shares(point, whole)
        grown, begun = point.grown, point.begun
        rows.append(
            (
                f"{point.entries:,}",
                *(f"{median(grown.lone_ms):.3f}", f"{median(begun.lone_ms):.3f}", f"{alone:+.1%}"),
                *(f"{median(grown.waiting_ms):.3f}", f"{median(begun.waiting_ms):.3f}", f"{waiting:+.1%}"),
            )
        )
    return _table(header, rows)


def _stages_table(point: Point) -> str:
    grown, begun = (_median_stages(side.lone_stage_ms) for side in (point.grown, point.begun))
    return _table(
        ("", *grown),
        (
            (f"{point.entries:,} entries", *(f"{ms:.3f}" for ms in grown.values())),
            ("empty journal", *(f"{begun[stage]:.3f}" for stage in grown)),
        ),
    )


def _median_stages(laps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {stage: median(one.get(stage, 0.0) for one in laps) for stage in laps[0]}


def _starts_table(starts: Starts, entries: int) -> str:
    known = f"{starts.known_files:,} answered files in the inbox"
    rows = {
        f"journal of {entries:,} entries and CSV files opened, looked through and mended": starts.opened_s,
        "the same without its file in memory": starts.opened_cold_s,
        "ready: empty journal, empty inbox": starts.ready_begun_s,
        f"ready: {entries:,} entries, empty inbox": starts.ready_s,
        f"ready: {entries:,} entries, {known}": starts.ready_known_s,
        "from there to the answer of a new file behind all of them": starts.found_s,
    }
    return _table(
        ("", "median, s", "slowest, s"),
        ((what, f"{median(seconds):.2f}", f"{max(seconds):.2f}") for what, seconds in rows.items()),
    )


def _sharing_table(shared: Mapping[str, Sequence[Shared]]) -> str:
    rows = []
    for way, runs in shared.items():
        each = " and ".join(
            f"{median(rates):.1f}" for rates in zip(*(run.rates for run in runs), strict=True)
        )
        both = f"{median(run.ratio for run in runs):.2f}", f"{median(run.jain for run in runs):.3f}"
        rows.append(
            (
                *(way, each, f"{median(run.together for run in runs):.1f}"),
                *(both if way != ALONE else ("", "")),
                f"{_of_alone(shared, way):.2f}" if way != ALONE else "",
            )
        )
    return _table(("", "images a second", "sum", "ratio", "Jain's index", "of one alone"), rows)


def _of_alone(shared: Mapping[str, Sequence[Shared]], way: str) -> float:
    pairs = zip(shared[way], shared[ALONE], strict=True)
    return median(run.together / alone.together for run, alone in pairs)


def _pinned(shared: Mapping[str, Sequence[Shared]]) -> str:
    if PINNED not in shared:
        return ""
    ratio = median(a.together / b.together for a, b in zip(shared[PINNED], shared[TWO], strict=True))
    return (
        " With half of the cores each (`CPUAffinity=` in a drop-in of each unit) both together answer "
        f"{ratio:.2f} times as many images a second; but the cores of one that has nothing to do stay idle, "
        "and an image alone has half of them."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
