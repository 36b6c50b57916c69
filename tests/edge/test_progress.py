"""A long row of work tells how far it is."""

import io

import pytest
from rich.console import Console

from edge import progress
from edge.progress import counted


def test_a_long_row_of_images_is_told_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    journal = io.StringIO()
    assert list(counted(range(6), "memory", Console(file=journal))) == list(range(6))
    lines = journal.getvalue().splitlines()
    assert lines[0] == "memory: 1 of 6, 60 s so far"
    assert 1 < len(lines) < 6
    terminal = io.StringIO()
    assert list(counted("ab", "memory", Console(file=terminal, force_terminal=True))) == ["a", "b"]
