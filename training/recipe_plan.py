"""From a recipe to all commands that carry it out: up to the bundle, what it is told, how it is measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.annotations import AnnotatedImage, read_beside, without_sources
from training.apart import kinship, require_apart
from training.audit.looking import find_images
from training.audit.tables import read_table
from training.provenance import file_word, provenance_of, source_of, together_of
from training.recipe_bundle import Data, Job, Plan, from_outside, images_of, plan_bundle
from training.recipe_commands import as_words, repeated, run_module, with_provenance
from training.recipe_file import read_recipe
from training.recipe_keys import RecipeError, TrainingRecipe, as_arguments
from training.recipe_steps import Step

_TIMED_IMAGES = 100


def plan_recipe(job: Job) -> Plan:
    """Train, build and measure.

    Raises:
        RecipeError: as `read_recipe`, or the recipe and the job do not go together.
        AnnotationError: the validation files cannot be read as they are, or no image is of a source that is
            to be left out.
        TrainingError: a validation image is trained on.
    """
    recipe, plan = read_recipe(job.recipe, job.size), Plan()
    trained_on = _to_train_on(job)
    judged_by = _require_judges(job, recipe)
    require_apart(trained_on, judged_by)
    if told := kinship(trained_on, judged_by):
        plan.notes.append(told)
    finished = _plan_knowledge(plan, job, recipe, *plan_bundle(plan, job))
    bundle, report = job.out / "bundle", job.out / "report"
    own = tuple(with_provenance(job.validation_csvs))
    csvs = repeated("--csv", job.validation_csvs)
    evaluated = plan.add(
        Step(f"{job.prefix}evaluate",
             run_module("training.evaluate", "--bundle", bundle, *csvs, "--out", report),
             report / "report.json", report, own, (finished,))
    )  # fmt: skip
    timed = plan.add(
        Step(f"{job.prefix}time",
             as_words("edge-bench", "--bundle", bundle, "--images", images_of(job), "--count", _TIMED_IMAGES,
                      "--json", report / "bench.json"),
             report / "bench.json", needs=(evaluated,))
    )  # fmt: skip
    plan.add(
        Step(f"{job.prefix}card",
             run_module("build_engines.model_card", bundle, "--evaluation", report / "report.json",
                     "--name", "validation images"),
             bundle / "MODEL_CARD.md", needs=(timed,))
    )  # fmt: skip
    return plan


def _to_train_on(job: Job) -> list[AnnotatedImage]:
    """The training images, without their boxes. Rows may have any fault: an audit may mend them later.

    Raises:
        AnnotationError: no image is of a source that is to be left out.
    """
    named = ([one for path in csvs for one in _named_in(path)] for csvs in (job.csvs, job.validation_csvs))
    return without_sources(job.excluded, *named)[0]


def _named_in(path: Path) -> Iterator[AnnotatedImage]:
    folder, told, none = path.parent / "images", provenance_of(path, None), np.empty((0, 4), np.float32)
    names = dict.fromkeys(row.name for row in read_table(path, path.name).rows)
    found = find_images(names, [folder])
    for name in names:
        cells = told.get(name, {})
        source = source_of(found.get(name), name, cells)
        at = found.get(name, folder / name)
        yield AnnotatedImage(name, at, none, (), source, together_of(source, cells))


def _require_judges(job: Job, recipe: TrainingRecipe) -> list[AnnotatedImage]:
    """The validation files as they are read after all training: no audit mends what one is judged by."""
    from training.calibration import FEWEST_CELLS
    from training.evaluate import select_images

    images = select_images(job.validation_csvs, (), None, ())
    n_cells = sum(label is not None for image in images for label in image.labels)
    if recipe.calibration is not None and n_cells < FEWEST_CELLS:
        raise RecipeError(
            f"The validation files have {n_cells} cells with a class, too few to calibrate a bundle by "
            f"({FEWEST_CELLS} needed); give more, or leave [calibration] out of {job.recipe}."
        )
    return images


def _plan_knowledge(plan: Plan, job: Job, recipe: TrainingRecipe, built: str, data: Data) -> str:
    """What a bundle is told of its training images and of its own sureness; returns the last step."""
    from training.calibrate import main as calibrate
    from training.likeness import main as likeness

    last = built
    commands: list[tuple[str, ...]] = []
    excluded = repeated("--exclude-source", job.excluded)
    if job.excluded:
        excluded += repeated("--held-out-csv", data.validation_csvs)
    shown, judged_by = replace(data, validation_csvs=()), Data(job.validation_csvs, (), ())
    for name, module, command, options, of, others in (
        ("likeness", "likeness", likeness, recipe.likeness, shown, excluded),
        ("calibration", "calibrate", calibrate, recipe.calibration, judged_by, []),
    ):
        if options is None:
            continue
        folder = job.out / name
        words = run_module(
            f"training.{module}", "--bundle", job.out / "bundle", *repeated("--csv", of.csvs), *others,
            *as_arguments(command, options), "--out", folder,
        )  # fmt: skip
        commands.append(words)
        result = folder / f"{name}.json"
        last = plan.add(Step(f"{job.prefix}{name}", words, result, folder, from_outside(of), (last,)))
    plan.let_change(built, commands)
    return last


def plan_without_each_source(job: Job) -> Plan:
    """The recipe once for each source that is left out, and all bundles judged on what they never saw.

    Raises:
        RecipeError: as `plan_recipe`.
        AnnotationError: the annotations cannot be read.
    """
    if job.excluded:
        raise RecipeError(
            f"--exclude-source {', '.join(job.excluded)} does not go with --leave-one-source-out, which "
            "leaves out each source in its turn; give one of them."
        )
    plan = Plan()
    every = (*job.csvs, *job.validation_csvs)
    sources = sorted({image.source for image in read_beside(every)})
    if len(sources) < 2:
        raise RecipeError(
            f"All images are of the source {sources[0]}, and leaving one out needs two; name the source of "
            "each in provenance.csv."
        )
    splits = job.out / "sources"
    written = plan.add(
        Step(f"{job.prefix}sources",
             run_module("training.splits", *every, "--leave-one-source-out", "--out", splits),
             splits / "summary.md", splits, tuple(with_provenance(every)))
    )  # fmt: skip
    needs = [written]
    for source in sources:
        name = f"without-{file_word(source)}"
        part = replace(job, out=job.out / name, excluded=(source,), prefix=f"{job.prefix}{name}/")
        needs.append(plan_bundle(plan, part)[0])
    unseen = job.out / "unseen"
    plan.add(
        Step(f"{job.prefix}unseen",
             run_module("training.cross_evaluate", "--splits", splits, "--bundles", job.out, "--out", unseen),
             unseen / "report.json", unseen, needs=tuple(needs))
    )  # fmt: skip
    return plan
