"""Steps of a run: commands that are run when what they need is there, and once only."""

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from training.recipe_keys import RecipeError

_LAST_LINES = 8
_PATIENCE_S = 20
"""How long a command that was told to stop may take."""

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        name: of the step; a / is a folder of its log.
        command: the words that one would type.
        result: the file by which it is known that the command did its work.
        folder: what the command makes from nothing; None where it adds to what others made.
        inputs: files from outside of the run that it reads.
        needs: names of the steps that come before.
        changed_by: commands of later steps that change what it makes in place: with others it begins anew.
    """

    name: str
    command: tuple[str, ...]
    result: Path
    folder: Path | None = None
    inputs: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    changed_by: tuple[tuple[str, ...], ...] = ()

    @property
    def typed(self) -> str:
        """The command as a line."""
        return shlex.join(self.command)


@dataclass(slots=True)
class Run:
    """The folder of a run: stamps of its steps, and their logs."""

    folder: Path
    cards: Sequence[str] = ()
    """As CUDA_VISIBLE_DEVICES names them; each command sees the one on which the fewest run."""
    lines: dict[str, str] = field(default_factory=dict)
    """The last line that each running step wrote."""
    _on_cards: Counter[str] = field(default_factory=Counter)
    _choosing: threading.Lock = field(default_factory=threading.Lock)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: int | None = None

    @contextmanager
    def alone(self, say: Callable[[str], None]) -> Iterator[None]:
        """Wait until nobody else works in the folder: no other run, nor a command of one that was killed.

        Commands inherit the lock, so that it is held as long as one of them lives.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(
                    f"Another run, or a command of one that was killed, still works in {self.folder}: "
                    f"waiting for its end (fuser {self.folder / _LOCK} tells which it is)."
                )
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            except OSError as error:  # a file system of a network may have none
                say(f"{self.folder} gives no lock ({error.strerror}): start no second run in it.")
            yield
        finally:
            os.close(self._lock)
            self._lock = None

    def log(self, step: Step) -> Path:
        """Where the step's output goes."""
        return self.folder / "logs" / f"{step.name}.log"

    def is_done(self, step: Step) -> bool:
        """Whether its result is there, of this command, these inputs and the same steps before."""
        stamp = self._stamp(step.name)
        return stamp.get("done", 0) > 0 and stamp["of"] == self._of(step) and step.result.exists()

    def do(self, step: Step) -> None:
        """Run the command; one that was broken off goes on, one that has changed begins anew.

        Raises:
            RecipeError: it failed; the message has its last lines.
        """
        of = self._of(step)
        if step.folder is not None and self._stamp(step.name).get("of") != of:
            shutil.rmtree(step.folder, ignore_errors=True)
        self._write_stamp(step.name, {"of": of, "done": 0})
        began, log = time.monotonic(), self.log(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        code, last = self._run(step, log)
        if code != 0 or not step.result.exists():
            why = f"ended with {code}" if code else f"left no {step.result}"
            told = "\n".join(f"    {line}" for line in last[-_LAST_LINES:])
            raise RecipeError(f"{step.name} {why}; all that it said is in {log}, which ends with:\n{told}")
        seconds = round(time.monotonic() - began, 1)
        self._write_stamp(step.name, {"of": of, "done": time.time_ns(), "seconds": seconds})

    def stop(self) -> None:
        """End the commands that run; none is started any more."""
        self._stopping.set()
        for child in list(self._children):
            child.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        for child in list(self._children):
            try:
                child.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.kill()

    def _run(self, step: Step, log: Path) -> tuple[int, list[str]]:
        last: list[str] = []
        with (
            self._card_for(step) as card,
            log.open("wb") as file,
            subprocess.Popen(
                _executable(step.command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1", **card},
                pass_fds=() if self._lock is None else (self._lock,),
            ) as child,
        ):  # fmt: skip
            self._children.append(child)
            if self._stopping.is_set():
                child.terminate()
            file.write(f"$ {step.typed}\n".encode())
            for content in child.stdout or ():
                file.write(content)
                file.flush()
                # A bar is drawn again and again in one line.
                line = content.decode("utf-8", "replace").rstrip().rsplit("\r", 1)[-1]
                if line.strip():
                    last = [*last[-_LAST_LINES:], line]
                    self.lines[step.name] = line.strip()
            code = child.wait()
            self._children.remove(child)
        self.lines.pop(step.name, None)
        return code, last

    @contextmanager
    def _card_for(self, step: Step) -> Iterator[dict[str, str]]:
        """The environment in which a command sees one card; that of all for one that names its own."""
        if not self.cards or "--device" in step.command:
            yield {}
            return
        with self._choosing:
            card = min(self.cards, key=lambda one: self._on_cards[one])
            self._on_cards[card] += 1
        try:
            yield {"CUDA_VISIBLE_DEVICES": card}
        finally:
            with self._choosing:
                self._on_cards[card] -= 1

    def _of(self, step: Step) -> dict[str, Any]:
        """All that the result depends on; the folder of the run may be moved."""
        own, commands = str(self.folder), (step.command, *step.changed_by)
        command, *later = ([word.replace(own, "RUN") for word in words] for words in commands)
        return {
            **({"changed_by": later} if later else {}),
            "command": command,
            "inputs": [hashlib.sha256(path.read_bytes()).hexdigest() for path in step.inputs],
            "needs": {name: self._stamp(name).get("done", 0) for name in step.needs},
        }

    def _path(self, name: str) -> Path:
        return self.folder / "steps" / f"{name}.json"

    def _stamp(self, name: str) -> dict[str, Any]:
        try:
            stamp: dict[str, Any] = json.loads(self._path(name).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return stamp

    def _write_stamp(self, name: str, stamp: dict[str, Any]) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(stamp, indent=1) + "\n", "utf-8")
        partial.replace(path)


def cards_of_machine() -> list[str]:
    """The cards that this process may use, as CUDA_VISIBLE_DEVICES names them; none where there is one."""
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = told.split(",") if told else [str(index) for index in range(torch.cuda.device_count())]
    return names if len(names) > 1 else []


def _executable(command: Sequence[str]) -> list[str]:
    """The same with the programs of this environment."""
    first, *rest = command
    return [sys.executable if first == "python" else str(Path(sys.executable).with_name(first)), *rest]


def run_steps(run: Run, steps: Sequence[Step], jobs: int, console: Console) -> None:
    """Run all steps that are not done, `jobs` at a time where they do not wait for each other.

    A step that fails stops those that need it, and no others.

    Raises:
        RecipeError: the first failure, after all others have ended.
    """
    open_steps = {step.name: step for step in steps}
    finished: set[str] = set()
    failures: list[RecipeError] = []
    shown = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        TextColumn("{task.fields[line]}"), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip

    def say(text: str) -> None:
        shown.console.print(text, markup=False, highlight=False, soft_wrap=True)

    with run.alone(say), ThreadPoolExecutor(jobs) as pool, shown:
        running: dict[Future[None], tuple[Step, Any, float]] = {}
        try:
            while open_steps or running:
                for step in list(open_steps.values()):
                    if len(running) == jobs:
                        break
                    if not finished.issuperset(step.needs):
                        continue
                    del open_steps[step.name]
                    place = f"[{len(finished) + len(running) + len(failures) + 1}/{len(steps)}] {step.name}"
                    if run.is_done(step):
                        finished.add(step.name)
                        say(f"{place}: done before")
                        continue
                    if not console.is_terminal:
                        say(f"{place}: {step.typed}")
                    task = shown.add_task(place, total=None, line="")
                    running[pool.submit(run.do, step)] = (step, task, time.monotonic())
                if not running:
                    if any(finished.issuperset(step.needs) for step in open_steps.values()):
                        continue
                    break  # what is left needs what failed
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for step, task, _ in running.values():
                    shown.update(task, line=run.lines.get(step.name, "")[: max(console.width - 50, 10)])
                for future in done:
                    step, task, began = running.pop(future)
                    shown.remove_task(task)
                    try:
                        future.result()
                    except RecipeError as error:
                        failures.append(error)
                        say(f"{step.name}: failed")
                    else:
                        finished.add(step.name)
                        say(f"{step.name}: {time.monotonic() - began:.0f} s")
        except BaseException:
            run.stop()
            raise
    if failures:
        raise RecipeError(f"{failures[0]}\n{len(finished)} of {len(steps)} steps are done; give the same "
                          "command again to go on from there.")  # fmt: skip
