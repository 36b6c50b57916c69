"""The commands. What is heavy is imported when a command runs, so that `--help` answers at once."""

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.errors import BackendError, EdgeError

if TYPE_CHECKING:
    from edge.pipeline import Pipeline


class _FolderType(click.Path):
    """A folder that has a name: an empty variable of a shell must not become the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; name a folder, or write . for the current one.", param, ctx)
        return super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """Without NaN, which lies in every range: a limit of NaN is never exceeded. Nor is infinity a number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not math.isfinite(number := super().convert(value, param, ctx)):
            self.fail("it is no number.", param, ctx)
        return number


FOLDER = _FolderType(file_okay=False, path_type=Path)
_engine_options = (
    click.option("--bundle", type=FOLDER, help="Model bundle; the embedded one without it."),
    click.option("--backend", help="auto, tensorrt, tensorrt_rtx, openvino, onnxruntime or kserve."),
    click.option("--server-url", help="Of the server, for kserve; http://127.0.0.1:8000 without it."),
    click.option("--precision", help="auto, or a precision of the backend: bf16, f16, f32."),
)


def with_engine(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose the bundle and the engine."""
    for option in reversed(_engine_options):
        command = option(command)
    return command


def show_any_name() -> None:
    """Let what a screen or a pipe cannot show of a file's name be written as Python writes it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Errors that a user can meet end as their sentence and an exit code, not as a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        show_any_name()
        try:
            command(*args, **kwargs)
        except EdgeError as error:
            from edge.exit_codes import exit_code_of

            click.echo(f"Error: {error}", err=True)
            sys.exit(exit_code_of(error))

    return wrapped


def _open(
    bundle: Path | None,
    backend: str | None,
    precision: str | None,
    fallback: str | None = None,
    server_url: str | None = None,
) -> "Pipeline":
    from edge.bundle import Bundle, embedded_bundle
    from edge.pipeline import open_pipeline

    loaded = Bundle.load(bundle or embedded_bundle())
    return open_pipeline(loaded, backend or "auto", precision or "auto", fallback, server_url)


@click.command()
@click.argument("inbox", type=FOLDER, required=False)
@click.option("--out", type=FOLDER, help="Folder of results.csv and images.csv.")
@with_engine
@click.option("--overlays/--no-overlays", default=None, help="Also save annotated copies in OUT/annotated.")
@click.option("--settings", type=click.Path(dir_okay=False, path_type=Path), help="Settings file (TOML).")
def watch(settings: Path | None, **flags: Any) -> None:
    """Watch the folder INBOX and read every smear image that arrives in it, until told to stop.

    Sub-folders of INBOX are samples. A flag wins over the environment (CYTOLOGIA_EDGE_…), which wins over
    the settings file.
    """
    from edge.daemon import run_station
    from edge.exit_codes import log_and_code_of
    from edge.logs import start_logging
    from edge.memory import keep_memory_flat
    from edge.overlay import save_overlay
    from edge.settings import load_settings

    keep_memory_flat()
    try:
        chosen = load_settings(settings, **flags)
    except EdgeError as error:
        start_logging()
        sys.exit(log_and_code_of(error))
    start_logging(chosen.log_format)
    overlays = functools.partial(save_overlay, chosen.out / "annotated") if chosen.overlays else None
    try:
        engine = (chosen.backend, chosen.precision, chosen.fallback, chosen.server_url)
        with _open(chosen.bundle, *engine) as pipeline:
            code = run_station(chosen, pipeline, why=pipeline.why, on_result=overlays)
    except Exception as error:
        code = log_and_code_of(error)
    sys.exit(code)


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("--out", type=FOLDER, required=True, help="Folder of results.csv and images.csv.")
@with_engine
@click.option("--overlay", is_flag=True, help="Also save annotated copies in OUT/annotated.")
@one_sentence
def run(images: tuple[Path, ...], out: Path, bundle: Path | None, backend: str | None,
        precision: str | None, server_url: str | None, overlay: bool) -> None:  # fmt: skip
    """Read the files IMAGES and all files in the folders among them once, and end.

    Files that OUT already has an answer for are not read again. Sub-folders are samples.
    """
    import logging

    from edge.exit_codes import ExitCode
    from edge.logs import start_logging
    from edge.oneshot import print_summary, run_once

    start_logging(level=logging.ERROR)  # every file has its row and reason in images.csv
    with _open(bundle, backend, precision, server_url=server_url) as pipeline:
        try:
            results = run_once(images, out, pipeline, overlays=overlay)
        except BackendError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(ExitCode.ENGINE_FAULT)
    print_summary(results, out, overlays=overlay)


@click.command()
@click.option("--out", type=FOLDER, default="demo-out", show_default=True, help="Folder for what it makes.")
@click.option(
    "--tiles", type=click.IntRange(1), default=24, show_default=True, help="Drawn tiles with one cell each."
)
@click.option(
    "--fields",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Drawn 5-megapixel fields with many cells.",
)
@one_sentence
def demo(out: Path, tiles: int, fields: int) -> None:
    """Start a station, drop drawn smears into its inbox, and watch it work."""
    from edge.demo.show import show

    show(out, tiles, fields)
