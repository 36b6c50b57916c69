"""The ways that are compared do the same work on the same weights."""

from pathlib import Path

import cv2
import pytest

from benchmarks.bare import BareThroughput, BareWay, network_inputs
from benchmarks.usual import EagerClassifier, Format, SameInputs, UltralyticsDetector, UsualWay, exported
from build_engines.checkpoint import Checkpoint
from build_engines.errors import BuildError
from edge.bench.agreement import agreement
from edge.bench.ways import station_way
from edge.bundle import Bundle
from edge.demo.renderer import draw_tile
from edge.images import decode
from edge.pipeline import open_pipeline
from tests.benchmarks.conftest import THRESHOLD, TILE_SIZE, Pair


def usual(pair: Pair, form: Format) -> UsualWay:
    detector = UltralyticsDetector(exported(pair.detector, form, TILE_SIZE), Bundle.load(pair.bundle))
    return UsualWay(form, detector, EagerClassifier(Checkpoint.load(pair.classifier)))


@pytest.mark.filterwarnings("ignore")  # what ultralytics imports and traces to export warns of much
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_the_same_weights_find_and_name_the_same_cells_both_ways(
    pair: Pair, form: Format, tmp_path: Path
) -> None:
    theirs = usual(pair, form)
    with (
        open_pipeline(Bundle.load(pair.bundle), "openvino", "f32") as pipeline,
        station_way("ours", pipeline, tmp_path) as ours,
    ):
        found = [ours.answer(ours.prepare(image)).findings for image in pair.images]
    compared = agreement(found, [theirs.answer(theirs.prepare(image)).findings for image in pair.images])
    assert compared.reference_cells >= len(pair.images)
    assert compared.cells == compared.matched == compared.same_class == compared.reference_cells
    assert compared.worst_box_px < 0.05
    assert compared.worst_probability < 1e-3


def test_with_the_same_inputs_only_the_arithmetic_differs(pair: Pair, tmp_path: Path) -> None:
    """On an image that the two sides would shrink in two ways."""
    bundle = Bundle.load(pair.bundle)
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), draw_tile(5, size_wh=(320, 300)).rgb[..., ::-1])
    with open_pipeline(bundle, "openvino", "f32") as pipeline:
        ours = pipeline.read(decode(large.read_bytes()))
    shrunk_otherwise = usual(pair, "torch").answer(large).findings
    same = SameInputs(bundle, pair.detector, pair.classifier).findings(large)
    compared = agreement([ours], [same])
    assert compared.cells == compared.matched == compared.same_class == compared.reference_cells > 0
    assert compared.worst_box_px < 0.01
    assert compared.worst_probability < 1e-4
    assert agreement([ours], [shrunk_otherwise]).worst_box_px > 0.01


def test_the_bare_networks_are_given_what_the_station_gives_its_own(pair: Pair) -> None:
    bundle = Bundle.load(pair.bundle)
    with open_pipeline(bundle, "openvino", "f32") as pipeline:
        inputs = [network_inputs(pipeline, image) for image in pair.images]
        way = BareWay("bare", pipeline, "f32")
        ((_, detect, _), (_, classify, _)) = way.prepare(pair.images[0])
        assert way.answer(way.prepare(pair.images[0])).stage_ms.keys() == {"detect", "classify"}
        scores = detect.get_tensor("scores").data[0]
        assert len(inputs[0].crops) == (scores >= THRESHOLD).sum() > 0
        assert classify.get_tensor("probabilities").data.shape == (len(inputs[0].crops), 3)
        throughput = BareThroughput(bundle, "f32", inputs)
        assert throughput.images_per_second() > 0


def test_missing_weights_are_told_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="make benchmark-bundle"):
        exported(tmp_path / "yolo11n.pt", "onnx", TILE_SIZE)
