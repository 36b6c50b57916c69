"""`python build_engines/build.py`: two trained networks become a bundle that a station can run.

Exports both networks in FP32 and FP16, holds every engine of this machine against torch, and writes the
bundle only if FP32 on all of them gives torch's answers.
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from build_engines.compact import store_half
from build_engines.gate import gate, reference_answers
from build_engines.model_card import write_model_card
from build_engines.networks import BuildError, Networks, load_networks
from build_engines.onnx_export import export
from edge.bundle import (
    GOLDEN,
    MANIFEST,
    Bundle,
    GateResult,
    Golden,
    Manifest,
    Thresholds,
    file_sha256,
)
from edge.demo.renderer import DrawnSmear, draw_field, draw_tile
from edge.errors import EdgeError, ImageRejected
from edge.images import IMAGE_SUFFIXES, decode

log = logging.getLogger("build_engines.build")  # also when it runs as a script

_GOLDEN_SEEDS = (1, 2, 3)
_GOLDEN_CROPS = 8
_GATE_CROPS = 256


def build_bundle(
    networks: Networks,
    out: Path,
    *,
    name: str,
    threshold: float,
    images: Sequence[NDArray[np.uint8]],
    images_are: str,
) -> Bundle:
    """Export, gate and write a bundle; `out` is replaced only by a whole one.

    Args:
        networks: what to build.
        out: the bundle's folder.
        name: of the bundle.
        threshold: least detection score of a finding.
        images: uint8 [H, W, 3] RGB each, for the gate.
        images_are: what they are, in words.

    Raises:
        BuildError: an engine in FP32 strays from torch.
    """
    if out.exists() and any(out.iterdir()):
        Bundle.load(out)  # a folder that is no bundle is not replaced
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    replaced = folder.with_name(f"{folder.name}.old")
    try:
        _export_graphs(networks, folder)
        golden = _answers(networks, [smear.rgb for smear in golden_smears()], threshold, _GOLDEN_CROPS)
        reference = _answers(networks, images, threshold, _GATE_CROPS)
        for answers, of_what in ((golden, "the drawn smears of the self-test"), (reference, images_are)):
            if not answers.tells_anything(threshold):
                raise BuildError(
                    f"Torch finds no cell with a score above {threshold} in {of_what}, so that no engine can "
                    "be compared with it; train the detector longer, or lower --threshold."
                )
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden.arrays())
        crop_count = 0 if reference.crops is None else len(reference.crops)
        log.info("gate on %d tiles and %d crops", len(reference.tiles), crop_count)
        gates = gate(
            folder, networks.detector_spec, networks.classifier_spec, reference, threshold, images_are
        )
        _print_gates(gates)
        _require_fp32(gates)
        manifest = Manifest(
            schema_version=1,
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            classes=networks.classes,
            detectors=(networks.detector_spec,),
            classifiers=(networks.classifier_spec,) if networks.classifier_spec else (),
            thresholds=Thresholds(detection=threshold),
            provenance=networks.provenance,
            accuracy={},
            gates=tuple(gates),
            sha256={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        write_model_card(folder)
        folder.chmod(0o755)
        if out.exists():
            out.rename(replaced)
        folder.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Bundle.load(out)


def golden_smears() -> list[DrawnSmear]:
    """The drawn smears of the self-test: whoever has the bundle may have them, which real images forbid."""
    return [*map(draw_tile, _GOLDEN_SEEDS), draw_field(_GOLDEN_SEEDS[0], cells=4, size_wh=(1024, 768))]


def _export_graphs(networks: Networks, folder: Path) -> None:
    for graph, file, side in networks.files():
        log.info("exporting %s", file)
        export(
            graph, (1, side, side, 3), folder / file,
            input_name=graph.input_name, output_names=graph.output_names,
        )  # fmt: skip
        store_half(folder / file)


def _answers(networks: Networks, images: Sequence[NDArray[np.uint8]], threshold: float, crops: int) -> Golden:
    return reference_answers(
        networks.detectors[0],
        networks.classifiers[0] if networks.classifiers else None,
        networks.detector_spec,
        networks.classifier_spec,
        images,
        threshold,
        crops,
    )


def _require_fp32(gates: Sequence[GateResult]) -> None:
    failed = [gate for gate in gates if gate.precision == "f32" and not gate.passed]
    if failed:
        worst = failed[0]
        raise BuildError(
            f"The bundle was not written: {worst.backend} in f32 strays from torch by {worst.box_px:.3g} px, "
            f"{worst.score:.3g} in scores and {worst.probability:.3g} in probabilities on {worst.images}; "
            "look for an operation that the export computes in another way."
        )


def _print_gates(gates: Sequence[GateResult]) -> None:
    table = Table(
        "backend", "precision", "boxes, px", "scores", "probabilities", "gate", title="against FP32 torch"
    )
    for one in gates:
        numbers = (f"{value:.2g}" for value in (one.box_px, one.score, one.probability))
        table.add_row(one.backend, one.precision, *numbers, "passed" if one.passed else "[red]failed")
    Console(stderr=True).print(table)


def gate_images(folder: Path | None, most: int) -> tuple[list[NDArray[np.uint8]], str]:
    """Up to `most` images spread over a folder, or drawn smears without one; and what they are."""
    if folder is None:
        return [draw_tile(seed).rgb for seed in range(100, 100 + most)], f"{most} drawn smears"
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    images = []
    for path in paths[:: max(len(paths) // most, 1)][:most]:
        try:
            images.append(decode(path.read_bytes()))
        except ImageRejected as error:
            log.warning("%s is left out of the gate: %s", path.name, error)
    if not images:
        raise BuildError(f"{folder} holds no readable image; give smear images, or no folder for drawn ones.")
    return images, f"{len(images)} smear images"


@click.command()
@click.option(
    "--detector", type=click.Path(path_type=Path), required=True, help="Checkpoint of the detector."
)
@click.option(
    "--classifier",
    type=click.Path(path_type=Path),
    help="Checkpoint of the classifier; none for a detector that names the classes itself.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Smear images for the gate; drawn ones without it.",
)
@click.option(
    "--gate-images",
    "most",
    type=click.IntRange(1),
    default=48,
    show_default=True,
    help="How many images the gate uses.",
)
@click.option("--name", help="Name of the bundle; that of its folder without it.")
@click.option("--threshold", default=0.5, show_default=True, help="Least detection score of a finding.")
@click.option("--tile-size", type=int, help="Side of the detector's tile; that of its training without it.")
def main(detector: Path, classifier: Path | None, out: Path, images: Path | None, most: int, name: str | None,
         threshold: float, tile_size: int | None) -> None:  # fmt: skip
    """Build a model bundle from a detector and a classifier, and hold every engine against torch."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("build_engines").setLevel(logging.INFO)  # the exporter's own lines are many
    try:
        networks = load_networks(detector, classifier, tile_size)
        pixels, images_are = gate_images(images, most)
        bundle = build_bundle(
            networks, out, name=name or out.name, threshold=threshold, images=pixels, images_are=images_are
        )
    except EdgeError as error:
        raise click.ClickException(str(error)) from error
    size_mb = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    click.echo(f"{bundle.id} in {out} ({size_mb:.1f} MB, {len(bundle.manifest.classes)} classes)")


if __name__ == "__main__":
    main()
