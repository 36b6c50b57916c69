"""What a recipe's file says: networks, and what is done with them.

    folds = 4

    [detector.yolox]          # a network, under a name of its own
    folds = true              # one a fold
    tta = ["hflip"]           # a key of the bundle's recipe
    epochs = 60               # an option of python -m training.detector

    [small.detector.yolox]    # laid over it with --size small
    epochs = 5

training/recipes/README.md has all keys.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import BaseModel, ConfigDict, Field

from build_engines.recipe import ClassifierEntry, DetectorEntry
from edge.errors import EdgeError
from edge.manifest import Fusion

Kind = Literal["detector", "classifier"]
Size = Literal["small", "full"]
Options = dict[str, Any]

KINDS: tuple[Kind, ...] = ("detector", "classifier")
ENTRIES: dict[Kind, type[BaseModel]] = {"detector": DetectorEntry, "classifier": ClassifierEntry}
_OF_THE_RUN = ("csv", "validation_csv", "out", "resume", "exclude_source", "held_out_csv", "data_note",
               "soft_labels")  # fmt: skip
"""Options of the trainers that the runner gives."""
SIZES: tuple[Size, ...] = ("small", "full")


class RecipeError(EdgeError):
    """A recipe's file says something that cannot be done, or one of its steps failed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Curation(BaseModel):
    """A first round of networks, whose out-of-fold predictions mend the annotations of the second.

    Other keys are options of `python -m training.curate`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    detector: dict[str, Options] = Field(min_length=1)
    classifier: dict[str, Options] = {}


class Distillation(_Part):
    """The bundle whose probabilities classifiers with `soft_weight` learn besides the labels."""

    teacher: Path
    """A recipe, seen from this one's folder."""


class TrainingRecipe(_Part):
    """A recipe in one of its sizes, as its file says it."""

    about: str = ""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Least detection score of a finding, after fusion."""
    audit: Options | None = None
    """Options of `python -m training.audit`; without the table nothing is cleaned."""
    folds: int | None = Field(default=None, ge=2)
    curation: Curation | None = None
    every_detector: Options = {}
    every_classifier: Options = {}
    detector: dict[str, Options] = Field(min_length=1)
    """By names of one's own. Keys are those of the bundle's recipe, options of the trainer, and `folds`: one
    network a fold, in place of one trained on all and judged by the validation files."""
    classifier: dict[str, Options] = {}
    fusion: Fusion = Fusion()
    distillation: Distillation | None = None
    likeness: Options | None = None
    """Options of `python -m training.likeness`; without the table the bundle knows of no training images."""
    calibration: Options | None = None
    """Options of `python -m training.calibrate`; without the table it is not calibrated."""

    def networks(self, kind: Kind) -> Iterator[tuple[str, "Network"]]:
        """The networks of the bundle with their names, in the file's order."""
        for name, own in (self.detector if kind == "detector" else self.classifier).items():
            yield name, Network.of(kind, {"folds": False, **self._every(kind), **own})

    def curators(self, kind: Kind) -> Iterator[tuple[str, "Network"]]:
        """The networks of the first round, one a fold."""
        if self.curation is not None:
            tables = self.curation.detector if kind == "detector" else self.curation.classifier
            for name, own in tables.items():
                yield name, Network.of(kind, {**self._every(kind), **own, "folds": True})

    def _every(self, kind: Kind) -> Options:
        return self.every_detector if kind == "detector" else self.every_classifier


class Network(_Part):
    """A network's keys by who reads them; a key that both know goes to both."""

    kind: Kind
    folds: bool
    training: dict[str, Any]
    bundle: dict[str, Any]

    @classmethod
    def of(cls, kind: Kind, options: Options) -> "Network":
        """Sort the keys.

        Raises:
            RecipeError: nobody knows a key, or the runner sets it itself.
        """
        trainer = options_of(trainer_of(kind))
        entry = ENTRIES[kind].model_fields.keys() - {"checkpoint"}
        for key in options:
            if key == "folds":
                continue
            if key in _OF_THE_RUN:
                raise RecipeError(f"{key} is given by the runner; leave it out of the {kind}.")
            if key not in trainer and key not in entry:
                raise RecipeError(
                    f"{key} is neither an option of python -m training.{kind} nor a key of a {kind} in "
                    "docs/bundle.md; see --help of the one and the tables of the other."
                )
        return cls(
            kind=kind,
            folds=options["folds"],
            training={key: value for key, value in options.items() if key in trainer},
            bundle={key: value for key, value in options.items() if key in entry},
        )

    @property
    def checkpoint(self) -> str:
        """Where its trainer leaves the best network, in the folder of its run."""
        of_ultralytics = Path(str(self.training.get("model", ""))).suffix in (".pt", ".yaml")
        return "weights/best.pt" if of_ultralytics and self.kind == "detector" else "best.pt"


def trainer_of(kind: Kind) -> click.Command:
    """The command that trains a kind of network."""
    from training import classifier, detector

    return detector.main if kind == "detector" else classifier.main


def options_of(command: click.Command) -> dict[str, click.Option]:
    """A command's options by their names as keys: tile_size for --tile-size."""
    return {
        option.opts[-1].lstrip("-").replace("-", "_"): option
        for option in command.params
        if isinstance(option, click.Option)
    }


def names_file(option: click.Option, value: Any) -> bool:
    """Whether the value is the path of a file; a model is one where it has a folder, and else a name."""
    return isinstance(option.type, click.Path) or (option.name == "model" and os.sep in str(value))


def as_arguments(command: click.Command, values: Mapping[str, Any]) -> list[str]:
    """Keys and values as one would type them; lists are options that are repeated."""
    known, arguments = options_of(command), []
    for key, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if not known[key].is_flag:
                arguments += [known[key].opts[-1], str(one)]
            elif one:
                arguments.append(known[key].opts[-1])
    return arguments
