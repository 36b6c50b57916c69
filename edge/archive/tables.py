"""results.parquet and images.parquet: what the CSV files say, typed, with every probability and full boxes.

Names, samples and reasons are the cells of the CSV files, and paths are escaped in the same way
(`edge.results.unescape` gives the bytes back). The class codes, in the order of `probabilities`, stand in
the metadata of results.parquet under `classes`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from edge.cells import Finding
from edge.journal_tool.reader import ImageEntry
from edge.results import escape

CLASSES_KEY = b"classes"
"""Where the metadata of results.parquet has the class codes, as a JSON list."""

_FILE = [
    pa.field("name", pa.string(), nullable=False),
    pa.field("sample", pa.string(), nullable=False),
    pa.field("path", pa.string(), nullable=False),
    pa.field("image_sha256", pa.string()),
]
_ORIGIN = [
    pa.field("bundle", pa.string(), nullable=False),
    pa.field("engine", pa.string(), nullable=False),
    pa.field("finished_at", pa.timestamp("ms", tz="UTC"), nullable=False),
]
RESULTS_SCHEMA = pa.schema(
    [
        *_FILE,
        *(pa.field(side, pa.float32(), nullable=False) for side in ("x1", "y1", "x2", "y2")),
        pa.field("class", pa.string(), nullable=False),
        pa.field("detection_score", pa.float32(), nullable=False),
        pa.field("class_score", pa.float32(), nullable=False),
        pa.field("runner_up", pa.string()),
        pa.field("runner_up_score", pa.float32()),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),
        *_ORIGIN,
    ]
)
"""One row a leukocyte; the box in pixels of the decoded image, not rounded."""
IMAGES_SCHEMA = pa.schema(
    [
        *_FILE,
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("leukocytes", pa.int32(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("latency_ms", pa.float32(), nullable=False),
        pa.field("unlike_training", pa.float32()),
        pa.field("unlike_because", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        *_ORIGIN,
    ]
)
"""One row an image; size and time of change tell the next run whether it is still the same file."""

Answered = tuple[ImageEntry, Mapping[str, str], Sequence[Finding]]
"""An entry of the journal with its answer, its row of images.csv by column, and the findings."""


def images_table(answered: Iterable[Answered]) -> pa.Table:
    """The table of `IMAGES_SCHEMA`, in the order given."""
    rows = []
    for entry, row, findings in answered:
        width, height = entry.size_wh or (None, None)
        size_bytes, mtime_ns = (entry.stamp.size_bytes, entry.stamp.mtime_ns) if entry.stamp else (None, None)
        rows.append(
            {
                "status": entry.state.value,
                "reason": row["reason"],
                "leukocytes": len(findings),
                "width": width,
                "height": height,
                "latency_ms": entry.latency_ms,
                "unlike_training": None if entry.unlikeness is None else entry.unlikeness.ratio,
                "unlike_because": None if entry.unlikeness is None else entry.unlikeness.because,
                "size_bytes": size_bytes,
                "mtime_ns": mtime_ns,
                **_origin(entry, row),
            }
        )
    return pa.Table.from_pylist(rows, IMAGES_SCHEMA)


def results_table(answered: Iterable[Answered], classes: Sequence[str]) -> pa.Table:
    """The table of `RESULTS_SCHEMA`, in the order given.

    Args:
        classes: the bundle's class codes, in the order that `probabilities` gets.
    """
    rows = []
    for entry, row, findings in answered:
        origin = _origin(entry, row)
        for finding in findings:
            runner_up, runner_up_score = finding.runner_up or (None, None)
            rows.append(
                {
                    **dict(zip(("x1", "y1", "x2", "y2"), finding.box_xyxy, strict=True)),
                    "class": finding.label,
                    "detection_score": finding.detection_score,
                    "class_score": finding.class_score,
                    "runner_up": runner_up,
                    "runner_up_score": runner_up_score,
                    "probabilities": [finding.probabilities[code] for code in classes],
                    **origin,
                }
            )
    schema = RESULTS_SCHEMA.with_metadata({CLASSES_KEY: json.dumps(list(classes))})
    return pa.Table.from_pylist(rows, schema)


def _origin(entry: ImageEntry, row: Mapping[str, str]) -> dict[str, Any]:
    assert entry.finished_at is not None, "an answer has its time"
    return {
        "path": escape(entry.path),
        "name": row["NAME"],
        "sample": row["sample"],
        "image_sha256": entry.sha256.hex() if entry.sha256 else None,
        "bundle": entry.bundle,
        "engine": entry.engine,
        "finished_at": datetime.fromisoformat(entry.finished_at),
    }
