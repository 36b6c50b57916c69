"""The steps of a recipe up to its bundle: clean, curate, split, teach, train, build."""

import json
import os.path
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge.manifest import Fusion
from training.audit.tables import labels_of
from training.provenance import file_word
from training.recipe_commands import repeated, run_module, with_provenance
from training.recipe_file import read_recipe
from training.recipe_keys import (
    KINDS,
    Network,
    RecipeError,
    Size,
    TrainingRecipe,
    as_arguments,
    names_file,
    options_of,
    trainer_of,
)
from training.recipe_steps import Step
from training.recipe_teacher import bundle_of_teacher

_GATE_IMAGES_OF_CURATORS = 12
"""Of bundles that are used once."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a recipe is carried out on.

    Attributes:
        out: folder of the run.
        excluded: sources that are left out of training and of the choice of epochs.
        teacher: run of another recipe, whose bundle is the teacher; None to train the teacher, too.
        prefix: of the names of the steps.
    """

    recipe: Path
    size: Size
    csvs: tuple[Path, ...]
    validation_csvs: tuple[Path, ...]
    out: Path
    excluded: tuple[str, ...] = ()
    data_notes: tuple[str, ...] = ()
    teacher: Path | None = None
    prefix: str = ""

    @property
    def name(self) -> str:
        """Of its bundle."""
        return "-".join(
            (self.recipe.stem, self.size, *(f"without-{file_word(one)}" for one in self.excluded))
        )


@dataclass(slots=True)
class Plan:
    """Steps in an order in which one could type them, and small files that are there before the first.

    Attributes:
        notes: what should be known before the first, in sentences.
    """

    steps: list[Step] = field(default_factory=list)
    files: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, step: Step) -> str:
        """Put a step behind; returns its name."""
        self.steps.append(step)
        return step.name

    def let_change(self, name: str, commands: Sequence[tuple[str, ...]]) -> None:
        """Say that these commands of later steps change in place what the named step makes."""
        place = next(place for place, step in enumerate(self.steps) if step.name == name)
        self.steps[place] = replace(self.steps[place], changed_by=tuple(commands))


@dataclass(frozen=True, slots=True)
class Data:
    """Annotation files, and the steps that write them.

    Attributes:
        excluded: sources whose images are left out.
        held_out: files of other images of these, with which what belongs together is left out, too.
    """

    csvs: tuple[Path, ...]
    validation_csvs: tuple[Path, ...]
    excluded: tuple[str, ...]
    needs: tuple[str, ...] = ()
    held_out: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Trained:
    """A network of a bundle: where it will lie, and the step that trains it."""

    network: Network
    checkpoint: Path
    step: str


def plan_bundle(plan: Plan, job: Job) -> tuple[str, Data]:
    """All steps up to the bundle; returns the last one's name, and the annotations, cleaned by then.

    Raises:
        RecipeError: as `read_recipe`, or the recipe and the job do not go together.
    """
    recipe = read_recipe(job.recipe, job.size)
    if job.teacher is not None and recipe.distillation is None:
        raise RecipeError(
            f"{job.recipe} in its {job.size} size has no [distillation], so nobody learns from the teacher "
            f"{job.teacher}; leave --teacher out."
        )
    cleaned = data = Data(job.csvs, job.validation_csvs, job.excluded)
    if recipe.audit is not None:
        cleaned = data = _plan_audit(plan, job, data, recipe.audit)
    if recipe.curation is not None:
        data = _plan_curation(plan, job, data, recipe)
    folds: list[Data] = []
    if any(network.folds for kind in KINDS for _, network in recipe.networks(kind)):
        folds = _plan_folds(plan, job, data, recipe, "folds-curated" if recipe.curation else "folds")
    soft: tuple[str, ...] = ()
    taught: tuple[str, ...] = ()
    trained = []
    for kind in KINDS:
        if kind == "classifier" and recipe.distillation is not None:
            soft, taught = _plan_soft_labels(plan, job, data, recipe.distillation.teacher)
        for name, network in recipe.networks(kind):
            distilled = "soft_weight" in network.training
            for part, label in _parts(data, folds if network.folds else [], f"{kind}-{name}"):
                trained.append(
                    _plan_training(plan, job, part, network, label, *((soft, taught) if distilled else ()))
                )
    return _plan_build(plan, job, trained, recipe, job.out, "build", job.name), cleaned


def _plan_audit(plan: Plan, job: Job, data: Data, options: dict[str, Any]) -> Data:
    from training.audit.command import main as audit

    every, folder = (*data.validation_csvs, *data.csvs), job.out / "audit"
    step = plan.add(
        Step(f"{job.prefix}audit",
             run_module("training.audit", *every, *as_arguments(audit, options), "--out", folder),
             folder / "report.html", folder, tuple(with_provenance(every)))
    )  # fmt: skip
    cleaned = [folder / "cleaned" / label for label in labels_of(every)]
    n_validation = len(data.validation_csvs)
    return Data(tuple(cleaned[n_validation:]), tuple(cleaned[:n_validation]), data.excluded, (step,))


def _plan_folds(plan: Plan, job: Job, data: Data, recipe: TrainingRecipe, name: str) -> list[Data]:
    assert recipe.folds is not None  # the recipe's check has seen to it
    folder = job.out / name
    step = plan.add(
        Step(f"{job.prefix}{name}",
             run_module("training.splits", *data.csvs, "--folds", recipe.folds, "--out", folder),
             folder / "summary.md", folder, from_outside(data), data.needs)
    )  # fmt: skip
    held_out = data.validation_csvs if job.excluded else ()
    files = [
        [(folder / f"fold-{number}-{part}.csv",) for part in ("train", "val")]
        for number in range(1, recipe.folds + 1)
    ]
    return [Data(train, val, job.excluded, (step,), held_out) for train, val in files]


def _parts(data: Data, folds: Sequence[Data], name: str) -> list[tuple[Data, str]]:
    if not folds:
        return [(data, name)]
    return [(fold, f"{name}-fold-{number}") for number, fold in enumerate(folds, 1)]


def _plan_curation(plan: Plan, job: Job, data: Data, recipe: TrainingRecipe) -> Data:
    """A bundle for each fold, which tells what its own part of the images should have had."""
    from training.curate import main as curate

    assert recipe.curation is not None
    bundles, folder = job.out / "curation", job.out / "curated"
    folds = _plan_folds(plan, job, data, recipe, "folds")
    needs = []
    for number, fold in enumerate(folds, 1):
        trained = [
            _plan_training(plan, job, fold, network, f"curation-{kind}-{name}-fold-{number}")
            for kind in KINDS
            for name, network in recipe.curators(kind)
        ]
        name = f"fold-{number}"
        needs.append(
            _plan_build(plan, job, trained, recipe, bundles / name, f"curation-{name}-build",
                        f"{job.name}-{name}", gate_images=_GATE_IMAGES_OF_CURATORS)
        )  # fmt: skip
    options = as_arguments(curate, recipe.curation.model_extra or {})
    step = plan.add(
        Step(f"{job.prefix}curate",
             run_module("training.curate", "--splits", job.out / "folds", "--bundles", bundles,
                        *repeated("--csv", data.csvs), *options, "--out", folder),
             folder / "changes.csv", folder, from_outside(data), tuple(needs))
    )  # fmt: skip
    curated = tuple(folder / label for label in labels_of(data.csvs))
    return Data(curated, data.validation_csvs, data.excluded, (step,))


def _plan_soft_labels(
    plan: Plan, job: Job, data: Data, recipe: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The teacher, if it is not there, and its answers; returns options of the classifiers, and the step."""
    if job.teacher is not None:
        bundle, needs = bundle_of_teacher(job.teacher, job.excluded), data.needs
        inputs = (bundle / "manifest.json", *from_outside(data))
    else:
        path = job.recipe.parent / recipe
        if read_recipe(path, job.size).distillation is not None:
            raise RecipeError(
                f"The teacher {path} has a teacher itself; name one that learns by labels alone."
            )
        own = replace(job, recipe=path, out=job.out / "teacher", prefix=f"{job.prefix}teacher/")
        bundle, inputs = own.out / "bundle", from_outside(data)
        needs = (*data.needs, plan_bundle(plan, own)[0])
    soft = job.out / "soft-labels.csv"
    command = run_module(
        "training.soft_labels", "--bundle", bundle, *repeated("--csv", data.csvs), "--out", soft
    )
    step = plan.add(Step(f"{job.prefix}soft-labels", command, soft, inputs=inputs, needs=needs))
    return ("--soft-labels", str(soft)), (step,)


def _plan_training(
    plan: Plan,
    job: Job,
    data: Data,
    network: Network,
    label: str,
    soft: Sequence[str] = (),
    taught: Sequence[str] = (),
) -> _Trained:
    trainer, folder = trainer_of(network.kind), job.out / label
    checkpoint = folder / network.checkpoint
    command = run_module(
        f"training.{network.kind}",
        *repeated("--csv", data.csvs), *repeated("--validation-csv", data.validation_csvs),
        *repeated("--exclude-source", data.excluded), *repeated("--held-out-csv", data.held_out),
        *repeated("--data-note", job.data_notes),
        *as_arguments(trainer, network.training), *soft, "--out", folder, "--resume",
    )  # fmt: skip
    known = options_of(trainer)
    weights = (Path(value) for key, value in network.training.items() if names_file(known[key], value))
    inputs = (*from_outside(data), *weights)
    step = Step(f"{job.prefix}{label}", command, checkpoint, folder, inputs, (*data.needs, *taught))
    return _Trained(network, checkpoint, plan.add(step))


def _plan_build(
    plan: Plan,
    job: Job,
    trained: Sequence[_Trained],
    recipe: TrainingRecipe,
    folder: Path,
    step: str,
    name: str,
    gate_images: int | None = None,
) -> str:
    ensemble = folder / "ensemble.toml"
    plan.files[ensemble] = ensemble_text(trained, recipe.fusion, folder)
    fewer = [] if gate_images is None else ["--gate-images", gate_images]
    command = run_module(
        "build_engines.build", "--recipe", ensemble, "--images", images_of(job), *fewer, "--name", name,
        "--threshold", recipe.threshold, "--out", folder / "bundle",
    )  # fmt: skip
    return plan.add(
        Step(f"{job.prefix}{step}", command, folder / "bundle/manifest.json", folder / "bundle",
             (ensemble,), tuple(one.step for one in trained))
    )  # fmt: skip


def ensemble_text(trained: Iterable[_Trained], fusion: Fusion, folder: Path) -> str:
    """The recipe of a bundle as `build_engines.recipe` reads it, for a file in `folder`."""
    blocks = ["[fusion]", *(f"{key} = {_toml(value)}" for key, value in fusion.model_dump().items())]
    for one in trained:
        checkpoint = os.path.relpath(one.checkpoint, folder)
        blocks += ["", f"[[{one.network.kind}]]", f"checkpoint = {_toml(checkpoint)}"]
        blocks += [f"{key} = {_toml(value)}" for key, value in one.network.bundle.items()]
    return "\n".join(blocks) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def images_of(job: Job) -> Path:
    """Folder of its validation images."""
    return job.validation_csvs[0].parent / "images"


def from_outside(data: Data) -> tuple[Path, ...]:
    """Its files, if no step writes them."""
    return () if data.needs else tuple(with_provenance((*data.csvs, *data.validation_csvs)))
