"""`python -m benchmarks.scale`: how the station scales, from an empty journal to a million images."""

import logging
import sqlite3
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.growth import STRETCH, grow
from benchmarks.scale_report import PAGE, Measurements, write
from benchmarks.sharing import share
from benchmarks.starting import measure_starts
from benchmarks.whole_cost import measure_whole_cost
from edge.bench import machine
from edge.bench.load import Load
from edge.cli import one_sentence
from edge.demo.renderer import draw_tile
from edge.overlay import encode_jpeg
from tests.chaos.camera import Original
from training.options import start_logging

log = logging.getLogger(__name__)

_SUFFIX = ".jpg"
_KNOWN_FILES = 100_000


def measure(
    count: int, images: list[bytes], rounds: int, scratch: Path, about: dict[str, object]
) -> Measurements:
    """Everything in one run.

    Args:
        count: how many images the journal is grown to.
        images: JPEG tiles, all different: the backlog of each station.
        rounds: of the stations that share the machine.
        scratch: an empty folder on a disk.
        about: facts for the report.
    """
    began_s, load = time.monotonic(), Load()
    log.info("what an image costs in all")
    whole = measure_whole_cost(images, _SUFFIX, scratch)
    home = scratch / "grown"
    (home / "inbox").mkdir(parents=True)
    log.info("growing a journal to %d images", count)
    growth = grow(home, count, whole.lanes, keep=min(_KNOWN_FILES, count // 10))
    log.info("starting on it")
    starts = measure_starts(home)
    log.info("two stations on one machine")
    shared = share(images, _SUFFIX, rounds, scratch)
    facts = {
        **about,
        "load_before": load.before,
        "load_others": load.others(),
        "seconds": time.monotonic() - began_s,
        "rounds": rounds,
        "shared_images": len(images),
    }
    return Measurements(facts, whole, growth, starts, shared)


def tiles(folder: Path | None, count: int) -> tuple[str, list[bytes]]:
    """JPEG tiles, spread over the folder by name or drawn, each with bytes of its own; and which."""
    found = sorted(folder.glob(f"*{_SUFFIX}")) if folder else []
    if len(found) >= count:
        data = [path.read_bytes() for path in found[:: len(found) // count][:count]]
        return "real tiles", [Original(one, _SUFFIX, ()).copy(n) for n, one in enumerate(data)]
    return "drawn tiles", [encode_jpeg(draw_tile(seed).rgb) for seed in range(count)]


def _facts(scratch: Path) -> dict[str, object]:
    described = machine()
    kind = subprocess.run(["df", "--output=fstype", scratch], capture_output=True, text=True)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **{key: described[key] for key in ("processor", "cores", "system", "python")},
        "openvino": described["packages"].get("openvino", "absent"),
        "sqlite": sqlite3.sqlite_version,
        "file_system": (kind.stdout.split() or ["unknown"])[-1],
    }


@click.command()
@one_sentence
@click.option("--count", type=click.IntRange(STRETCH // 5), default=1_000_000, show_default=True,
              help="Images in the journal at the end.")  # fmt: skip
@click.option("--images", type=click.Path(file_okay=False, path_type=Path),
              help="Folder of JPEG tiles; drawn ones without it.")  # fmt: skip
@click.option("--backlog", type=click.IntRange(30), default=400, show_default=True,
              help="Tiles that wait for each of two stations.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of the two stations.")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"),
              show_default=True, help="Folder on the disk to measure; needs 2 GB for a million.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("docs"),
              show_default=True, help="Folder of performance.md and its pictures.")  # fmt: skip
def main(count: int, images: Path | None, backlog: int, rounds: int, scratch: Path, out: Path) -> None:
    """Measure how the station scales: a growing journal, starts, two stations on one machine."""
    start_logging()
    scratch.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    kind, backlog_images = tiles(images, backlog)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=scratch.resolve()) as folder:
        about = {**_facts(Path(folder)), "images": kind}
        measured = measure(count, backlog_images, rounds, Path(folder), about)
    write(measured, out)
    click.echo(out / PAGE)


if __name__ == "__main__":
    main()
