"""`python -m training.soup A.pt B.pt`: one network with the mean of the weights of several trainings."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from build_engines.checkpoint import Checkpoint, TileGeometry
from edge.cli import one_sentence
from training.loop import TrainingError
from training.out_folder import writing

_LIKE = ("family", "architecture", "classes", "geometry", "activation")


@click.command()
@click.argument(
    "checkpoints", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@one_sentence
def main(checkpoints: tuple[Path, ...], out: Path) -> None:
    """Write the mean of the weights of several trainings that began from the same weights.

    They may differ in images, variation and learning rate; in the seed only if those weights are of an
    earlier training. One network comes out of it, which takes no longer than one of them; measure it as any
    other.
    """
    best = out / "best.pt"
    soup = mean_of(checkpoints)
    if best.exists() and "mean_of" not in Checkpoint.load(best).provenance:
        raise TrainingError(f"{best} is a training and no mean of several; give another folder as --out.")
    with writing(out):
        soup.save(best)
    click.echo(best)


def mean_of(paths: Sequence[Path]) -> Checkpoint:
    """The mean of the weights, as Wortsman et al. 2022 (arXiv 2203.05482) mix their uniform soup.

    Running statistics of batch-norms are averaged like weights.

    Returns:
        A checkpoint whose provenance has what all trainings share, every source and class that one of them
        saw, and what differs under "mean_of".

    Raises:
        CheckpointError: a file is no checkpoint.
        TrainingError: there are fewer than two, they are not of like networks, or did not begin from the
            same weights.
    """
    if (distinct := len({path.resolve() for path in paths})) < max(2, len(paths)):
        raise TrainingError(
            f"A mean needs two trainings at least, each once; {len(paths)} were given, {distinct} of them "
            "different ones."
        )
    every = _of_one_background([Checkpoint.load(path) for path in paths])
    first = every[0]
    for path, other in zip(paths[1:], every[1:], strict=True):
        for name in _LIKE:
            if (own := getattr(other, name)) != (wanted := getattr(first, name)):
                raise TrainingError(
                    f"{path} has the {name} {own} and {paths[0]} {wanted}; only like networks have a mean."
                )
        own, wanted = _start_of(other), _start_of(first)
        if own != wanted or "unknown" in own:
            raise TrainingError(
                f"{path} began from {own} and {paths[0]} from {wanted}; networks have a mean only if they "
                "began from the same --pretrained weights."
            )
    weights = {
        name: torch.stack([one.weights[name].double() for one in every]).mean(0).to(tensor.dtype)
        for name, tensor in first.weights.items()
    }
    return Checkpoint(
        **{name: getattr(first, name) for name in _LIKE},
        weights=weights,
        provenance=_provenance([one.provenance for one in every]),
    )


def _of_one_background(every: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
    """With the mean of their backgrounds, which differ where detectors were trained on other images.

    Those of which one has none stay as they are, and are unlike.
    """
    tiles = [one.geometry for one in every if isinstance(one.geometry, TileGeometry)]
    backgrounds = [tile.background for tile in tiles if tile.background is not None]
    if len(backgrounds) < len(every):
        return every
    red, green, blue = torch.tensor(backgrounds, dtype=torch.float64).mean(0).tolist()
    balanced = [replace(tile, background=(red, green, blue)) for tile in tiles]
    return [replace(one, geometry=own) for one, own in zip(every, balanced, strict=True)]


def _start_of(checkpoint: Checkpoint) -> str:
    """In words. Without an earlier training the last layer began from random numbers."""
    facts = checkpoint.provenance
    start = f"the weights {facts.get('base_weights_sha256', 'unknown')[:12]}"
    return start if "begun_from" in facts else f"{start} and seed {facts.get('schedule', {}).get('seed', 0)}"


def _provenance(every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    texts = [{key: json.dumps(value) for key, value in one.items()} for one in every]  # NaN equals nothing
    shared = {
        key: every[0][key] for key, text in texts[0].items() if all(one.get(key) == text for one in texts)
    }
    counted = {key: [one.get(key, {}) for one in every] for key in ("sources", "cells")}
    return {
        **shared,
        **{key: _most(counts) for key, counts in counted.items() if any(counts)},
        "mean_of": [{key: value for key, value in one.items() if key not in shared} for one in every],
    }


def _most(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    """Of each the most that one training saw: they may share their images."""
    names = dict.fromkeys(name for one in counts for name in one)
    return {name: max(one.get(name, 0) for one in counts) for name in names}


if __name__ == "__main__":
    main(prog_name="python -m training.soup")
