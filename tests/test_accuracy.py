"""What the embedded bundle promises on real images, end to end from files; in FP32, alike on any CPU."""

import numpy as np
from rich.console import Console

from build_engines.bundle_build import golden_smears
from edge.bundle import Bundle, embedded_bundle
from edge.geometry import letterbox
from edge.matching import match_one_to_one
from edge.pipeline import open_pipeline
from tests.real_files import data_path
from training.annotations import read_beside, read_pixels
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


def test_the_embedded_bundle_finds_the_cells_of_a_cameras_field() -> None:
    """Real tiles side by side, a cell of 150 px on each; of a field scaled to one tile it lost a third."""
    images = read_beside([data_path("smears/val.csv")])
    tiles = [(read_pixels(image), image.boxes_xyxy) for image in images if image.source == "pbc"]
    tiles = [(rgb, boxes) for rgb, boxes in tiles if rgb.shape == (363, 360, 3)][:35]
    rows = [np.concatenate([rgb for rgb, _ in tiles[start : start + 7]], 1) for start in range(0, 35, 7)]
    corners = [(place % 7 * 360, place // 7 * 363) for place in range(35)]
    cells = np.concatenate(
        [
            boxes + np.array([*corner, *corner], np.float32)
            for corner, (_, boxes) in zip(corners, tiles, strict=True)
        ]
    )
    with open_pipeline(Bundle.load(embedded_bundle()), "openvino", "f32") as pipeline:
        found = pipeline.read(np.concatenate(rows))
    boxes_found = np.array([finding.box_xyxy for finding in found], np.float32)
    pairs = match_one_to_one(cells, boxes_found, [finding.detection_score for finding in found])
    assert np.count_nonzero(pairs >= 0) == len(cells) == 35
    assert len(found) <= 36


def test_no_image_of_the_bundle_is_a_real_one() -> None:
    """The golden tiles are drawn here again, so that nothing third-party is in the repository."""
    bundle = Bundle.load(embedded_bundle())
    spec = bundle.detector
    tiles = [letterbox(smear.rgb, spec.tile_size, spec.anchor, spec.pad)[0] for smear in golden_smears()]
    difference = abs(bundle.golden().detectors[0].inputs.astype(int) - tiles).max()
    assert difference <= 2  # another release of OpenCV may round in another way
