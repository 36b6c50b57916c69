"""Trained networks become a bundle that a station can run.

Exports all networks in FP32 and FP16, holds every engine of this machine against torch, and writes the
bundle only if FP32 on all of them gives torch's answers.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch

from build_engines.compact import store_half
from build_engines.errors import BuildError, writing
from build_engines.gate import gate, print_verdicts
from build_engines.model_card import write_model_card
from build_engines.networks import Graph, Networks, load_recipe
from build_engines.onnx_export import export
from build_engines.recipe import Recipe
from build_engines.reference import Image, Reference, gate_images, reference_answers
from build_engines.replacing import put_in_place
from edge.backends.base import Outputs
from edge.bundle import GOLDEN, MANIFEST, Bundle, file_sha256
from edge.demo.renderer import DrawnSmear, draw_field, draw_tile
from edge.manifest import ClassifierSpec, DetectorSpec, GateResult, Manifest, Thresholds, on_one_line
from edge.names import as_text

log = logging.getLogger(__name__)

_GOLDEN_SEEDS = (4, 5, 7)
"""Of smears with cells on which no two boxes score alike: in few bits the other might win, a little off."""
_GOLDEN_CROPS = 8
_GATE_CROPS = 256


def build_bundle(
    networks: Networks,
    out: Path,
    *,
    name: str,
    threshold: float,
    images: Mapping[str, Image],
    images_are: str,
) -> Bundle:
    """Export, gate and write a bundle; `out` is replaced only by a whole one.

    Args:
        networks: what to build.
        out: the bundle's folder.
        name: of the bundle.
        threshold: least detection score of a finding.
        images: uint8 [H, W, 3] RGB each by name, for the gate.
        images_are: what they are, in words.

    Raises:
        BuildError: an engine in FP32 strays from torch, or `out` holds something else than a bundle.
    """
    _require_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _export_graphs(networks, folder)
        smears = {f"drawn smear {index + 1}": smear.rgb for index, smear in enumerate(golden_smears())}
        golden = _answers(networks, smears, threshold, _GOLDEN_CROPS, "the drawn smears of the self-test")
        reference = _answers(networks, images, threshold, _GATE_CROPS, images_are)
        for known in (golden, reference):
            if not known.answers.tells_anything(threshold):
                raise BuildError(
                    f"Torch finds no cell with a score above {threshold} in {known.images}, so that no "
                    "engine can be compared with it; train the detector longer, or lower --threshold."
                )
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden.answers.arrays())
        log.info("gate on %s", _inputs(reference))
        verdicts = gate(folder, networks.specs, reference, threshold)
        print_verdicts(verdicts, "against FP32 torch")
        gates = [one.result for one in verdicts]
        _require_fp32(gates)
        manifest = Manifest(
            schema_version=1,
            name=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            classes=networks.classes,
            detectors=tuple(spec for spec in networks.specs if isinstance(spec, DetectorSpec)),
            classifiers=tuple(spec for spec in networks.specs if isinstance(spec, ClassifierSpec)),
            fusion=networks.fusion,
            thresholds=Thresholds(detection=threshold),
            provenance=networks.provenance,
            accuracy={},
            gates=tuple(gates),
            sha256={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        )
        (folder / MANIFEST).write_text(manifest.dump(), "utf-8")
        write_model_card(folder)
        folder.chmod(0o755)
        put_in_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Bundle.load(out)


def _require_replaceable(out: Path) -> None:
    """A bundle may be replaced, also one that is damaged or of another version, but nothing else."""
    if not out.name:
        raise BuildError(f"The bundle cannot take the place of {out} itself; give --out a name in it.")
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        told = json.loads((out / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        told = None
    if not isinstance(told, dict) or not {"schema_version", "sha256"} <= told.keys():
        raise BuildError(f"{out} is not empty and no bundle, so it is not replaced; give another folder.")


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


def _answers(
    networks: Networks, images: Mapping[str, Image], threshold: float, crops: int, images_are: str
) -> Reference:
    runs = [partial(_run, network.graphs[0]) for network in networks.all]
    return reference_answers(runs, networks.specs, images, threshold, crops, images_are)


def _inputs(reference: Reference) -> str:
    """How many there are of each network's."""
    known = reference.answers
    tiles, crops = (sum(len(one.inputs) for one in kind) for kind in (known.detectors, known.classifiers))
    return f"{tiles} tiles and {crops} crops"


def _run(graph: Graph, batch: Image) -> Outputs:
    """Torch's own answers."""
    with torch.inference_mode():
        answers = graph(torch.from_numpy(batch))
    answers = (answers,) if isinstance(answers, torch.Tensor) else answers
    return {name: answer.numpy() for name, answer in zip(graph.output_names, answers, strict=True)}


def _require_fp32(gates: Sequence[GateResult]) -> None:
    failed = [gate for gate in gates if gate.precision == "f32" and not gate.passed]
    if failed:
        worst = failed[0]
        raise BuildError(
            f"The bundle was not written: {worst.backend} in f32 strays from torch by {worst.box_px:.3g} px, "
            f"{worst.score:.3g} in scores and {worst.probability:.3g} in probabilities on {worst.images}; "
            "look for an operation that the export computes in another way."
        )


def build_from_checkpoints(
    recipe: Recipe,
    out: Path,
    *,
    may_blend: bool,
    images: Path | None,
    most: int,
    name: str | None,
    threshold: float,
) -> Bundle:
    """A bundle from the files of trained networks; see `load_recipe` and `build_bundle`."""
    with writing(out, BuildError):
        _require_replaceable(out)  # before minutes of reading networks and images
    try:
        name = on_one_line(as_text(name or out.name))
    except ValueError as error:
        raise BuildError(f"The bundle's name {error}; give --name.") from error
    networks = load_recipe(recipe, may_blend=may_blend)
    pixels, images_are = gate_images(images, most)
    with writing(out, BuildError):
        return build_bundle(
            networks, out, name=name, threshold=threshold, images=pixels, images_are=images_are
        )
