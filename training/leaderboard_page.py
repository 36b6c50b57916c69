"""Reports of evaluations, ranked: what is read, what is shown, and the page."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from pydantic import BaseModel, ConfigDict, ValidationError

from edge.names import as_text
from training.bootstrap import Interval
from training.comparison import System, score_difference
from training.errors import AnnotationError
from training.svg_chart import BAR, INK, svg
from training.tally import ACCURACY, GIOU_TERM, MACRO_F1, PRECISION, RECALL, SCORE

REPORT = "report.json"
MEASURES = {
    SCORE: "score",
    MACRO_F1: "macro F1",
    GIOU_TERM: "GIoU term",
    ACCURACY: "accuracy",
    RECALL: "recall",
    PRECISION: "precision",
}


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Ends(_Read):
    low: float
    high: float


class _Score(_Read):
    score: float | None
    macro_f1: float | None
    giou_term: float | None


class _Detection(_Read):
    precision: float | None
    recall: float | None


class _Source(_Detection):
    source: str
    n_images: int
    accuracy: float | None
    macro_f1: float | None


class _Intervals(_Read):
    measures: dict[str, _Ends | None] = {}
    sources: dict[str, dict[str, _Ends | None]] = {}


class Report(_Read):
    """What the page needs of a report.json."""

    about: dict[str, str]
    n_images: int
    n_boxes: int
    annotations_sha256: str
    score: _Score
    accuracy: float | None
    macro_f1_covered: float | None = None
    calibration_error: float | None
    detection: _Detection
    sources: tuple[_Source, ...]
    intervals: _Intervals

    def measure(self, name: str) -> float | None:
        """One of `MEASURES`."""
        for part in (self.score, self.detection, self):
            if name in type(part).model_fields and not isinstance(getattr(part, name), BaseModel):
                value: float | None = getattr(part, name)
                return value
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Entry:
    """One evaluated system.

    Attributes:
        name: its folder, as far as it differs from those of others.
        median_ms: time of an image from file to durable row; None if nobody timed this bundle.
    """

    folder: Path
    name: str
    report: Report
    median_ms: float | None


@dataclass(frozen=True, slots=True)
class Value:
    """A figure as text, and its interval."""

    text: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One system on the page; `cells` in the order of `MEASURES`."""

    name: str
    bundle: str
    engine: str
    cells: tuple[Value, ...]
    behind: Value
    calibration_error: str
    median_ms: str
    sources: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """The systems that were evaluated on the same annotations, the best score first."""

    title: str
    n_images: int
    n_boxes: int
    sources: tuple[tuple[str, int, str], ...]
    rows: tuple[Row, ...]
    chart: Markup
    time_chart: Markup | None


def find_entries(folders: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """All reports in the folders and below, and sentences on what could not be used.

    Raises:
        AnnotationError: there is none.
    """
    paths = sorted({path.resolve() for folder in folders for path in folder.rglob(REPORT)})
    notes, read = [], []
    for path in paths:
        try:
            read.append((path.parent, Report.model_validate_json(path.read_bytes())))
        except (OSError, ValidationError):
            notes.append(
                f"{path} is no report of this version and was left out; run training.evaluate again."
            )
    if not read:
        raise AnnotationError(
            f"{', '.join(map(str, folders))} holds no {REPORT} of python -m training.evaluate; give the "
            "folders that it wrote."
        )
    common = Path(os.path.commonpath([read[0][0].parent, *(folder for folder, _ in read)]))
    entries = []
    for folder, report in read:
        median_ms, note = _median_ms(folder, report)
        notes += note
        entries.append(Entry(folder, as_text(str(folder.relative_to(common))), report, median_ms))
    return entries, notes


def _median_ms(folder: Path, report: Report) -> tuple[float | None, list[str]]:
    """From a file of edge-bench beside the report, if it is of the same bundle and engine."""
    notes: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            timed = _timed(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
            continue  # another file, and not of edge-bench
        wanted = (report.about.get("bundle id"), report.about.get("engine"))
        if wanted in timed:
            return timed[wanted], notes
        told = ", ".join(f"{bundle} on {engine}" for bundle, engine in timed)
        notes.append(
            f"{path} times {told}, but the report beside it is of {wanted[0]} on {wanted[1]}: its times were "
            "left out."
        )
    return None, notes


def _timed(figures: Any) -> dict[tuple[str | None, str | None], float]:
    """Median milliseconds by bundle and engine: of several engines, or of one as the first schema had it."""
    timed: dict[tuple[str | None, str | None], float] = {}
    for one in figures.get("engines", [figures]):
        total = next(times for times in one["stages"] if times["stage"] == "total")
        timed.setdefault((one["bundle"], one["engine"]), float(total["percentiles_ms"]["p50"]))
    return timed


def board(entries: Sequence[Entry]) -> Board:
    """Rank systems that were evaluated on the same annotations."""
    ranked = sorted(entries, key=lambda one: -(one.report.score.score or -math.inf))
    first = ranked[0]
    sources = first.report.sources
    rows = [
        Row(
            name=one.name,
            bundle=one.report.about.get("bundle id", "-"),
            engine=one.report.about.get("engine", "-"),
            cells=tuple(
                _value(one.report.measure(name), one.report.intervals.measures.get(name)) for name in MEASURES
            ),
            behind=Value("") if one is first else behind(first, one),
            calibration_error=_number(one.report.calibration_error),
            median_ms="-" if one.median_ms is None else f"{one.median_ms:.1f}",
            sources=tuple(_of_source(one.report, source) for source in sources),
        )
        for one in ranked
    ]
    about = first.report.about
    chosen = about.get("sources", "all")
    timed = [one for one in ranked if one.median_ms is not None and one.report.score.score is not None]
    return Board(
        title=about.get("annotations", "annotations") + ("" if chosen == "all" else f" ({chosen})"),
        n_images=first.report.n_images,
        n_boxes=first.report.n_boxes,
        sources=tuple(
            (one.source, one.n_images, "recall" if one.accuracy is None else "accuracy") for one in sources
        ),
        rows=tuple(rows),
        chart=Markup(_score_chart(ranked)),
        time_chart=Markup(_time_chart(timed)) if len(timed) > 1 else None,
    )


def behind(first: Entry, other: Entry) -> Value:
    """The difference in score on the same images."""
    try:
        found = score_difference(System.read(first.folder), System.read(other.folder))
    except AnnotationError:
        return Value("not known", "no cells.csv of both")
    if found.interval is None:
        return Value("alike" if found.difference == 0 else "not known")
    within = f"{found.interval.low:+.3f} to {found.interval.high:+.3f}"
    return Value(f"{found.difference:+.3f}" if found.told_apart else "not told apart", within)


def _of_source(report: Report, source: _Source) -> Value:
    """Accuracy, or recall of detection where the source has no classes."""
    found = next((one for one in report.sources if one.source == source.source), None)
    if found is None:  # the same images, evaluated with another provenance.csv
        return Value("-")
    name = RECALL if source.accuracy is None else ACCURACY
    within = report.intervals.sources.get(source.source, {}).get(name)
    return _value(found.recall if name == RECALL else found.accuracy, within)


def _value(number: float | None, within: _Ends | Interval | None) -> Value:
    return Value(_number(number), "" if within is None else f"{within.low:.3f} to {within.high:.3f}")


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _score_chart(ranked: Sequence[Entry]) -> str:
    """Scores and their intervals."""

    def draw(axes: Axes) -> None:
        for place, one in enumerate(ranked):
            within = one.report.intervals.measures.get(SCORE)
            if within is not None:
                axes.plot([within.low, within.high], [place, place], color=BAR, linewidth=2, alpha=0.5)
            if one.report.score.score is not None:
                axes.plot(one.report.score.score, place, "o", color=BAR, markersize=7)
        axes.set_yticks(range(len(ranked)), [one.name for one in ranked])
        axes.set_ylim(len(ranked) - 0.5, -0.5)
        axes.grid(axis="x", color="#e2dfe8", linewidth=0.8)
        axes.set_xlabel("score, with its 95 % interval")

    return svg(draw, (7.4, 0.9 + 0.34 * len(ranked)), "scores")


def _time_chart(timed: Sequence[Entry]) -> str:
    """Score against time."""

    def draw(axes: Axes) -> None:
        for one in timed:
            at = (one.median_ms or 0.0, one.report.score.score or 0.0)
            axes.plot(*at, "o", color=BAR, markersize=7)
            axes.annotate(one.name, at, (6, 4), textcoords="offset points", color=INK, size=8)
        axes.margins(x=0.25, y=0.25)
        axes.set(xlabel="median time of an image, ms", ylabel="score")

    return svg(draw, (7.4, 3.0), "times")


def render(boards: Sequence[Board], notes: Sequence[str]) -> str:
    """The page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("training").joinpath("leaderboard.html").read_text("utf-8"))
    return template.render(boards=boards, notes=notes, measures=list(MEASURES.values()))
