"""Curation of one image: boxes as found, labels as the expert wrote them, black where both differ."""

from collections.abc import Sequence

import numpy as np
import pytest

from edge.cells import Finding
from edge.images import decode
from training.audit.cleaning import XYXY, CleanRow
from training.audit.faults import Action
from training.curation import Curated, CuratedImage, coded, curate_image, painted

A, A_FOUND, FAR, TWIN = (10, 10, 50, 50), (12.3, 9.6, 51.8, 50.4), (100, 100, 140, 140), (30, 10, 70, 50)


def row(box: XYXY, label: str = "PNN", line: int = 2) -> CleanRow:
    return CleanRow(line, "a.jpg", box, label, {})


def finding(box: XYXY, label: str = "PNN", score: float = 0.9) -> Finding:
    return Finding(box, label, score, 0.8, {label: 0.8})


def faults(one: CuratedImage) -> list[tuple[str, str, int | None]]:
    return [(change.action, change.fault, change.line) for change in one.changes]


def kept(one: CuratedImage) -> list[str]:
    return [kept.text for kept in one.rows]


def curate(rows: Sequence[CleanRow], findings: Sequence[Finding], **options: bool) -> CuratedImage:
    return curate_image(rows, findings, "train.csv", **options)


def test_a_box_that_is_found_takes_the_geometry_and_keeps_its_class() -> None:
    one = curate([row(A, "M")], [finding(A_FOUND, "PM")])
    assert kept(one) == ["12,10,52,50,M"]
    assert faults(one) == [(Action.MENDED, Curated.GEOMETRY, 2), (Action.KEPT, Curated.CLASS, 2)]
    assert [(change.before, change.after) for change in one.changes] == [
        ("10,10,50,50,M", "12,10,52,50,M")
    ] * 2
    assert "PM was found with a probability of 0.80; the label stays" in one.changes[1].reason
    assert one.painted == ()


def test_nothing_is_said_of_a_box_on_which_both_agree() -> None:
    assert curate([row(A)], [finding(A)]).changes == ()


@pytest.mark.parametrize(("label", "options"), [("WBC", {}), ("M", {"compare_classes": False})])
def test_classes_are_not_compared_where_one_side_knows_none(label: str, options: dict[str, bool]) -> None:
    assert faults(curate([row(A, label)], [finding(A, "LY")], **options)) == []


def test_what_is_not_matched_on_either_side_is_painted_and_gets_no_row() -> None:
    one = curate([row(A), row(FAR, line=3)], [finding(A), finding((200, 0, 220.4, 30), "LY", 0.6)])
    assert kept(one) == ["10,10,50,50,PNN"]
    assert one.painted == (FAR, (200, 0, 220.4, 30))
    assert faults(one) == [
        (Action.DROPPED, Curated.UNMATCHED_BOX, 3), (Action.MENDED, Curated.UNMATCHED_FINDING, None),
    ]  # fmt: skip
    assert [change.after for change in one.changes] == ["", "200,0,220,30,LY"]
    assert all(change.reason.endswith("; painted black") for change in one.changes)


def test_or_it_is_left_as_it_is() -> None:
    one = curate([row(A), row(FAR, line=3)], [finding(A), finding((200, 0, 220, 30))], may_paint=False)
    assert kept(one) == ["10,10,50,50,PNN", "100,100,140,140,PNN"]
    assert one.painted == ()
    assert [change.action for change in one.changes] == [Action.KEPT, Action.KEPT]


def test_a_finding_serves_one_box_only() -> None:
    one = curate([row(A), row((12, 10, 52, 50), line=3)], [finding(A)])
    assert kept(one) == ["10,10,50,50,PNN"]
    assert faults(one) == [(Action.DROPPED, Curated.UNMATCHED_BOX, 3)]


def test_no_pixel_of_a_kept_cell_is_painted_and_no_other_is_changed() -> None:
    grey = np.full((60, 80, 3), 90, np.uint8)
    black = painted(grey, [TWIN, (-5, 55, 9, 300)], [A])
    wanted = np.zeros((60, 80), bool)
    wanted[10:50, 50:70] = True  # of the twin what lies beyond A
    wanted[55:, :9] = True
    assert np.array_equal((black == 0).all(2), wanted)
    assert (black[~wanted] == 90).all()
    assert (grey == 90).all()


@pytest.mark.parametrize(
    ("suffix", "start", "strays"),
    [(".jpg", b"\xff\xd8", 6), (".JPEG", b"\xff\xd8", 6), (".png", b"\x89PNG", 0)],
)
def test_a_painted_image_has_the_format_of_its_name(suffix: str, start: bytes, strays: int) -> None:
    rgb = np.random.default_rng(0).integers(60, 200, (20, 30, 3)).astype(np.uint8)
    rgb = np.kron(rgb, np.ones((8, 8, 1), np.uint8))
    data = coded(rgb, suffix)
    assert data.startswith(start)
    assert np.abs(decode(data).astype(int) - rgb).mean() <= strays
