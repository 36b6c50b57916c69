"""The report: docs/benchmarks.md with its picture, and every figure as JSON. Made from measurements alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.targets import (
    EMBEDDED,
    ONNX,
    OPENVINO,
    TORCH,
    YOLO_B0,
    Comparison,
    bare,
    comparisons,
    station,
)
from edge.bench.agreement import Agreement, agreement
from edge.bench.estimates import median
from edge.bench.interleaved import Runs
from edge.cells import Finding

PAGE, PICTURE, FIGURES = "benchmarks.md", "benchmarks.svg", "benchmarks.json"

SAME = "ultralytics torch + eager timm, same inputs"

_COLOUR = {"station": "#009e73", "bare networks": "#999999", "ultralytics": "#d55e00"}


@dataclass(frozen=True, slots=True)
class Measurements:
    """Everything that one run measured.

    Attributes:
        about: date, machine, versions, images, in words or numbers.
        precisions: of the station, the one that it takes by itself first.
        tiles, fields: runs by the ways' names.
        same_tiles, same_fields: findings of ultralytics torch + timm with the bundle's rounded weights and
            the station's tiles (`benchmarks.usual.SameInputs`).
        backlog: images per second of each round, by the ways' names.
    """

    about: Mapping[str, Any]
    precisions: Sequence[str]
    tiles: Mapping[str, Runs]
    fields: Mapping[str, Runs]
    same_tiles: Sequence[Sequence[Finding]]
    same_fields: Sequence[Sequence[Finding]]
    backlog: Mapping[str, Sequence[float]]

    @property
    def comparisons(self) -> list[Comparison]:
        """All ratios with their targets."""
        return comparisons(self.tiles, self.fields, self.backlog, self.precisions)

    @property
    def tile_agreements(self) -> dict[str, Agreement]:
        """Findings in tiles against those of the station with the same networks in f32, by name."""
        return _agreements(self.tiles, self.same_tiles, self.precisions)

    @property
    def field_agreements(self) -> dict[str, Agreement]:
        """The same in fields."""
        return _agreements(self.fields, self.same_fields, self.precisions)


def _agreements(
    runs: Mapping[str, Runs], same: Sequence[Sequence[Finding]], precisions: Sequence[str]
) -> dict[str, Agreement]:
    found: dict[str, Agreement] = {}
    for pair, usual in ((EMBEDDED, ()), (YOLO_B0, (TORCH, ONNX, OPENVINO))):
        reference = runs[station(pair, "f32")].findings
        for name in (*(station(pair, precision) for precision in precisions), *usual):
            found[name] = agreement(reference, runs[name].findings)
    found[SAME] = agreement(reference, same)  # the last reference is of the pair that both sides have
    return found


def write(measured: Measurements, folder: Path) -> None:
    """Save the page, its picture and the figures into an existing folder."""
    (folder / PAGE).write_text(to_markdown(measured), encoding="utf-8")
    draw(measured, folder / PICTURE)
    (folder / FIGURES).write_text(json.dumps(to_json(measured), indent=1) + "\n", encoding="utf-8")


def to_json(measured: Measurements) -> dict[str, Any]:
    """All figures, and the times they come from in the order of the images."""
    return {
        "about": dict(measured.about),
        "comparisons": [{**asdict(one), "met": one.met} for one in measured.comparisons],
        **{
            images: {
                name: {
                    "ms": [round(ms, 3) for ms in run.ms],
                    "mean_stage_ms": {stage: round(ms, 3) for stage, ms in run.mean_stage_ms().items()},
                }
                for name, run in runs.items()
            }
            for images, runs in (("tiles", measured.tiles), ("fields", measured.fields))
        },
        "agreement": {
            images: {name: asdict(one) for name, one in agreements.items()}
            for images, agreements in (
                ("tiles", measured.tile_agreements),
                ("fields", measured.field_agreements),
            )
        },
        "backlog_images_per_second": {
            name: [round(value, 2) for value in values] for name, values in measured.backlog.items()
        },
    }


def to_markdown(measured: Measurements) -> str:
    """The page: `page.md` of this folder with the facts and the tables in it."""
    template = Path(__file__).with_name("page.md").read_text(encoding="utf-8")
    return template.format(
        **measured.about,
        targets_table=_table(("", "ratio", "target", ""), map(_target_row, measured.comparisons)),
        tiles_table=_times(measured.tiles, measured.tile_agreements),
        fields_table=_times(measured.fields, measured.field_agreements),
        backlog_table=_rates(measured),
        tile_stages_table=_stages(measured.tiles, measured.precisions),
        field_stages_table=_stages(measured.fields, measured.precisions),
    )


def _target_row(one: Comparison) -> tuple[str, ...]:
    e = one.ratio
    verdict = {True: "met", False: "**missed**", None: ""}[one.met]
    return (
        one.what,
        f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})",
        f"{one.bound} {one.target:g}" if one.target else "none",
        verdict,
    )


def _times(runs: Mapping[str, Runs], agreements: Mapping[str, Agreement]) -> str:
    header = (
        "",
        "p50 ms",
        "95 %",
        "p90 ms",
        "cells",
        "in both",
        "same class",
        "worst px",
        "worst probability",
    )
    rows = []
    for name in dict.fromkeys((*runs, *agreements)):
        row = [name, *[""] * (len(header) - 1)]
        if name in runs:
            e = median(runs[name].ms)
            p90 = np.percentile(runs[name].ms, 90)
            row[1:4] = f"{e.value:.2f}", f"{e.low:.2f} to {e.high:.2f}", f"{p90:.2f}"
        if name in agreements:
            one = agreements[name]
            row[4:7] = str(one.cells), f"{one.matched} of {one.reference_cells}", str(one.same_class)
            row[7:] = f"{one.worst_box_px:.2f}", f"{one.worst_probability:.3f}"
        rows.append(row)
    return _table(header, rows)


def _rates(measured: Measurements) -> str:
    estimates = {name: median(values) for name, values in measured.backlog.items()}
    return _table(
        ("", "images a second", "95 %"),
        ((name, f"{e.value:.1f}", f"{e.low:.1f} to {e.high:.1f}") for name, e in estimates.items()),
    )


def _stages(runs: Mapping[str, Runs], precisions: Sequence[str]) -> str:
    columns = [(pair, one) for pair in (EMBEDDED, YOLO_B0) for one in precisions]
    stages = [runs[station(*column)].mean_stage_ms() for column in columns]
    limits = [runs[bare(*column)].mean_stage_ms() for column in columns]
    rows = [
        (stage, *(f"{times.get(stage, 0.0):.2f}" for times in stages))
        for stage in dict.fromkeys(stage for times in stages for stage in times)
    ]
    rows.append(("**all**", *(f"**{sum(times.values()):.2f}**" for times in stages)))
    for stage in ("detect", "classify"):
        rows.append((f"networks alone: {stage}", *(f"{times.get(stage, 0.0):.2f}" for times in limits)))
    return _table(("", *(", ".join(column) for column in columns)), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(measured: Measurements, path: Path) -> None:
    """Median milliseconds of each way, with a whisker to the 90th percentile."""
    heights = [len(measured.tiles), len(measured.fields)]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9}):
        figure = Figure(figsize=(9, 0.25 * sum(heights) + 1.2), layout="constrained")
        axes = figure.subplots(2, 1, height_ratios=heights)
        for one, title, runs in zip(
            axes, ("one tile", "one field of 20 cells"), (measured.tiles, measured.fields), strict=True
        ):
            names = list(runs)[::-1]
            middle = np.array([np.median(runs[name].ms) for name in names])
            reach = np.array([np.percentile(runs[name].ms, 90) for name in names])
            colours = [next(c for start, c in _COLOUR.items() if name.startswith(start)) for name in names]
            whiskers = [np.zeros_like(reach), reach - middle]
            one.barh(names, middle, color=colours, xerr=whiskers, ecolor="#444444")
            for place, (ms, end) in enumerate(zip(middle, reach, strict=True)):
                one.text(end + 0.01 * reach.max(), place, f"{ms:.1f}", va="center")
            one.set_title(f"{title}, ms (median, whisker to p90)", loc="left")
            one.spines[["top", "right"]].set_visible(False)
            one.margins(y=0.02)
            one.set_xlim(0, 1.1 * reach.max())
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
