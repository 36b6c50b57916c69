"""`python -m benchmarks.memory`: what `make chaos ONLY=soak` saw of the station's memory, as a picture."""

import json
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks.scale_charts import memory_chart
from edge.cli import one_sentence
from edge.errors import BenchError

PICTURE = "scale-memory.svg"
_FIGURES = "promise-31-the-memory-does-not-grow-{}.json"
_WATCHES = ("events", "polling")


def curves(folder: Path) -> dict[str, Mapping[int, float]]:
    """Resident memory in MiB by number of images, of each way to watch a folder.

    Raises:
        BenchError: the figures of one are not there.
    """
    found: dict[str, Mapping[int, float]] = {}
    for watch in _WATCHES:
        path = folder / _FIGURES.format(watch)
        try:
            curve = json.loads(path.read_text("utf-8"))["curve_kb"]
        except OSError as error:
            raise BenchError(
                f"{path} cannot be read ({error.strerror}); run `make chaos ONLY=soak`."
            ) from error
        found[watch] = {int(images): memory_kb["rss"] / 1024 for images, memory_kb in curve.items()}
    return found


@click.command()
@one_sentence
@click.option("--figures", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/chaos"),
              show_default=True, help="Folder of the proof's figures.")  # fmt: skip
@click.option("--out", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("docs"),
              show_default=True, help="Folder of the picture.")  # fmt: skip
def main(figures: Path, out: Path) -> None:
    """Draw the memory of the station over the images of the soak proof."""
    (out / PICTURE).write_text(memory_chart(curves(figures)), "utf-8")
    click.echo(out / PICTURE)


if __name__ == "__main__":
    main()
