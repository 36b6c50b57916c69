"""A build tells how far it is: bars on a terminal, few plain lines in a journal."""

import io

import pytest
from rich.console import Console

from build_engines import progress
from build_engines.progress import BuildProgress


def a_build(console: Console) -> None:
    with BuildProgress("detector for 1 at a time", console) as told:
        told.start("Building", None, 2)
        told.start("Tactics [1/2]", "Building", 3)
        for step in range(3):
            told.step("Tactics [1/2]", step)
        told.finish("Tactics [1/2]")
        told.step("Building", 0)
        told.step("a phase that never began", 0)
        told.finish("Building")


def test_a_journal_gets_one_line_of_a_short_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    journal = io.StringIO()
    a_build(Console(file=journal))
    assert journal.getvalue() == "detector for 1 at a time: built in 0.0 s\n"


def test_a_journal_gets_a_line_every_half_minute_of_a_long_build(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    journal = io.StringIO()
    a_build(Console(file=journal))
    lines = journal.getvalue().splitlines()
    assert lines[0] == "detector for 1 at a time: Tactics [1/2], step 2 of 3, 60 s so far"
    assert len(lines) == 3


def test_a_terminal_sees_the_phases_and_then_one_line() -> None:
    screen = io.StringIO()
    a_build(Console(file=screen, force_terminal=True, width=100))
    assert "Building" in screen.getvalue()
    assert screen.getvalue().rstrip().endswith("built in 0.0 s")


def test_a_build_that_failed_is_not_called_built() -> None:
    journal = io.StringIO()
    with pytest.raises(ValueError, match="broken"), BuildProgress("detector", Console(file=journal)):
        raise ValueError("broken")
    assert journal.getvalue() == ""
