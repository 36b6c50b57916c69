"""`python -m benchmarks.side_by_side`: this station beside what people would use in its place, in one run."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path

import click
import cv2
import torch
from rich.console import Console

from benchmarks import report
from benchmarks.bare import BareThroughput, BareWay, network_inputs
from benchmarks.targets import EMBEDDED, ONNX, OPENVINO, TORCH, YOLO_B0, bare, station
from benchmarks.usual import EagerClassifier, Format, SameInputs, UltralyticsDetector, UsualWay, exported
from build_engines.checkpoint import Checkpoint
from build_engines.errors import BuildError
from edge.bench import machine
from edge.bench.backlog import StationBacklog
from edge.bench.inputs import Drawing, draw_images, find_images
from edge.bench.interleaved import run_in_turn, run_interleaved
from edge.bench.load import Load
from edge.bench.ways import Way, station_way
from edge.bundle import MANIFEST, Bundle, embedded_bundle
from edge.cli import one_sentence
from edge.outputs import open_desk
from edge.pipeline import Pipeline, open_pipeline
from edge.progress import counted
from training.options import start_logging

log = logging.getLogger(__name__)

_PACKAGES = ("openvino", "torch", "ultralytics", "timm", "onnxruntime")
_FORMATS: dict[str, Format] = {TORCH: "torch", ONNX: "onnx", OPENVINO: "openvino"}
_FIELD_CELLS = 20
_WARM_IMAGES = 150
"""Images: an answer takes about eight of the log's thousand pages."""


def measure(
    bundles: dict[str, Path],
    weights: tuple[Path, Path],
    tiles: Sequence[Path],
    fields: Sequence[Path],
    *,
    waiting: int,
    rounds: int,
    scratch: Path,
    about: dict[str, object],
) -> report.Measurements:
    """Everything in one run.

    Args:
        bundles: by the names EMBEDDED and YOLO_B0.
        weights: of the second's detector (ultralytics) and classifier (checkpoint).
        tiles, fields: image files.
        waiting: how many of the tiles wait in the backlog.
        rounds: how often they do.
        scratch: a folder on a disk, for the stations' inboxes and outputs.
        about: facts for the report.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with contextlib.ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="stations-", dir=scratch)))
        loaded = {name: _reading_whole(Bundle.load(path)) for name, path in bundles.items()}
        precisions = list(dict.fromkeys([_own_precision(loaded[EMBEDDED]), "f32"]))
        pipelines: dict[str, Pipeline] = {}
        ways: list[Way] = []
        for pair, bundle in loaded.items():
            for precision in precisions:
                pipeline = closing.enter_context(open_pipeline(bundle, "openvino", precision))
                name = station(pair, precision)
                ways.append(closing.enter_context(station_way(name, pipeline, folder / name)))
                _work_for_a_while(ways[-1], tiles)
                pipelines.setdefault(pair, pipeline)
                ways.append(BareWay(bare(pair, precision), pipeline, precision))
        ways += _usual_ways(loaded[YOLO_B0], *weights)
        cv2.setNumThreads(len(os.sched_getaffinity(0)))  # ultralytics sets it to 0 when it is imported
        load = Load()
        of_tiles = run_interleaved(ways, tiles, "tiles")
        of_fields = run_interleaved(ways, fields, "fields")
        rates: dict[str, tuple[float, ...]] = {}
        for pair, pipeline in pipelines.items():
            with _backlog(pair, pipeline, precisions[0], tiles[:waiting], folder / "backlog" / pair) as runs:
                rates |= run_in_turn(runs, rounds, f"backlog, {pair}")
        same = SameInputs(loaded[YOLO_B0], *weights)
        facts = {**about, "load_before": load.before, "load_others": load.others()}
        return report.Measurements(
            facts,
            precisions,
            of_tiles,
            of_fields,
            tuple(map(same.findings, counted(tiles, "same inputs, tiles", Console(stderr=True)))),
            tuple(map(same.findings, counted(fields, "same inputs, fields", Console(stderr=True)))),
            rates,
        )


def _reading_whole(bundle: Bundle) -> Bundle:
    """Without windows: ultralytics scales a field to one tile, and on that all are held side by side."""
    detectors = tuple(one.model_copy(update={"windows": None}) for one in bundle.manifest.detectors)
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"detectors": detectors}))


def _work_for_a_while(way: Way, images: Sequence[Path]) -> None:
    """Until the journal's log of changes has its full size: before, a commit makes it longer, for 0.8 ms."""
    for image in islice(cycle(images), _WARM_IMAGES):
        way.answer(way.prepare(image))


def _own_precision(bundle: Bundle) -> str:
    """The precision that the station takes by itself on this machine."""
    with open_pipeline(bundle, "openvino") as pipeline:
        return pipeline.engine_id.split(":")[1]


def _usual_ways(bundle: Bundle, detector: Path, classifier: Path) -> list[Way]:
    eager = EagerClassifier(Checkpoint.load(classifier))
    return [
        UsualWay(
            name, UltralyticsDetector(exported(detector, form, bundle.detector.tile_size), bundle), eager
        )
        for name, form in _FORMATS.items()
    ]


@contextlib.contextmanager
def _backlog(
    pair: str, pipeline: Pipeline, precision: str, images: Sequence[Path], folder: Path
) -> Iterator[dict[str, Callable[[], float]]]:
    """What answers the images, and its bare networks: each call is one round, in images a second."""
    (folder / "inbox").mkdir(parents=True)
    limit = BareThroughput(pipeline.bundle, precision, [network_inputs(pipeline, image) for image in images])
    log.info(
        "backlog, %s: the bare networks are fastest with %d tiles and %d crops a request",
        pair,
        *limit.batches,
    )
    with open_desk(pipeline, folder / "out", duplicates="again") as (desk, _):
        ours = StationBacklog(desk, folder / "inbox", images)
        yield {
            station(pair, precision): ours.images_per_second,
            bare(pair, precision): limit.images_per_second,
        }


@click.command()
@one_sentence
@click.option("--run", type=click.Path(path_type=Path), default=Path("runs/benchmark"), show_default=True,
              help="Folder of `make benchmark-bundle`.")  # fmt: skip
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of tiles; drawn ones without it.")  # fmt: skip
@click.option(
    "--tiles", "tile_count", type=click.IntRange(2), default=60, show_default=True, help="How many."
)
@click.option(
    "--fields", "field_count", type=click.IntRange(2), default=8, show_default=True, help="How many."
)
@click.option("--rounds", type=click.IntRange(2), default=8, show_default=True, help="Of the backlog.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("docs"),
              show_default=True, help="Folder of the report.")  # fmt: skip
def main(run: Path, images: Path | None, tile_count: int, field_count: int, rounds: int, out: Path) -> None:
    """Measure this station, its bare networks, and ultralytics with timm on the same images."""
    start_logging()
    if not (run / "bundle" / MANIFEST).exists():
        raise BuildError(
            f"{run / 'bundle'} is no bundle; run `make benchmark-bundle`, or give the folder of --run."
        )
    tiles = find_images(images, tile_count) if images else draw_images(run / "drawn", Drawing(), tile_count)
    fields = draw_images(run / "drawn", Drawing((2592, 1944), _FIELD_CELLS), field_count)
    waiting = min(len(tiles), 32)
    described = machine()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": described["processor"],
        "cores": described["cores"],
        "system": described["system"],
        "versions": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "tiles": f"{len(tiles)} {'real' if images else 'drawn'} tiles",
        "tiles_are": f"files of {images.parent.name}/{images.name}" if images else "drawn, too",
        "fields": f"{len(fields)} drawn fields of 2592x1944 px with {_FIELD_CELLS} cells",
        "backlog": f"{waiting} of the tiles",
        "rounds": rounds,
    }
    measured = measure(
        {EMBEDDED: embedded_bundle(), YOLO_B0: run / "bundle"},
        (run / "yolo11n.pt", run / "efficientnet_b0.pt"),
        tiles,
        fields,
        waiting=waiting,
        rounds=rounds,
        scratch=run,
        about=about,
    )
    out.mkdir(parents=True, exist_ok=True)
    report.write(measured, out)
    click.echo(out / report.PAGE)


if __name__ == "__main__":
    main()
