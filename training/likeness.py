"""`python -m training.likeness`: what a bundle's training images look like, written into the bundle."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edge.cli import NumberRange, one_sentence
from edge.names import name_of
from training.annotations import AnnotatedImage
from training.options import HELD_OUT, engine_options
from training.out_folder import require_writable, writing

if TYPE_CHECKING:
    from rich.console import Console

    from edge.manifest import TrainingImages
    from edge.pipeline import Pipeline
    from training.appearances import Floats, Share

Image = NDArray[np.uint8]
Alteration = Callable[[Image], Image]


def _light(red: float, green: float, blue: float) -> Alteration:
    return lambda rgb: (rgb * np.array([red, green, blue])).astype(np.uint8)


def _blur(sigma_px: float) -> Alteration:
    return lambda rgb: np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.uint8)


ALTERATIONS: dict[str, Alteration] = {
    "blurred by 1 px": _blur(1),
    "blurred by 2 px": _blur(2),
    "light 0.7": _light(0.7, 0.7, 0.7),
    "red light 0.85": _light(0.85, 1, 1),
    "blue light 0.85": _light(1, 1, 0.85),
}
"""What may befall a microscope: defocus (deviation of a Gaussian), a dim lamp, a filter or white balance."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _same_sources(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if wrong := [
        value for value, (name, _, other) in zip(values, pairs, strict=True) if not (name and other)
    ]:
        raise click.BadParameter(f"{wrong[0]!r} is not of the form NAME=OTHER, as in pool=pbc.")
    return {name: other for name, _, other in pairs}


@click.command()
@click.option(
    "--bundle",
    "bundle_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the model bundle; its manifest and model card are written anew.",
)
@click.option(
    "--csv",
    "csvs",
    type=_FILE,
    multiple=True,
    required=True,
    help="Annotations that it was trained on (repeatable); images lie in images/ beside the file, and "
    "a provenance.csv beside it names the source of each.",
)
@click.option(
    "--same-source",
    "same",
    multiple=True,
    callback=_same_sources,
    help="NAME=OTHER: images of NAME are of the same stain and camera as those of OTHER (repeatable).",
)
@click.option(
    "--exclude-source", "excluded", multiple=True, help="Leave a source out, as in training (repeatable)."
)
@HELD_OUT
@click.option(
    "--beyond",
    type=NumberRange(0, 0.5, min_open=True),
    default=0.025,
    show_default=True,
    help="Part of the training images that may lie beyond the limit; expect so many false alarms.",
)
@click.option(
    "--validation-csv",
    "validation_csvs",
    type=_FILE,
    multiple=True,
    help="Other images of the same sources, to count false alarms (repeatable).",
)
@click.option(
    "--altered", is_flag=True, help="Also alter the validation images (blur, light, colour) and count those."
)
@click.option("--drawn", type=click.IntRange(0), default=0, help="Also count so many drawn smears.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for likeness.json.")
@engine_options
@one_sentence
def main(
    bundle_dir: Path,
    csvs: tuple[Path, ...],
    same: dict[str, str],
    excluded: tuple[str, ...],
    held_out_csvs: tuple[Path, ...],
    beyond: float,
    validation_csvs: tuple[Path, ...],
    altered: bool,
    drawn: int,
    out: Path | None,
    backend: str,
    precision: str,
) -> None:
    """Write into a bundle what its training images look like, so that a station marks images unlike them.

    Nothing is learnt and no finding changes. The table tells how many images of each source would be marked
    if the bundle had not seen that source.
    """
    from rich.console import Console

    from build_engines.model_card import replace_manifest
    from edge.bundle import Bundle
    from edge.pipeline import open_pipeline
    from training.annotations import read_beside, read_without_sources
    from training.appearances import FEWEST_IMAGES, describe, left_out
    from training.drawn import drawn_images

    (images,) = read_without_sources(excluded, held_out_csvs, csvs)
    images = _counted_for(images, same)
    others = _counted_for(read_beside(validation_csvs), same)
    bundle = Bundle.load(bundle_dir)
    former_id = bundle.id
    require_writable(bundle_dir, *([out] if out else []))
    console = Console(stderr=True)
    with open_pipeline(bundle, backend=backend, precision=precision) as pipeline:
        engine = pipeline.engine_id
        appearances = _with_cells(_appearances(images, pipeline, console, "Reading training images"))
        for source in [name for name, numbers in appearances.items() if len(numbers) < FEWEST_IMAGES]:
            n_images = len(appearances.pop(source))
            click.echo(
                f"The source {source} has {n_images} images in which a cell is found, {FEWEST_IMAGES} are "
                "needed to tell what they look like: it is left out, and such images may be marked; give "
                f"more, or count it as part of another source (--same-source {source}=OTHER).",
                err=True,
            )
        known = describe(appearances, beyond)
        rows = [
            ("left out of training", name, share) for name, share in left_out(appearances, beyond).items()
        ]
        if others:
            for kind, alter in {"validation": None, **(ALTERATIONS if altered else {})}.items():
                rows += _marked(kind, known, _appearances(others, pipeline, console, kind, alter))
        if drawn:
            with tempfile.TemporaryDirectory() as folder:
                smears = drawn_images(Path(folder), drawn)
                rows += _marked("drawn", known, _appearances(smears, pipeline, console, "drawn"))
    facts = {
        "files": ", ".join(f"{name_of(path.parent)}/{name_of(path)}" for path in csvs),
        "images": {one.name: one.images for one in known.sources},
        "engine": engine,
        "part of them beyond the limit": beyond,
    }
    if out is not None:
        with writing(out):
            figures = [
                {"images_are": kind, "source": source, **asdict(share)} for kind, source, share in rows
            ]
            text = json.dumps({**facts, "limit": known.limit, "shares": figures}, indent=2)
            (out / "likeness.json").write_text(text + "\n", encoding="utf-8")
    update = {
        "training_images": known,
        "provenance": {**bundle.manifest.provenance, "what images are compared with": facts},
    }
    with writing(bundle_dir):
        changed = replace_manifest(bundle_dir, bundle.manifest.model_copy(update=update))
    _print_table(rows)
    total = sum(one.images for one in known.sources)
    click.echo(f"{total} training images of {len(known.sources)} sources, limit {known.limit:.3f}")
    click.echo(f"{former_id} is now {changed.id}")


def _counted_for(images: Sequence[AnnotatedImage], same: dict[str, str]) -> list[AnnotatedImage]:
    """Images with the sources that they count for."""
    return [replace(image, source=same.get(image.source, image.source)) for image in images]


def _appearances(
    images: Sequence[AnnotatedImage],
    pipeline: "Pipeline",
    console: "Console",
    what: str,
    alter: Alteration | None = None,
) -> Iterator[tuple[str, "Floats"]]:
    """Source and numbers of each image that can be read and is large enough."""
    from rich.progress import track

    from edge.appearance import appearance_of
    from edge.errors import ImageRejected
    from training.annotations import read_pixels

    for image in track(images, description=what, console=console):
        try:
            rgb = read_pixels(image)
        except ImageRejected as error:
            click.echo(f"{error} It is left out.", err=True)
            continue
        if alter is not None:
            rgb = alter(rgb)
        appearance = appearance_of(rgb, pipeline.read(rgb))
        if appearance is not None:
            yield image.source, appearance


def _with_cells(appearances: Iterator[tuple[str, "Floats"]]) -> dict[str, "Floats"]:
    """By source, of images with a cell only."""
    from edge.appearance import STATISTICS

    found: dict[str, list[Floats]] = {}
    for source, appearance in appearances:
        if len(appearance) == len(STATISTICS):
            found.setdefault(source, []).append(appearance)
    return {source: np.array(numbers) for source, numbers in sorted(found.items())}


def _marked(
    kind: str, known: "TrainingImages", appearances: Iterator[tuple[str, "Floats"]]
) -> list[tuple[str, str, "Share"]]:
    """How many images of each source, and of all, are marked."""
    from edge.likeness import Likeness
    from training.appearances import Share

    likeness = Likeness(known)
    ratios: dict[str, list[float]] = {}
    for source, appearance in appearances:
        ratios.setdefault(source, []).append(likeness.judge(appearance).ratio)
    if len(ratios) > 1:
        ratios["all"] = [ratio for of_source in ratios.values() for ratio in of_source]
    return [(kind, source, Share.of(np.array(found))) for source, found in ratios.items()]


def _print_table(rows: Sequence[tuple[str, str, "Share"]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Images that are unlike the training images")
    for name in ("images", "source", "number", "marked", "part", "median of the limit"):
        table.add_column(name, justify="left" if name in ("images", "source") else "right")
    for kind, source, share in rows:
        about = (str(share.images), str(share.marked), f"{share.fraction:.1%}", f"{share.median_ratio:.2f}")
        table.add_row(kind, escape(source), *about)
    Console().print(table)


if __name__ == "__main__":
    main(prog_name="python -m training.likeness")
