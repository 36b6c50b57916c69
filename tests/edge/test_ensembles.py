"""Several networks in one bundle: fused, blended, turned and windowed as the manifest says."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.backends.base import Session
from edge.bundle import Bundle, Golden, Known
from edge.errors import BackendError, BundleError
from edge.geometry import letterbox, stretched
from edge.manifest import ClassifierSpec, DetectorSpec, Fusion, Manifest, Windows
from edge.pipeline import Pipeline
from edge.selftest import require_known_answers
from edge.stopwatch import Stopwatch
from tests.edge.session_doubles import (
    CLASSES,
    BlobSession,
    NamingSession,
    bundle_of,
    classifier_spec,
    detector_spec,
    field_of,
    manifest_of,
)

CELL = (20, 12, 36, 28)
ONE = field_of((64, 64), [CELL])
TWO = field_of((64, 64), [CELL, (40, 40, 52, 52)])
SURE = [0.8, 0.1, 0.1]


def pipeline_of(
    folder: Path,
    networks: list[tuple[DetectorSpec | ClassifierSpec, Session]],
    **changes: Any,
) -> Pipeline:
    specs = [spec for spec, _ in networks]
    manifest = manifest_of(
        [spec for spec in specs if isinstance(spec, DetectorSpec)],
        [spec for spec in specs if isinstance(spec, ClassifierSpec)],
        **changes,
    )
    return Pipeline(bundle_of(folder, manifest), "double:f32", [session for _, session in networks])


def test_boxes_of_two_detectors_are_fused_by_their_weights(tmp_path: Path) -> None:
    """Their tiles differ; a cell that only one of them finds has the score of its part of the weight."""
    blind = field_of((64, 64), [])
    networks = [
        (detector_spec(weight=3), BlobSession(64, SURE, score=0.8)),
        (detector_spec(tile_size=32, anchor="top_left"), BlobSession(32, SURE, score=0.4)),
    ]
    networks = [(spec.model_copy(update={"names_classes": True}), session) for spec, session in networks]
    watch = Stopwatch()
    (finding,) = pipeline_of(tmp_path, networks).read(ONE, watch)
    assert finding.box_xyxy == pytest.approx(CELL, abs=1)
    assert finding.detection_score == pytest.approx((3 * 0.8 + 0.4) / 4)
    assert list(watch.stage_ms) == ["letterbox", "detect", "fuse", "merge"]
    networks[1] = (networks[1][0], BlobSession(32, SURE, score=0.001))  # under the least score
    pipeline = pipeline_of(tmp_path, networks)
    assert [one.detection_score for one in pipeline.read(ONE)] == [pytest.approx(0.6)]
    assert pipeline.read(ONE, detection_threshold=0.61) == []
    assert pipeline.read(blind) == []


@pytest.mark.parametrize(
    ("rgb", "cells", "expected"),
    [
        (ONE, 1, [1.0 / 5, 2.5 / 5, 1.5 / 5]),  # 0.8 + 3 * 0 + 0.2, 0.1 + 3 * 0.6 + 0.6 and so on
        (TWO, 2, [0.8 / 4, 1.9 / 4, 1.3 / 4]),  # without the last
    ],
    ids=["alone", "two"],
)
def test_classifiers_are_blended_over_those_that_are_asked(
    rgb: np.ndarray, cells: int, expected: list[float], tmp_path: Path
) -> None:
    whole = NamingSession(32, [0.2, 0.6, 0.2])
    networks = [
        (detector_spec(), BlobSession(64)),
        (classifier_spec(weight=1), NamingSession(16, SURE)),
        (classifier_spec(weight=3, classes=("MO", "LY")), NamingSession(16, [0.4, 0.6])),
        (classifier_spec(weight=1, crop_size=32, view="tile", only_when_alone=True), whole),
    ]
    findings = pipeline_of(tmp_path, networks).read(rgb)
    assert len(findings) == cells
    assert len(whole.batches) == (cells == 1)
    for finding in findings:
        assert [finding.probabilities[code] for code in CLASSES] == pytest.approx(expected)
        assert finding.label == "LY"


def test_a_cell_is_alone_whatever_scores_less_than_a_finding_must(tmp_path: Path) -> None:
    """What is given below the threshold for a curve changes nothing of what the station says."""
    networks = [
        (detector_spec(), BlobSession(64)),  # scores 0.5625 and 0.535
        (classifier_spec(weight=1), NamingSession(16, SURE)),
        (
            classifier_spec(weight=1, crop_size=32, view="tile", only_when_alone=True),
            NamingSession(32, [0.2, 0.6, 0.2]),
        ),
    ]
    pipeline = pipeline_of(tmp_path, networks)
    (alone,) = pipeline.read(TWO, detection_threshold=0.55)
    surest, other = pipeline.read(TWO, detection_threshold=0.55, least_score=0.1)
    assert surest == alone
    assert other.detection_score < 0.55
    assert surest.probabilities != pipeline.read(TWO)[0].probabilities


def test_a_detector_that_names_classes_has_its_say_beside_classifiers(tmp_path: Path) -> None:
    """With 1 against 3; where two such detectors found the cell, each has its own weight."""
    one_stage = detector_spec(names_classes=True, classes=("LY", "PNN"))
    classifier = (classifier_spec(weight=3), NamingSession(16, [0, 0, 1]))
    pipeline = pipeline_of(tmp_path, [(one_stage, BlobSession(64, [0.9, 0.1])), classifier])
    (finding,) = pipeline.read(ONE)
    assert finding.probabilities == pytest.approx({"MO": 0.75, "LY": 0.225, "PNN": 0.025})
    other = (detector_spec(names_classes=True, class_weight=4), BlobSession(64, [0, 0.5, 0.5]))
    pipeline = pipeline_of(tmp_path, [(one_stage, BlobSession(64, [0.9, 0.1])), other, classifier])
    (finding,) = pipeline.read(ONE)
    assert finding.probabilities == pytest.approx({"MO": 5 / 8, "LY": 2.9 / 8, "PNN": 0.1 / 8})
    silent = (detector_spec(names_classes=True, class_weight=0), BlobSession(64, [0, 0.5, 0.5]))
    (finding,) = pipeline_of(tmp_path, [silent, classifier]).read(ONE)
    assert finding.probabilities == {"MO": 1, "PNN": 0, "LY": 0}


class TestBoxesOfSomebodyElse:
    ELSEWHERE = (2, 40, 14, 52)

    def boxes(self, *boxes: tuple[int, int, int, int]) -> np.ndarray:
        return np.array(boxes, np.float32).reshape(-1, 4)

    def test_are_named_by_all_that_would_be_asked(self, tmp_path: Path) -> None:
        """A network of whole images only where one box is given, whatever a detector finds."""
        crops, whole = NamingSession(16, SURE), NamingSession(32, [0.2, 0.6, 0.2])
        networks = [
            (detector_spec(), BlobSession(64)),
            (classifier_spec(), crops),
            (classifier_spec(crop_size=32, view="tile", only_when_alone=True), whole),
        ]
        pipeline = pipeline_of(tmp_path, networks)
        assert pipeline.name(TWO, self.boxes(CELL))[0] == pytest.approx([0.5, 0.35, 0.15])
        assert pipeline.name(TWO, self.boxes(CELL, self.ELSEWHERE)).tolist() == [
            pytest.approx(SURE), pytest.approx(SURE),
        ]  # fmt: skip
        assert [len(batch) for batch in crops.batches] == [1, 2]
        assert (len(whole.batches), len(networks[0][1].batches)) == (1, 0)
        assert pipeline.name(TWO, self.boxes()).shape == (0, 3)

    def test_have_the_say_of_the_detection_that_is_nearest(self, tmp_path: Path) -> None:
        one_stage = (detector_spec(names_classes=True, weight=2, tta=("hflip",)), BlobSession(64, SURE))
        near = (CELL[0] + 2, *CELL[1:])
        named = pipeline_of(tmp_path, [one_stage]).name(ONE, self.boxes(near, self.ELSEWHERE))
        assert named.tolist() == [pytest.approx(SURE), [0, 0, 0]]
        classifier = (classifier_spec(weight=3), NamingSession(16, [0, 0, 1]))
        named = pipeline_of(tmp_path, [one_stage, classifier]).name(ONE, self.boxes(near, self.ELSEWHERE))
        votes = 2.0  # of the tile and its mirror image
        expected = (votes * np.array(SURE) + 3 * np.array([0, 0, 1])) / (votes + 3)
        assert named.tolist() == [pytest.approx(expected), [0, 0, 1]]

    def test_are_tempered_as_findings_are(self, tmp_path: Path) -> None:
        networks = [(detector_spec(names_classes=True), BlobSession(64, SURE))]
        pipeline = pipeline_of(tmp_path, networks, temperature=2.0)
        (finding,) = pipeline.read(ONE)
        named = pipeline.name(ONE, self.boxes(CELL, self.ELSEWHERE))
        assert named[0] == pytest.approx([finding.probabilities[code] for code in CLASSES])
        assert named[1].tolist() == [0, 0, 0]


def test_flips_of_a_detector_are_mapped_back_and_fused(tmp_path: Path) -> None:
    session = BlobSession(64, SURE)
    spec = detector_spec(names_classes=True, tta=("hflip", "vflip"))
    plain = pipeline_of(tmp_path, [(detector_spec(names_classes=True), BlobSession(64, SURE))]).read(TWO)
    turned = pipeline_of(tmp_path, [(spec, session)]).read(TWO)
    assert len(session.batches) == 3
    for ours, theirs in zip(plain, turned, strict=True):
        assert ours.box_xyxy == pytest.approx(theirs.box_xyxy)
        assert ours.detection_score == pytest.approx(theirs.detection_score)
        assert ours.probabilities == pytest.approx(theirs.probabilities)


def test_turns_of_a_classifier_are_averaged(tmp_path: Path) -> None:
    """A network that names the side that is dark: of all turns each side is dark once or is not."""

    def darkest(crop: np.ndarray) -> list[float]:
        left, right, top = crop[:, :8], crop[:, 8:], crop[:8]
        dark = [float((255 - part.astype(float)).sum()) for part in (left, right, top)]
        return [value / sum(dark) for value in dark]

    rgb = ONE.copy()
    rgb[12:28, 28:36] = 50  # the right half is lighter, and still of the blob
    session = NamingSession(16, darkest)
    spec = classifier_spec(tta=("hflip", "rot90"))
    (finding,) = pipeline_of(tmp_path, [(detector_spec(), BlobSession(64)), (spec, session)]).read(rgb)
    original, flipped, rotated = (batch[0] for batch in session.batches)
    np.testing.assert_array_equal(flipped, original[:, ::-1])
    np.testing.assert_array_equal(rotated, np.rot90(original))
    mean = np.mean([darkest(original), darkest(flipped), darkest(rotated)], axis=0)
    assert [finding.probabilities[code] for code in CLASSES] == pytest.approx(mean)
    assert max(darkest(original)) > max(mean)


@pytest.mark.parametrize("shape", ["square", "stretched"])
def test_a_whole_tile_is_letterboxed_or_stretched(shape: str, tmp_path: Path) -> None:
    rgb = field_of((96, 64), [CELL])
    session = NamingSession(48, SURE)
    spec = classifier_spec(view="tile", crop_size=48, shape=shape)
    pipeline_of(tmp_path, [(detector_spec(), BlobSession(64)), (spec, session)]).read(rgb)
    expected = letterbox(rgb, 48)[0] if shape == "square" else stretched(rgb, 48)
    np.testing.assert_array_equal(session.batches[0], expected[None])


def test_the_answer_to_a_whole_tile_is_that_of_each_of_its_cells(tmp_path: Path) -> None:
    spec = classifier_spec(view="tile", crop_size=32)
    networks = [(detector_spec(), BlobSession(64)), (spec, NamingSession(32, SURE))]
    findings = pipeline_of(tmp_path, networks).read(TWO)
    assert [finding.class_score for finding in findings] == [pytest.approx(0.8)] * 2


@st.composite
def fields(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[int, int, int, int]]]:
    """Fields larger than a window, with cells no larger than the overlap that do not touch each other."""
    size_wh = draw(st.tuples(st.integers(64, 300), st.integers(64, 300)))
    taken = np.zeros((size_wh[1], size_wh[0]), bool)
    cells = []
    places = st.tuples(st.integers(8, 24), st.integers(8, 24), st.floats(0, 1), st.floats(0, 1))
    for width, height, x, y in draw(st.lists(places, max_size=8)):
        x1, y1 = round(x * (size_wh[0] - width)), round(y * (size_wh[1] - height))
        if not taken[y1 : y1 + height, x1 : x1 + width].any():
            cells.append((x1, y1, x1 + width, y1 + height))
            taken[max(y1 - 1, 0) : y1 + height + 1, max(x1 - 1, 0) : x1 + width + 1] = True
    return size_wh, cells


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields(), st.booleans())
def test_every_cell_of_a_field_is_found_once_through_windows(
    tmp_path: Path, field: tuple[tuple[int, int], list[tuple[int, int, int, int]]], is_flipped: bool
) -> None:
    """By a detector that finds the cut cells of a window too; windows of 64 px are tiles of 64 px."""
    size_wh, cells = field
    session = BlobSession(64, SURE)
    spec = detector_spec(
        names_classes=True,
        windows=Windows(size_px=64, overlap_px=24),
        tta=("hflip",) if is_flipped else (),
    )
    findings = pipeline_of(tmp_path, [(spec, session)]).read(field_of(size_wh, cells))
    assert sorted(finding.box_xyxy for finding in findings) == sorted(cells)
    assert all(len(batch) <= 4 for batch in session.batches)
    scores = [finding.detection_score for finding in findings]
    assert scores == sorted(scores, reverse=True)


def test_an_image_no_larger_than_a_window_is_read_as_without_windows(tmp_path: Path) -> None:
    plain = [(detector_spec(names_classes=True), BlobSession(64, SURE))]
    windowed = [
        (
            detector_spec(names_classes=True, windows=Windows(size_px=100, overlap_px=20)),
            BlobSession(64, SURE),
        )
    ]
    rgb = field_of((100, 90), [CELL, (60, 60, 90, 80)])
    assert pipeline_of(tmp_path, plain).read(rgb) == pipeline_of(tmp_path, windowed).read(rgb)


def test_many_threads_may_read_at_once(tmp_path: Path) -> None:
    """The pipeline itself keeps nothing of an image: each thread has sessions of its own here."""

    class Shared(Session):
        """Test double of a session with lanes: each run has its own memory."""

        def __init__(self, side_px: int, names: list[float] | None) -> None:
            super().__init__("lanes", side_px, lanes=4)
            self.names = names

        def _run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            return BlobSession(self.side_px, self.names)._run(batch)

        def close(self) -> None: ...

    spec = detector_spec(names_classes=True, tta=("hflip",), windows=Windows(size_px=64, overlap_px=24))
    networks: list[Any] = [(spec, Shared(64, SURE)), (detector_spec(names_classes=True), Shared(64, SURE))]
    pipeline = pipeline_of(tmp_path, networks)
    assert pipeline.lanes == 4
    images = [field_of((150, 120), [(x, 30, x + 20, 50), (60, 80, 78, 100)]) for x in range(0, 120, 10)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(pipeline.read, images)) == [pipeline.read(rgb) for rgb in images]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detectors": ()}, "0 detectors"),
        ({"classifiers": ()}, "nobody names the classes of every cell"),
        ({"classifiers": (classifier_spec(only_when_alone=True),)}, "nobody names the classes"),
        ({"classifiers": (classifier_spec(classes=("LY", "EO")),)}, "of which EO is not of the bundle"),
        ({"classifiers": (classifier_spec(classes=("LY", "LY")),)}, "of which one comes twice"),
        (
            {
                "detectors": (detector_spec(names_classes=True), detector_spec()),
                "classifiers": (),
            },
            "nobody names",
        ),
    ],
)
def test_networks_that_do_not_go_together_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        manifest_of(**{"detectors": [detector_spec()], "classifiers": [classifier_spec()], **changes})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: detector_spec(weight=0), "greater than 0"),
        (lambda: detector_spec(tta=("rot90",)), "'hflip' or 'vflip'"),
        (lambda: classifier_spec(view="cell"), "'crop' or 'tile'"),
        (lambda: Windows(size_px=100, overlap_px=51), "at most half"),
        (lambda: Fusion(iou=1.5), "less than or equal to 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make()


def test_a_bundle_that_uses_nothing_new_is_written_as_the_first_version_reads_it(bundle: Bundle) -> None:
    """Whose stations refuse keys that they do not know, and want all that had no default then."""
    whole = bundle.detector.model_copy(update={"windows": None})
    manifest = bundle.manifest.model_copy(update={"training_images": None, "detectors": (whole,)})
    written = json.loads(manifest.dump())
    assert Manifest.model_validate(written) == manifest
    assert written.keys() == {
        *("schema_version", "name", "created", "classes", "detectors", "classifiers", "thresholds"),
        *("provenance", "accuracy", "gates", "sha256"),
    }
    (detector,), (classifier,) = written["detectors"], written["classifiers"]
    wanted = {"name", "graph", "tile_size", "anchor", "max_detections"}
    assert wanted <= detector.keys() <= {*wanted, "pad", "names_classes"}
    assert classifier.keys() == {"name", "graph", "crop_size", "margin_px", "margin_fraction", "shape"}


def test_what_is_made_for_one_detector_refuses_a_bundle_of_more(tmp_path: Path) -> None:
    ensemble = bundle_of(tmp_path, manifest_of([detector_spec()] * 2, [classifier_spec()]))
    with pytest.raises(BundleError, match="has 2 detectors and 1 classifiers, but this is made for one"):
        _ = ensemble.detector
    with pytest.raises(BundleError, match="give a bundle of these"):
        _ = ensemble.classifier


def known_answers(session: Session, inputs: np.ndarray) -> Known:
    return Known(inputs, {name: values.copy() for name, values in session.run(inputs).items()})


def test_known_answers_of_every_network_survive_their_file_and_are_asked_for() -> None:
    tiles = np.stack([ONE, TWO])
    crops = np.full((3, 16, 16, 3), 9, np.uint8)
    sessions = [BlobSession(64), BlobSession(64, score=0.7), NamingSession(16, SURE), NamingSession(16, SURE)]
    known = [known_answers(session, tiles) for session in sessions[:2]]
    known += [known_answers(session, crops[index:]) for index, session in enumerate(sessions[2:])]
    golden = Golden.of_arrays(Golden(tuple(known[:2]), tuple(known[2:])).arrays())
    assert [len(one.inputs) for one in golden.networks] == [2, 2, 3, 2]
    assert golden.detectors[1].outputs["scores"][0, 0] == np.float32(0.7)
    assert golden.tells_anything(0.4)
    assert not golden.tells_anything(0.75)  # the second detector says nothing above that
    assert require_known_answers(sessions, golden, 0.4, "f32").box_px == 0
    sessions[3] = NamingSession(16, [0.7, 0.2, 0.1])
    sessions[3].name = "the fourth"
    with pytest.raises(BackendError, match="the fourth does not give the known answers"):
        require_known_answers(sessions, golden, 0.4, "f32")
