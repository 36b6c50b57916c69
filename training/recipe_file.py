"""A recipe's file, read whole, and refused before anything trains where a step would refuse it later."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from training.loop import TrainingError
from training.recipe_keys import (
    ENTRIES,
    SIZES,
    Network,
    RecipeError,
    Size,
    TrainingRecipe,
    names_file,
    options_of,
    trainer_of,
)


def read_recipe(path: Path, size: Size) -> TrainingRecipe:
    """A recipe's file in one size; environment variables in its values are put in.

    Raises:
        RecipeError: the file cannot be read, or a key or value in it is not understood.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"The recipe {path} cannot be read ({error.strerror}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"The recipe {path} is no TOML ({error}); training/recipes has examples."
        ) from error
    sizes = {name: content.pop(name, {}) for name in SIZES}
    try:
        recipe = TrainingRecipe.model_validate(_expanded(_laid_over(content, sizes[size])))
        _check(recipe)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"The recipe {path} is not understood with --size {size} ({where}: {first['msg']}); "
            "training/recipes/README.md has all keys."
        ) from error
    except RecipeError as error:
        raise RecipeError(f"The recipe {path} cannot be followed with --size {size}: {error}") from error
    return recipe


def _laid_over(shared: Any, own: Any) -> Any:
    """Tables become one, key by key; of all else the size's own wins."""
    if not isinstance(shared, dict) or not isinstance(own, dict):
        return own
    both = {key: _laid_over(shared[key], own[key]) if key in shared else own[key] for key in own}
    return {**shared, **both}


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner) for inner in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    expanded = os.path.expandvars(value)
    if "$" in expanded:
        raise RecipeError(f"{value} names an environment variable that is not set; set it.")
    return expanded


def _check(recipe: TrainingRecipe) -> None:
    """Refuse, before anything trains, what a step would refuse after hours."""
    own = [(f"{kind}.{name}", one) for kind in ENTRIES for name, one in recipe.networks(kind)]
    first = [(f"curation.{kind}.{name}", one) for kind in ENTRIES for name, one in recipe.curators(kind)]
    absent: list[str] = []
    for name, network in [*own, *first]:
        missing = _require_values(name, trainer_of(network.kind), network.training)
        absent += missing
        try:
            ENTRIES[network.kind].model_validate({"checkpoint": "best.pt", **network.bundle})
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, (name, *fault["loc"])))
            raise RecipeError(f"{where} is not understood ({fault['msg']}); see docs/bundle.md.") from error
        if network.folds and recipe.folds is None:
            raise RecipeError(f"{name} wants one network a fold and the recipe has no folds; say folds = 5.")
        if "soft_weight" in network.training and recipe.distillation is None:
            raise RecipeError(f"{name} has soft_weight and no teacher; add [distillation] with teacher.")
        _require_training(name, network, is_taught=name in dict(own))
        if not missing:
            _require_model(name, network)
    learn = [name for name, network in recipe.networks("classifier") if "soft_weight" in network.training]
    if recipe.distillation is not None and not learn:
        raise RecipeError("there is a teacher and no classifier that has soft_weight; add it to one.")
    if recipe.audit is not None:
        from training.audit.command import main as audit

        _require_known("audit", audit, recipe.audit, ("out",))
    if recipe.likeness is not None:
        from training.likeness import main as likeness

        own_options = ("bundle", "csv", "exclude_source", "held_out_csv", "validation_csv", "out")
        _require_known("likeness", likeness, recipe.likeness, own_options)
    if recipe.calibration is not None:
        from training.calibrate import main as calibrate

        own_options = ("bundle", "csv", "images", "provenance", "source", "out")
        _require_known("calibration", calibrate, recipe.calibration, own_options)
    if recipe.curation is not None:
        from training.curate import main as curate

        given = recipe.curation.model_extra or {}
        _require_known("curation", curate, given, ("splits", "bundles", "csv", "out"))
    for networks in (own, first):
        _require_classes(networks)
    if absent:
        raise RecipeError(
            f"these files are not there: {', '.join(dict.fromkeys(absent))}; put them there "
            "(training/recipes/README.md tells where base weights come from)."
        )


def _require_training(name: str, network: Network, is_taught: bool) -> None:
    """Refuse what its trainer would refuse of options that are each right by itself."""
    from training import classifier, detector

    defaults = {key: option.default for key, option in options_of(trainer_of(network.kind)).items()}
    values = {**defaults, "soft_labels": "of the teacher" if is_taught else None, **network.training}
    given = [key for key, value in network.training.items() if value is not False]
    try:
        if network.kind == "classifier":
            classifier.refuse_idle_options(values, given)
            return
        detector.refuse_foreign_options(values, given)
    except click.UsageError as error:
        raise RecipeError(f"{name}: {error.message}") from error


def _require_model(name: str, network: Network) -> None:
    """Refuse a model that ultralytics would train and does not have."""
    from training import yolox

    model = network.training.get("model")
    if network.kind != "detector" or model is None or model in yolox.ARCHITECTURES:
        return
    from training.ultralytics_yolo import require_model

    try:
        require_model(str(model))
    except TrainingError as error:
        raise RecipeError(f"{name}.model: {error}") from error


def _require_classes(networks: Sequence[tuple[str, Network]]) -> None:
    """Refuse detectors that name no classes where no classifier always does: they become no bundle."""
    classifiers = [one for _, one in networks if one.kind == "classifier"]
    always = any(not one.bundle.get("only_when_alone") for one in classifiers)
    for name, one in networks:
        names = one.training.get("one_stage") and one.bundle.get("class_weight", 1) > 0
        if one.kind == "detector" and not names and not always:
            raise RecipeError(
                f"{name} names no classes and no classifier beside it always does; say one_stage = true "
                "in it, or add a classifier without only_when_alone."
            )


def _require_known(
    table: str, command: click.Command, given: Mapping[str, Any], own: tuple[str, ...]
) -> None:
    known = options_of(command).keys() - set(own)
    if unknown := [key for key in given if key not in known]:
        raise RecipeError(f"{table}.{unknown[0]} is none of {', '.join(sorted(known))}; choose one of these.")
    _require_values(table, command, given)


def _require_values(name: str, command: click.Command, values: Mapping[str, Any]) -> list[str]:
    """Let each option of a command look at its value; returns files that are not there."""
    absent = []
    context, known = click.Context(command), options_of(command)
    for key, value in values.items():
        option = known[key]
        if names_file(option, value):
            absent += [] if Path(value).exists() else [str(value)]
            continue
        if option.is_flag != isinstance(value, bool) or (isinstance(value, list) and not option.multiple):
            raise RecipeError(f"{name}.{key} is {value!r} and must be {_expected(option)}.")
        try:
            several = value if isinstance(value, list) else [value]
            option.process_value(context, list(map(str, several)) if option.multiple else str(value))
        except click.BadParameter as error:
            raise RecipeError(f"{name}.{key}: {error.message.rstrip('.')}; mend it.") from error
    return absent


def _expected(option: click.Option) -> str:
    return "true or false" if option.is_flag else "one value"
