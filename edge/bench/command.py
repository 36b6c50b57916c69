"""`edge-bench`: the command."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from edge.cli import NumberRange, one_sentence
from edge.errors import BenchError

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--images", type=_FOLDER, help="Folder of smear images; drawn ones without it.")
@click.option("--drawn", metavar="WIDTHxHEIGHT:CELLS", help="Draw smears of this kind; 360x363:1 without it.")
@click.option("--bundle", "bundles", type=click.Path(file_okay=False, path_type=Path), multiple=True,
              help="Model bundle; the embedded one without it. Several are held side by side.")  # fmt: skip
@click.option("--engine", "engines", metavar="BACKEND[:PRECISION]", multiple=True,
              help="Like openvino:bf16; auto without it. Others are held against the first.")  # fmt: skip
@click.option("--backend", help="The same as --engine in two words, as the other commands have it.")
@click.option("--precision", help="auto, or a precision of the backend: bf16, f16, f32.")
@click.option("--server-url", help="Of the server, for kserve; http://127.0.0.1:8000 without it.")
@click.option("--count", type=click.IntRange(2), default=200, show_default=True,
              help="How many images to time, of each engine.")  # fmt: skip
@click.option("--starts", type=click.IntRange(0), default=3, show_default=True,
              help="How often to start edge-watch.")  # fmt: skip
@click.option("--waiting", type=click.IntRange(2), default=32, show_default=True,
              help="Images that wait in a round of the backlog.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(2), default=5, show_default=True, help="Of the backlog.")
@click.option("--interval", "pause_s", type=NumberRange(0.01, 3600), metavar="SECONDS",
              help="Also time a few images that come after a pause of this length.")  # fmt: skip
@click.option("--pauses", type=click.IntRange(2), default=5, show_default=True, help="How many of them.")
@click.option("--load", is_flag=True, help="Also let images arrive at rising rates, until it falls behind.")
@click.option("--load-seconds", type=NumberRange(0.1, 3600), default=5.0, show_default=True,
              help="At each of the seven rates.")  # fmt: skip
@click.option("--arrivals", type=click.Choice(["exponential", "regular"]), default="exponential",
              show_default=True, help="Gaps between the images of --load.")  # fmt: skip
@click.option("--json", "json_path", type=_FILE, help="Save all figures.")
@click.option("--html", "html_path", type=_FILE, help="Save a page with plots.")
@click.option("--compare", "before", type=_FILE, metavar="FILE",
              help="Hold this run against a file of --json, and tell what got slower.")  # fmt: skip
@click.option("--limit", type=NumberRange(0.1, 100), metavar="RATIO",
              help="With --compare: end with 3 if the median image, or one of the backlog, surely takes"
              " longer than this many times what it took.")  # fmt: skip
@one_sentence
def bench(**given: Any) -> None:
    """Measure this machine as a station: milliseconds of every stage from a file to its durable row, starts,
    images a second, memory, energy; engines side by side; and before against after.
    """
    if given["limit"] is not None and given["before"] is None:
        raise BenchError("--limit needs an earlier run to compare with; give its file with --compare.")
    if given["images"] and given["drawn"]:
        raise BenchError("--images and --drawn were both given; give one of them.")
    if given["engines"] and (given["backend"] or given["precision"]):
        raise BenchError("--engine and --backend or --precision were both given; give --engine alone.")
    sys.exit(_bench(**given))


def _bench(
    *,
    images: Path | None,
    drawn: str | None,
    bundles: tuple[Path, ...],
    engines: tuple[str, ...],
    backend: str | None,
    precision: str | None,
    server_url: str | None,
    json_path: Path | None,
    html_path: Path | None,
    before: Path | None,
    limit: float | None,
    count: int,
    load: bool,
    load_seconds: float,
    **amounts: Any,
) -> int:
    """Measure, print and save; the exit code."""
    import tempfile

    from rich.console import Console

    from edge.backends.base import find_backend
    from edge.bench.compare import SLOWER_EXIT_CODE, compare
    from edge.bench.engines import EngineChoice, parse_engine
    from edge.bench.inputs import Drawing, drawn_inputs, folder_inputs
    from edge.bench.measure import Amounts, measure
    from edge.bench.page import write_page
    from edge.bench.report import load_report, require_place, save_report
    from edge.bench.table import print_comparison, print_report
    from edge.locks import OUT_OF_SPACE, OutputFullError
    from edge.names import name_of
    from edge.signals import ended_by_exit

    for path in filter(None, (json_path, html_path)):
        require_place(path)
    earlier = load_report(before) if before else None
    drawing = Drawing.parse(drawn) if drawn else Drawing()
    wanted: list[tuple[str | None, str | None]] = [*map(parse_engine, engines)] or [(backend, precision)]
    choices = [EngineChoice(b, *engine, server_url) for b in bundles or (None,) for engine in wanted]
    for choice in choices:
        if choice.backend not in (None, "auto"):
            find_backend(choice.backend, server_url)
    counts = Amounts(images=count, load_s=load_seconds if load else None, **amounts)
    # Not what Python takes where TMPDIR is missing, full or read-only: that is another disk.
    place = Path(os.environ.get("TMPDIR") or tempfile.gettempdir()).absolute()
    try:
        with ended_by_exit(), tempfile.TemporaryDirectory(prefix="edge-bench-", dir=place) as folder:
            scratch = Path(folder)
            inputs = folder_inputs(images, count) if images else drawn_inputs(scratch / "drawn", drawing)
            report = measure(choices, inputs, counts, scratch)
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise OutputFullError(
                f"There is no space in {place}; free some, or set TMPDIR to another folder."
            ) from error
        if error.filename and Path(error.filename).parent == place:
            raise BenchError(
                f"{place} cannot be written ({error.strerror}); set TMPDIR to a folder on the disk that the "
                "station writes to."
            ) from error
        if images and error.filename and Path(error.filename).is_relative_to(images):
            raise BenchError(
                f"{error.filename} cannot be read any more ({error.strerror}); give a folder of copies that "
                "nobody moves."
            ) from error
        raise
    comparison = compare(earlier, report, name_of(before)) if earlier and before else None
    console = Console()
    print_report(report, console)
    if comparison:
        print_comparison(comparison, console)
    if json_path:
        save_report(report, json_path)
    if html_path:
        write_page(report, comparison, html_path)
    refusal = comparison.refusal(limit) if comparison and limit is not None else None
    if refusal:
        click.echo(f"Slower: {refusal}", err=True)
        return SLOWER_EXIT_CODE
    return 0
