"""How far two engines are apart is told by their boxes, the large ones in proportion, and by their scores."""

import numpy as np
import pytest

from edge.backends.base import Outputs
from edge.bundle import Known
from edge.errors import BackendError
from edge.selftest import TOLERANCES, compare_detections, deviation_of
from tests.edge.session_doubles import BlobSession, NamingSession


def detections(side: float, moved: float = 0.0, score: float = 0.9) -> Outputs:
    """One image with one square box and a place that is not used."""
    boxes = np.float32([[[50 + moved, 50, 50 + moved + side, 50 + side], [0, 0, 0, 0]]])
    return {"boxes": boxes, "scores": np.float32([[score, 0]])}


@pytest.mark.parametrize(("side", "deviation"), [(20, 3.0), (100, 3.0), (150, 2.0), (300, 1.0)])
def test_a_box_may_stray_as_far_as_it_is_large(side: float, deviation: float) -> None:
    found = compare_detections(detections(side), detections(side, moved=3), 0.4, 0.02)
    assert found.box_px == pytest.approx(deviation)
    assert found.score == 0


def test_a_box_without_a_partner_is_infinitely_far() -> None:
    for other in (detections(100, moved=60), detections(100, score=0.0)):
        assert compare_detections(detections(100), other, 0.4, 0.02).box_px == float("inf")


def test_a_box_that_is_hardly_a_finding_may_be_missing() -> None:
    assert compare_detections(detections(100, score=0.41), detections(100, score=0.0), 0.4, 0.02).box_px == 0


def test_answers_of_other_names_or_shapes_are_an_engine_that_does_not_fit() -> None:
    probabilities = Known(np.zeros((2, 16, 16, 3), np.uint8), {"probabilities": np.float32([[0.5, 0.5]] * 2)})
    boxes = Known(np.zeros((1, 64, 64, 3), np.uint8), detections(20))
    for session, known, said in (
        (NamingSession(16, [0.2, 0.3, 0.5]), probabilities, r"probabilities as \[2, 3\], .* are \[2, 2\]"),
        (NamingSession(64, [1.0]), boxes, r"boxes as nothing, .* are \[1, 2, 4\]"),
        (BlobSession(64), boxes, r"boxes as \[1, 30, 4\], but the known answers are \[1, 2, 4\]; rebuild"),
    ):
        with pytest.raises(BackendError, match=said):
            deviation_of(session, known, 0.4, TOLERANCES["f32"])
