"""How far a build is: a bar on a terminal, plain lines in a journal or a file."""

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

_LINE_EVERY_S = 30.0
"""Between two plain lines of one build."""


class BuildProgress:
    """Shows the phases of one build; as `build_engines.engine.Progress` has it, from any thread."""

    def __init__(self, title: str, console: Console) -> None:
        self._title = title
        self._console = console
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._began = self._last_line = time.monotonic()
        self._bars: Bars | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bars = Bars(*columns, console=console, transient=True)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if error is None:
            self._say(f"built in {time.monotonic() - self._began:.1f} s")

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside `parent` if there is one."""
        with self._lock:
            depth = self._phases[parent].depth + 1 if parent in self._phases else 0
            title = f"{self._title}: {phase}" if depth == 0 else f"{'  ' * depth}{phase}"
            task = self._bars.add_task(title, total=steps) if self._bars is not None else None
            self._phases[phase] = _Phase(depth, steps, task)

    def step(self, phase: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is done."""
        with self._lock:
            found = self._phases.get(phase)
            if found is None:
                return
            if self._bars is not None and found.task is not None:
                self._bars.update(found.task, completed=step + 1)
            elif time.monotonic() - self._last_line > _LINE_EVERY_S:
                self._last_line = time.monotonic()
                elapsed = self._last_line - self._began
                self._say(f"{phase}, step {step + 1} of {found.steps}, {elapsed:.0f} s so far")

    def finish(self, phase: str) -> None:
        """A phase ends, maybe before its last step."""
        with self._lock:
            found = self._phases.pop(phase, None)
            if self._bars is not None and found is not None and found.task is not None:
                self._bars.remove_task(found.task)

    def _say(self, what: str) -> None:
        self._console.print(f"{self._title}: {what}", soft_wrap=True, markup=False, highlight=False)


class _Phase:
    def __init__(self, depth: int, steps: int, task: TaskID | None) -> None:
        self.depth, self.steps, self.task = depth, steps, task
