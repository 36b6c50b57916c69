"""`python build_engines/build.py`: what a station runs, built and held against the reference.

Without options it looks at this machine and the bundle, builds what the station runs best there, and tells
what that is. With checkpoints it builds a bundle; torch is imported only then.
"""

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edge.cli import FOLDER, NumberRange, show_any_name
from edge.errors import EdgeError

_FILE = click.Path(path_type=Path)
_ONLY_BUNDLES = ("detector", "classifier", "recipe", "name", "threshold", "tile_size")
_ONLY_ENGINES = (
    "bundle",
    "settings",
    "compute_capability",
    "batch",
    "check",
    "rebuild",
    "per_layer",
    "triton",
)


def _capabilities(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    for one in given:
        if not re.fullmatch(r"[0-9]+\.[0-9]", one):
            raise click.BadParameter(
                f"{one!r} is no compute capability; give it as NVIDIA does, such as 8.6."
            )
    return given


@click.command()
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "onnx"]),
    help="What to build; without it, what this machine runs best, or a bundle (onnx) from --detector or "
    "--recipe.",
)
@click.option(
    "--out", type=FOLDER, help="Folder of the new bundle, or of engines in place of their bundle's."
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Smear images for the gate; drawn ones without it.",
)
@click.option("--gate-images", "most", type=click.IntRange(1), default=48, show_default=True,
              help="How many images the gate uses.")  # fmt: skip
@click.option(
    "--detector",
    multiple=True,
    type=_FILE,
    help="Bundle: checkpoint of the detector; several are fused and count alike.",
)
@click.option(
    "--classifier",
    multiple=True,
    type=_FILE,
    help="Bundle: checkpoint of the classifier; none for a detector that names the classes itself; several "
    "count alike.",
)
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Bundle: TOML file of all networks, with weights and views, in place of --detector and --classifier "
    "(docs/bundle.md).",
)
@click.option("--name", help="Bundle: its name; that of its folder without it.")
@click.option(
    "--threshold",
    type=NumberRange(0, 1),
    default=0.5,
    show_default=True,
    help="Bundle: least detection score of a finding.",
)
@click.option(
    "--tile-size",
    type=click.IntRange(1),
    help="Bundle: side of the detector's tile; that of its training without it.",
)
@click.option("--bundle", type=FOLDER, help="Engines: of this bundle; the station's own without it.")
@click.option(
    "--settings",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Engines: settings file of the station, for its bundle and backend.",
)
@click.option(
    "--compute-capability",
    multiple=True,
    metavar="X.Y",
    callback=_capabilities,
    help="Engines: cards that tensorrt-rtx builds for, without having one; may be repeated.",
)
@click.option(
    "--batch",
    multiple=True,
    type=click.IntRange(1, 64),
    help="Engines: images at a time, in place of 1, 4 and for crops 16; may be repeated.",
)
@click.option("--check", is_flag=True, help="Engines: only tell what can be built here, and why not.")
@click.option("--rebuild", is_flag=True, help="Engines: build also what has not changed.")
@click.option("--per-layer", is_flag=True, help="Engines: have Polygraphy compare every layer on the card.")
@click.option(
    "--triton",
    type=FOLDER,
    help="Engines: only write this folder, a model repository for a Triton Inference Server.",
)
def main(
    target: str | None, detector: tuple[Path, ...], recipe: Path | None, out: Path | None, **options: Any
) -> None:
    """Build what the station runs on this machine, and hold it against the FP32 reference."""
    os.umask(os.umask(0o077) & ~0o055)  # the station's user reads what root has built, whatever root's umask
    show_any_name()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("build_engines").setLevel(logging.INFO)  # the exporter's own lines are many
    building_bundle = bool(detector) or recipe is not None or target == "onnx"
    foreign = _ONLY_ENGINES if building_bundle else _ONLY_BUNDLES
    _refuse_foreign_options(foreign, building_bundle)
    own = {name: value for name, value in options.items() if name not in foreign}
    try:
        if building_bundle:
            if not (detector or recipe) or out is None or target not in (None, "onnx"):
                raise click.UsageError(
                    "a bundle needs --detector or --recipe, --out and no --target but onnx; engines come "
                    "after it, with --bundle."
                )
            _build_bundle(detector, recipe, out, **own)
        else:
            _build_engines(target, out, **own)
    except EdgeError as error:
        raise click.ClickException(str(error)) from error


def _refuse_foreign_options(names: tuple[str, ...], building_bundle: bool) -> None:
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            if building_bundle:
                raise click.UsageError(f"{option} is for engines, not for a bundle of checkpoints.")
            raise click.UsageError(f"{option} is for a bundle, which needs --detector or --recipe.")


def _build_bundle(detector: tuple[Path, ...], recipe: Path | None, out: Path, *, classifier: tuple[Path, ...],
                  tile_size: int | None, **options: Any) -> None:  # fmt: skip
    try:
        from build_engines.bundle_build import build_from_checkpoints
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"No bundle is built here, since {error.name} is not installed; `pip install '.[training]'`."
        ) from error
    from build_engines.recipe import read_recipe, recipe_of

    if recipe is not None and (detector or classifier or tile_size):
        raise click.UsageError(
            "--recipe names all networks; write what --detector, --classifier and --tile-size say into it."
        )
    networks = read_recipe(recipe) if recipe else recipe_of(detector, classifier, tile_size)
    bundle = build_from_checkpoints(networks, out, may_blend=recipe is not None, **options)
    size_mb = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    click.echo(f"{bundle.id} in {out} ({size_mb:.1f} MB, {len(bundle.manifest.classes)} classes)")


def _build_engines(target: str | None, out: Path | None, *, bundle: Path | None, settings: Path | None,
                   check: bool, triton: Path | None, **options: Any) -> None:  # fmt: skip
    from build_engines.preflight import Preflight, print_preflight
    from build_engines.station_build import build_for_station, station_of

    station = station_of(settings, bundle)
    if triton is not None:
        from build_engines.triton_repository import write_triton_repository
        from edge.engine_files import engines_of

        plans = engines_of(station.bundle.path, "tensorrt")
        write_triton_repository(station.bundle, triton, plans=plans)
        click.echo(f"{station.bundle.id} for Triton, {'as plans' if plans else 'as ONNX'}, in {triton}")
        return
    found = Preflight.look(out or station.bundle.path)
    if check:
        print_preflight(found, station.bundle)
        return
    began = time.monotonic()
    build_for_station(station, found, target, out, **options)
    click.echo(f"done in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
