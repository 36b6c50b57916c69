"""Steps are done once, in order, and go on after a failure. The trainer is a double that writes a file."""

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from training.recipe_keys import RecipeError
from training.recipe_steps import Run, Step, run_steps

TRAINER_DOUBLE = """
import sys, pathlib
out, fails = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
with out.with_name(f"{out.name}-starts").open("a") as file:
    file.write("resumed\\n" if (out / "resume.pt").exists() else "anew\\n")
(out / "resume.pt").touch()
print("epoch 1 of 1")
if fails.exists():
    sys.exit("The double was told to fail.")
(out / "best.pt").write_text("weights")
"""


class Recipe:
    """Two networks and a bundle of both, all made by the double."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder / "run")
        self.data = folder / "train.csv"
        self.data.write_text("NAME\n")
        self.fails = folder / "fails"
        self.double = folder / "double.py"
        self.double.write_text(TRAINER_DOUBLE)
        self.said = io.StringIO()

    def step(self, name: str, *needs: str, may_fail: bool = False, option: str = "") -> Step:
        out = self.run.folder / name
        fails = str(self.fails) if may_fail else "never"
        command = ("python", str(self.double), str(out), fails, option)
        return Step(name, command, out / "best.pt", out, (self.data,), needs)

    def steps(self, option: str = "") -> list[Step]:
        return [self.step("a", may_fail=True), self.step("b", option=option), self.step("build", "a", "b")]

    def do(self, option: str = "", jobs: int = 1) -> None:
        run_steps(self.run, self.steps(option), jobs, Console(file=self.said))

    def starts(self) -> dict[str, list[str]]:
        every = {name: self.run.folder / f"{name}-starts" for name in ("a", "b", "build")}
        return {name: path.read_text().split() if path.exists() else [] for name, path in every.items()}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path)


def test_a_step_that_fails_leaves_the_others_and_goes_on_where_it_was(recipe: Recipe) -> None:
    recipe.fails.touch()
    with pytest.raises(RecipeError) as raised:
        recipe.do(jobs=2)
    message = str(raised.value)
    assert message.startswith(f"a ended with 1; all that it said is in {recipe.run.folder}/logs/a.log")
    assert "epoch 1 of 1\n    The double was told to fail." in message
    assert "1 of 3 steps are done" in message
    assert recipe.starts() == {"a": ["anew"], "b": ["anew"], "build": []}
    recipe.fails.unlink()
    recipe.do()
    assert recipe.starts() == {"a": ["anew", "resumed"], "b": ["anew"], "build": ["anew"]}


def test_trainings_side_by_side_are_spread_over_the_cards(recipe: Recipe) -> None:
    """No card is needed: the steps tell what they would see. Not run on a GPU."""
    seen = recipe.run.folder / "seen"
    seen.mkdir(parents=True)
    recipe.double.write_text(
        "import os, sys, pathlib, time\n"
        "out, seen = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
        "out.mkdir(parents=True, exist_ok=True)\n"
        "card = os.environ.get('CUDA_VISIBLE_DEVICES', 'all')\n"
        "(seen / out.name).write_text(card)\n"
        "while card != 'all' and len(list(seen.iterdir())) < 2: time.sleep(0.01)\n"
        "(out / 'best.pt').touch()\n"
    )
    recipe.run.cards = ("3", "7")

    def step(name: str, *options: str) -> Step:
        out = recipe.run.folder / name
        return Step(name, ("python", str(recipe.double), str(out), str(seen), *options), out / "best.pt", out)

    run_steps(recipe.run, [step("a"), step("b"), step("c", "--device", "0,1")], 2, Console(file=recipe.said))
    assert {path.name: path.read_text() for path in seen.iterdir()} in (
        {"a": "3", "b": "7", "c": "all"},
        {"a": "7", "b": "3", "c": "all"},
    )


def test_only_what_has_changed_and_what_comes_after_it_is_done_again_and_anew(recipe: Recipe) -> None:
    recipe.do()
    recipe.do()
    assert recipe.starts() == {"a": ["anew"], "b": ["anew"], "build": ["anew"]}
    recipe.do(option="--epochs=9")
    assert recipe.starts() == {"a": ["anew"], "b": ["anew"] * 2, "build": ["anew"] * 2}
    recipe.data.write_text("NAME\nanother\n")
    recipe.do(option="--epochs=9")
    assert recipe.starts() == {"a": ["anew"] * 2, "b": ["anew"] * 3, "build": ["anew"] * 3}


class Heard(io.StringIO):
    """What is said, and whether a run waits for another one."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def write(self, text: str) -> int:
        if "waiting for its end" in text:
            self.waits.set()
        return super().write(text)


PATIENT_DOUBLE = """
import sys, pathlib
out, began, go_on = map(pathlib.Path, sys.argv[1:4])
out.mkdir(parents=True, exist_ok=True)
is_first = not (out / "starts").exists()
with (out / "starts").open("a") as file:
    file.write("finds the result\\n" if (out / "best.pt").exists() else "finds none\\n")
if is_first:
    began.open("w").close()
    go_on.open().close()
(out / "best.pt").write_text("weights")
"""

KILLED_RUN = """
import sys
from pathlib import Path
from rich.console import Console
from training.recipe_steps import Run, Step, run_steps
folder, *command = sys.argv[1:]
out = Path(command[2])
run_steps(Run(Path(folder)), [Step("a", tuple(command), out / "best.pt", out)], 1, Console())
"""


def test_what_a_killed_run_left_running_is_waited_for(recipe: Recipe, tmp_path: Path) -> None:
    """Two trainings that write to one folder would spoil each other's checkpoints."""
    began, go_on, out = tmp_path / "began", tmp_path / "go-on", recipe.run.folder / "a"
    os.mkfifo(began)
    os.mkfifo(go_on)
    recipe.double.write_text(PATIENT_DOUBLE)
    command = ("python", str(recipe.double), str(out), str(began), str(go_on))
    killed = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(recipe.run.folder), *command])
    began.open().close()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    said = Heard()
    again = threading.Thread(
        target=run_steps,
        args=(recipe.run, [Step("a", command, out / "best.pt", out)], 1, Console(file=said)),
    )
    again.start()
    waited = said.waits.wait(30)
    go_on.open("w").close()
    again.join()
    assert waited
    assert (out / "starts").read_text().splitlines() == ["finds none", "finds the result"]


def test_a_result_that_is_gone_is_made_again(recipe: Recipe) -> None:
    recipe.do()
    (recipe.run.folder / "build/best.pt").unlink()
    recipe.do()
    assert recipe.starts() == {"a": ["anew"], "b": ["anew"], "build": ["anew", "resumed"]}
