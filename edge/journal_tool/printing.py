"""Entries of the journal as lines for people and as JSON; whatever a file is called, a line stays one."""

import json
from typing import Any

from edge.cells import Finding
from edge.journal_tool.reader import ImageEntry, JournalReader

_REASON_WIDTH = 16
_LINE = "{:<24}  {:<9}  {:<16}  {:>5}  {:>10}  {:>10}  {}"


def printable(raw: bytes) -> str:
    """A path for one line of a terminal: as `exact_text`, and what does not print as Python escapes it."""
    return _on_one_line(exact_text(raw))


def exact_text(raw: bytes) -> str:
    """A path as text from which it can be had back: \\ becomes two, a byte that is not UTF-8 \\xHH."""
    return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def _on_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def title_line() -> str:
    """What stands above lines of `entry_line`."""
    return _LINE.format("answered", "status", "reason", "tries", "leukocytes", "latency ms", "path")


def entry_line(entry: ImageEntry) -> str:
    """An entry on one line; a long reason, such as the path of a duplicate, is cut."""
    reason = _on_one_line(entry.reason)
    if len(reason) > _REASON_WIDTH:
        reason = reason[: _REASON_WIDTH - 1] + "…"
    leukocytes = "-" if entry.leukocytes is None else entry.leukocytes
    latency = "-" if entry.latency_ms is None else f"{entry.latency_ms:.1f}"
    about = (entry.state, reason or "-", entry.tries, leukocytes, latency, printable(entry.path))
    return _LINE.format(entry.finished_at or "-", *about)


def entry_json(entry: ImageEntry) -> str:
    """An entry as a JSON object on one line; its keys are those of images.csv where there is one."""
    return json.dumps(_as_object(entry))


def _as_object(entry: ImageEntry) -> dict[str, Any]:
    width, height = entry.size_wh or (None, None)
    unlike = entry.unlikeness
    return {
        "path": exact_text(entry.path),
        "status": entry.state,
        "reason": entry.reason,
        "tries": entry.tries,
        "leukocytes": entry.leukocytes,
        "width": width,
        "height": height,
        "image_sha256": entry.sha256.hex() if entry.sha256 else None,
        "latency_ms": None if entry.latency_ms is None else round(entry.latency_ms, 1),
        "bundle": entry.bundle,
        "engine": entry.engine,
        "finished_at": entry.finished_at,
        "unlike_training": None if unlike is None else round(unlike.ratio, 3),
        "unlike_because": None if unlike is None else unlike.because,
    }


def image_json(reader: JournalReader, path: bytes) -> str:
    """All entries of a path, with findings and places of rows, as a JSON object on one line."""
    entries = []
    for entry in reader.entries(path):
        about = _as_object(entry)
        del about["path"]
        about["findings"] = [_finding_object(finding) for finding in reader.findings(entry.image_id)]
        about["rows"] = [
            {"file": write.file, "offset": write.offset, "bytes": len(write.data)}
            for write in reader.writes_of(entry.image_id)
        ]
        entries.append(about)
    return json.dumps({"path": exact_text(path), "entries": entries})


def image_text(reader: JournalReader, path: bytes) -> str:
    """All entries of a path, with findings and places of rows, on several lines."""
    lines = [printable(path)]
    for entry in reader.entries(path):
        lines += [f"  {line}" for line in _entry_lines(reader, entry)]
    return "\n".join(lines)


def _entry_lines(reader: JournalReader, entry: ImageEntry) -> list[str]:
    reason = f" ({_on_one_line(entry.reason)})" if entry.reason else ""
    tries = f"{entry.tries} {'try' if entry.tries == 1 else 'tries'}"
    lines = [f"{entry.finished_at or 'not answered yet'}: {entry.state}{reason}, {tries}"]
    size = "" if entry.stamp is None else f", {entry.stamp.size_bytes} bytes"
    pixels = "" if entry.size_wh is None else f", {entry.size_wh[0]}x{entry.size_wh[1]} px"
    lines.append(f"  sha256 {entry.sha256.hex() if entry.sha256 else 'unknown'}{size}{pixels}")
    if entry.latency_ms is not None:
        lines.append(f"  {entry.latency_ms:.1f} ms, bundle {entry.bundle}, engine {entry.engine}")
    if (unlike := entry.unlikeness) is not None:
        because = f": {_on_one_line(unlike.because)}" if unlike.because else ""
        lines.append(f"  {unlike.ratio:.2f} of the limit from the training images{because}")
    lines += [f"  {_finding_line(finding)}" for finding in reader.findings(entry.image_id)]
    lines += [
        f"  {write.file}: {len(write.data)} bytes from byte {write.offset} on"
        for write in reader.writes_of(entry.image_id)
    ]
    return lines


def _finding_line(finding: Finding) -> str:
    second = finding.runner_up
    then = "" if second is None else f", then {second[0]} {second[1]:.4f}"
    box = ", ".join(str(round(side)) for side in finding.box_xyxy)
    return (
        f"{finding.label} {finding.class_score:.4f}{then}; detection {finding.detection_score:.4f}; box {box}"
    )


def _finding_object(finding: Finding) -> dict[str, Any]:
    second = finding.runner_up or (None, None)
    return {
        "class": finding.label,
        "class_score": finding.class_score,
        "runner_up": second[0],
        "runner_up_score": second[1],
        "detection_score": finding.detection_score,
        "box_xyxy": list(finding.box_xyxy),
        "probabilities": finding.probabilities,
    }
