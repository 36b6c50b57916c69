"""`python -m training.recipe`: a whole system trained, built and measured as its recipe says."""

import os
import signal
from pathlib import Path
from typing import Any

import click

from edge.cli import one_sentence

COMMANDS = "commands.sh"
"""All commands of a run, by which its folder is known."""
_AS_GIVEN = ("utf-8", "surrogateescape")
"""Paths in them keep their bytes, whatever these are."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("recipe", type=_FILE)
@click.option(
    "--size",
    type=click.Choice(["small", "full"]),
    default="small",
    show_default=True,
    help="small: to try it in minutes on a CPU; full: the system itself, for a card.",
)
@click.option(
    "--csv",
    "csvs",
    type=_FILE,
    multiple=True,
    required=True,
    help="Annotations to train on (repeatable); images lie in images/ beside.",
)
@click.option(
    "--validation-csv",
    "validation_csvs",
    type=_FILE,
    multiple=True,
    required=True,
    help="Annotations to judge by (repeatable).",
)
@click.option(
    "--exclude-source", "excluded", multiple=True, help="Leave a source out of all training (repeatable)."
)
@click.option(
    "--leave-one-source-out",
    "without_each",
    is_flag=True,
    help="Once for each source left out, into OUT/without-SOURCE, and figures of all on what they"
    " never saw, into OUT/unseen.",
)
@click.option(
    "--teacher",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run of another recipe whose bundle is the teacher; without it the teacher that the recipe"
    " names is trained first.",
)
@click.option(
    "--data-note",
    "data_notes",
    multiple=True,
    help="Origin and licence of the data, a sentence for the model card (repeatable).",
)
@click.option("--out", type=_FOLDER, required=True, help="Folder of the run.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Trainings side by side; on a CPU they share its cores.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Only print the commands.")
@one_sentence
def main(size: Any, csvs: tuple[Path, ...], validation_csvs: tuple[Path, ...], recipe: Path, out: Path,
         without_each: bool, jobs: int, only_plan: bool, **options: Any) -> None:  # fmt: skip
    """Train, build and measure the system of RECIPE.

    The same command goes on where a run was broken off: steps that are done are not done again, unless
    their command or what they read has changed.
    """
    from rich.console import Console

    from training.out_folder import require_own, writing
    from training.recipe_bundle import Job
    from training.recipe_plan import plan_recipe, plan_without_each_source
    from training.recipe_steps import Run, cards_of_machine, run_steps

    job = Job(recipe, size, csvs, validation_csvs, out, **options)
    plan = plan_without_each_source(job) if without_each else plan_recipe(job)
    run, commands = Run(out), "".join(f"{step.typed}\n" for step in plan.steps)
    for note in plan.notes:
        click.echo(note, err=True)
    if only_plan:
        for path, text in plan.files.items():
            click.echo(f"# {path}\n" + "".join(f"#   {line}\n" for line in text.splitlines()))
        click.echo(commands, nl=False)
        return
    require_own(out, COMMANDS)
    with writing(out):
        previous = (out / COMMANDS).read_text(*_AS_GIVEN) if (out / COMMANDS).exists() else ""
        if commands not in previous:
            (out / COMMANDS).write_text(previous + commands, *_AS_GIVEN)
        for path, text in plan.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    run.cards = cards_of_machine() if jobs > 1 else ()
    side_by_side = min(jobs, sum("--resume" in step.command for step in plan.steps))
    threads = max(len(os.sched_getaffinity(0)) // side_by_side, 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_steps(run, plan.steps, jobs, Console(stderr=True))
    click.echo(_summary(out / ("unseen" if without_each else "report"), out))


def _summary(report: Path, out: Path) -> str:
    import json

    figures = json.loads((report / "report.json").read_text("utf-8"))
    told = [("score", figures["score"]["score"]), ("macro F1", figures["score"]["macro_f1"])]
    texts = [f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in told]
    if report.name == "unseen":
        return f"{', '.join(texts)} on sources that were left out; {report / 'report.md'}"
    return f"{', '.join(texts)}; {out / 'bundle'}"


if __name__ == "__main__":
    main(prog_name="python -m training.recipe")
