"""What a bundle is built from: checkpoints, what each network is shown, and how much it counts.

From the command line (one detector, one classifier or a few that count alike), or from a TOML file:

    [[detector]]
    checkpoint = "runs/fold-1/best.pt"    # beside the file, unless absolute
    tta = ["hflip"]

    [[classifier]]
    checkpoint = "runs/vit/best.pt"
    weight = 0.457

docs/bundle.md has all keys.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from build_engines.errors import BuildError
from edge.geometry import CropShape
from edge.manifest import Fusion, Weight, WeightOrNone, Windows
from edge.views import Flip, Turn


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DetectorEntry(_Part):
    """A detector; what is not said is as in `edge.manifest.DetectorSpec`."""

    checkpoint: Path
    tile_size: int | None = Field(default=None, gt=0)
    """None: that of its training."""
    weight: Weight = 1.0
    class_weight: WeightOrNone = 1.0
    tta: tuple[Flip, ...] = ()
    windows: Windows | None = None


class ClassifierEntry(_Part):
    """A classifier; what is not said is as in `edge.manifest.ClassifierSpec`."""

    checkpoint: Path
    view: Literal["crop", "tile"] | None = None
    """None: that of its training."""
    shape: CropShape | None = None
    """None: that of its training."""
    activation: Literal["softmax", "sigmoid"] | None = None
    """None: that of its training."""
    weight: Weight = 1.0
    only_when_alone: bool = False
    tta: tuple[Turn, ...] = ()


_Entry = TypeVar("_Entry", DetectorEntry, ClassifierEntry)


class Recipe(_Part):
    """All networks of a bundle."""

    detector: tuple[DetectorEntry, ...] = Field(min_length=1)
    classifier: tuple[ClassifierEntry, ...] = ()
    fusion: Fusion = Fusion()


def recipe_of(detectors: Sequence[Path], classifiers: Sequence[Path], tile_size: int | None) -> Recipe:
    """Networks that all count alike, each cell cropped as the classifier was trained."""
    return Recipe(
        detector=tuple(DetectorEntry(checkpoint=path, tile_size=tile_size) for path in detectors),
        classifier=tuple(ClassifierEntry(checkpoint=path) for path in classifiers),
    )


def read_recipe(path: Path) -> Recipe:
    """A recipe's file; paths in it that are not absolute are seen from its folder.

    Raises:
        BuildError: the file cannot be read, or a key or value in it is not understood.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8-sig"))
        recipe = Recipe.model_validate(content)
    except OSError as error:
        raise BuildError(f"The recipe {path} cannot be read ({error.strerror}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BuildError(f"The recipe {path} is no TOML ({error}); docs/bundle.md has an example.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BuildError(
            f"The recipe {path} is not understood ({where}: {first['msg']}); docs/bundle.md has all keys."
        ) from error
    return recipe.model_copy(
        update={
            "detector": tuple(_seen_from(path.parent, one) for one in recipe.detector),
            "classifier": tuple(_seen_from(path.parent, one) for one in recipe.classifier),
        }
    )


def _seen_from(folder: Path, entry: _Entry) -> _Entry:
    return entry.model_copy(update={"checkpoint": folder / entry.checkpoint})
