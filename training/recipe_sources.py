"""Which of the sources that a recipe leaves out the files of a step have."""

from collections.abc import Sequence
from pathlib import Path

from training.audit.looking import find_images
from training.audit.tables import read_table
from training.groups import groups_sharing
from training.provenance import provenance_of, source_of, together_of
from training.recipe_file import RecipeError


def excluded_of_training(
    excluded: Sequence[str], csvs: Sequence[Path], validation_csvs: Sequence[Path]
) -> tuple[str, ...]:
    """Those of the sources to leave out that images to train on are of.

    Raises:
        RecipeError: no image at all is of one of them; or one is of validation images alone and images to
            train on belong together with these, so that a step without validation images would take them.
        AnnotationError: a file cannot be read.
    """
    if not excluded:
        return ()
    training = _sources_of(csvs)
    every = [*training, *_sources_of(validation_csvs)]
    known = {source for source, _ in every}
    if unknown := sorted(set(excluded) - known):
        raise RecipeError(
            f"No image is of the source {', '.join(unknown)} that is to be left out; choose from "
            f"{', '.join(sorted(known))}."
        )
    own = tuple(one for one in excluded if any(source == one for source, _ in training))
    by_all, by_training = _left_out_with(excluded, every), _left_out_with(excluded, training)
    for (source, _), because, seen in zip(training, by_all, by_training, strict=False):
        if because is not None and seen is None:
            raise RecipeError(
                f"Images to train on of the source {source} belong together with validation images of "
                f"{because}, which is to be left out; give both one source in provenance.csv, or "
                "take them out of the files."
            )
    return own


def _left_out_with(
    excluded: Sequence[str], images: Sequence[tuple[str, tuple[str, ...]]]
) -> list[str | None]:
    """The source with which each image is left out, None if it is not."""
    groups = groups_sharing([together for _, together in images]).tolist()
    of_group = {
        group: source for (source, _), group in zip(images, groups, strict=True) if source in excluded
    }
    return [of_group.get(group) for group in groups]


def _sources_of(csvs: Sequence[Path]) -> list[tuple[str, tuple[str, ...]]]:
    """Of each image its source, and what it must not be parted from; rows may have any fault."""
    found = []
    for path in csvs:
        table, known = read_table(path, path.name, [path.parent / "images"]), provenance_of(path, None)
        names = list(dict.fromkeys(row.name for row in table.rows))
        images = find_images(names, table.folders)
        for name in names:
            cells = known.get(name, {})
            source = source_of(images.get(name), name, cells)
            found.append((source, together_of(source, cells)))
    return found
