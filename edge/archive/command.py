"""`edge-archive`: an archive of smear images, read on all cores of a machine or a cluster."""

from importlib.util import find_spec
from pathlib import Path

import click

from edge.cli import FOLDER, one_sentence, with_engine
from edge.errors import ArchiveError


@click.command()
@click.argument("images", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option("--out", type=FOLDER, required=True, help="Folder of the parts; all machines must see it.")
@with_engine
@click.option("--address", help="Of a Ray cluster, HOST:PORT or auto; without it, this machine alone.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="How many read at once; without it, as many as there is room for.",
)
@click.option(
    "--cpus-per-worker", type=click.IntRange(1), default=1, show_default=True, help="Cores of a worker."
)
@one_sentence
def archive(images: tuple[Path, ...], out: Path, bundle: Path | None, backend: str | None,
            precision: str | None, server_url: str | None, address: str | None, workers: int | None,
            cpus_per_worker: int) -> None:  # fmt: skip
    """Read the files IMAGES and all files in the folders among them, on many cores at once.

    A run that broke is started once more with the same words, and reads only what has no answer.
    """
    import logging

    from edge.logs import start_logging

    start_logging(level=logging.ERROR)
    _require_ray()
    from edge.archive.run import Engines, read_archive
    from edge.archive.summary import print_summary

    engines = Engines(bundle, backend or "auto", precision or "auto", server_url, workers, cpus_per_worker)
    pending = read_archive(images, out, engines, address)
    print_summary(out, pending)


def _require_ray() -> None:
    """Not by importing it: it reads its environment then, which is set later."""
    missing = [name for name in ("ray", "pyarrow") if find_spec(name) is None]
    if missing:
        raise ArchiveError(
            f"{' and '.join(missing)} must be installed to read an archive; "
            "`pip install 'cytologia-edge[archive]'` does it."
        )
