"""`make demo`: a station at work on drawn smears, from the dropped file to the row and the picture.

The images are drawings with known truth. How well the model does on them says nothing of real blood.
"""

import csv
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.child import Child, drop, watching
from edge.demo.renderer import DrawnSmear, draw_field, draw_tile
from edge.errors import StationError
from edge.geometry import iou_matrix
from edge.overlay import encode_jpeg

_FIELD_CELLS = 20
_DROP_PERIOD_S = 0.1
_PATIENCE_S = 120.0
_MARK = ".edge-demo"
"""A folder with this file in it was made by the demo and may be removed by the next one."""

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Findings against what was drawn.

    Attributes:
        drawn: leukocytes drawn.
        found: of these, with a finding of IoU 0.5 or more.
        agreeing: of these, with the class that was drawn.
        findings: all findings.
    """

    drawn: int
    found: int
    agreeing: int
    findings: int


def show(out: Path, tiles: int, fields: int) -> None:
    """Run the demo.

    Raises:
        StationError: `out` is somebody's folder or cannot be written, or the station did not answer every
            image.
    """
    console = Console()
    inbox, results = out / "inbox", out / "results"
    try:
        if out.exists() and not (out / _MARK).exists():
            raise StationError(f"{out} exists and is not from a demo; give another folder with --out.")
        shutil.rmtree(out, ignore_errors=True)
        (inbox / "drawn-smear-1").mkdir(parents=True)
        (out / _MARK).touch()
    except OSError as error:
        raise StationError(
            f"{out} cannot be written ({error.strerror}); give another folder with --out."
        ) from error
    console.print(
        f"Drawing {tiles} tiles and {fields} fields of 2592x1944 px (drawn smears, not real blood)."
    )
    truth = {f"tile-{seed:03}.jpg": draw_tile(seed) for seed in range(tiles)}
    truth |= {f"field-{seed:03}.jpg": draw_field(seed, _FIELD_CELLS) for seed in range(fields)}
    log = out / "edge-watch.log"
    console.print(f"Starting edge-watch {inbox} --out {results} --overlays", markup=False)
    with watching(inbox, results, log, "--overlays") as station:
        for name, smear in truth.items():
            drop(inbox / "drawn-smear-1" / name, encode_jpeg(smear.rgb))
            time.sleep(_DROP_PERIOD_S)
        _follow(results, len(truth), console, station)
    images = _read_csv(results / "images.csv")
    findings = _read_csv(results / "results.csv")
    _print_summary(console, images, compare(truth, findings), results)
    if len(images) < len(truth):
        raise StationError(f"{len(truth) - len(images)} images have no answer; see {log}.")


def _follow(results: Path, expected: int, console: Console, station: Child) -> None:
    """Print the rows as they come, until every image has its row or the station has ended."""
    shown = 0
    deadline_s = time.monotonic() + _PATIENCE_S
    while shown < expected and station.is_running and time.monotonic() < deadline_s:
        images = _read_csv(results / "images.csv")
        cells: dict[str, list[str]] = {}
        for row in _read_csv(results / "results.csv"):
            cells.setdefault(row["NAME"], []).append(f"{row['class']} {float(row['class_score']):.2f}")
        for row in images[shown:]:
            found = cells.get(row["NAME"], [])
            more = f" … {len(found)} in all" if len(found) > 4 else ""
            console.print(
                f"{row['NAME']}  {row['status']:<8} {float(row['latency_ms']):6.1f} ms  "
                f"{', '.join(found[:4])}{more}",
                highlight=False,
            )
        shown = len(images)
        time.sleep(0.1)


def _read_csv(path: Path) -> list[Row]:
    """Whole rows only: the last line may be in the making."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def compare(truth: Mapping[str, DrawnSmear], findings: list[Row]) -> Agreement:
    """Count drawn leukocytes that were found and named as drawn."""
    drawn = found = agreeing = 0
    for name, smear in truth.items():
        rows = [row for row in findings if row["NAME"] == name]
        boxes = np.array([[row[side] for side in ("x1", "y1", "x2", "y2")] for row in rows], np.float32)
        best, partner = _partners(smear.boxes_xyxy, boxes.reshape(-1, 4))
        drawn += len(smear.labels)
        found += int((best >= 0.5).sum())
        agreeing += sum(
            overlap >= 0.5 and rows[index]["class"] == label
            for overlap, index, label in zip(best, partner, smear.labels, strict=True)
        )
    return Agreement(drawn, found, agreeing, len(findings))


def _partners(
    truth_xyxy: NDArray[np.float32], found_xyxy: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """For each drawn box the best overlap and the finding that has it, [n] each."""
    if not len(found_xyxy):
        return np.zeros(len(truth_xyxy), np.float32), np.zeros(len(truth_xyxy), np.intp)
    ious = iou_matrix(truth_xyxy, found_xyxy)
    return ious.max(1), ious.argmax(1)


def _print_summary(console: Console, images: list[Row], agreement: Agreement, results: Path) -> None:
    table = Table(title="The station on drawn smears", show_header=False)
    by_kind = {
        kind: [float(row["latency_ms"]) for row in images if row["NAME"].startswith(kind)]
        for kind in ("tile", "field")
    }
    table.add_row("images", str(len(images)))
    table.add_row("leukocytes found, of drawn", f"{agreement.found} of {agreement.drawn}")
    table.add_row("classes agreeing", f"{agreement.agreeing} of {agreement.found}")
    table.add_row("findings where nothing was drawn", str(agreement.findings - agreement.found))
    unlike = sum(float(row["unlike_training"] or 0) > 1 for row in images)
    table.add_row("images unlike those it was trained on", f"{unlike}: they are drawings")
    for kind, times_ms in by_kind.items():
        if times_ms:
            table.add_row(f"milliseconds a {kind}, median", f"{statistics.median(times_ms):.1f}")
    console.print(table)
    for what, path in (
        ("rows", "results.csv"),
        ("images", "images.csv"),
        ("annotated pictures", "annotated"),
    ):
        console.print(f"{what}: {results / path}", markup=False, highlight=False)
