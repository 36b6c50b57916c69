"""Findings that differ are counted as different."""

from dataclasses import replace

from edge.bench.agreement import agreement
from edge.cells import Finding

CELL = Finding((10.0, 10.0, 50.0, 50.0), "LY", 0.9, 0.8, {"LY": 0.8, "MO": 0.2})


def test_cells_are_paired_within_their_image() -> None:
    elsewhere = replace(CELL, box_xyxy=(100.0, 100.0, 140.0, 140.0))
    compared = agreement([[CELL], [CELL, elsewhere], []], [[elsewhere], [CELL], [CELL]])
    assert (compared.reference_cells, compared.cells, compared.matched) == (3, 3, 1)


def test_the_worst_differences_are_those_of_pairs() -> None:
    other = Finding((10.0, 13.0, 50.0, 49.0), "MO", 0.7, 0.6, {"MO": 0.6, "LY": 0.4})
    compared = agreement([[CELL], [CELL]], [[CELL], [other]])
    assert (compared.matched, compared.same_class, compared.worst_box_px) == (2, 1, 3.0)
    assert round(compared.worst_score, 6) == 0.2
    assert round(compared.worst_probability, 6) == 0.4


def test_nothing_found_on_both_sides_agrees() -> None:
    assert agreement([[]], [[]]).matched == 0
