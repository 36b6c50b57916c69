"""What the embedded bundle promises on real images, end to end from files; in FP32, alike on any CPU."""

from rich.console import Console

from build_engines.bundle_build import golden_smears
from edge.bundle import Bundle, embedded_bundle
from edge.geometry import letterbox
from edge.pipeline import open_pipeline
from tests.real_files import data_path
from training.annotations import read_beside
from training.evaluate import evaluate, read_with


def test_the_embedded_bundle_reaches_its_figures_on_the_validation_images() -> None:
    images = read_beside([data_path("smears/val.csv"), data_path("smears/detection_only_val.csv")])
    bundle = Bundle.load(embedded_bundle())
    threshold = bundle.manifest.thresholds.detection
    with open_pipeline(bundle, "openvino", "f32") as pipeline:
        findings, rejected = read_with(pipeline, images, threshold, Console(stderr=True, quiet=True))
    found = evaluate(images, findings, working_threshold=threshold)
    assert not rejected
    assert found.detection.recall >= 0.98
    assert found.detection.precision >= 0.97
    assert found.score.giou_term >= 0.92
    assert found.macro_f1_covered >= 0.88


def test_no_image_of_the_bundle_is_a_real_one() -> None:
    """The golden tiles are drawn here again, so that nothing third-party is in the repository."""
    bundle = Bundle.load(embedded_bundle())
    spec = bundle.detector
    tiles = [letterbox(smear.rgb, spec.tile_size, spec.anchor, spec.pad)[0] for smear in golden_smears()]
    difference = abs(bundle.golden().detectors[0].inputs.astype(int) - tiles).max()
    assert difference <= 2  # another release of OpenCV may round in another way
