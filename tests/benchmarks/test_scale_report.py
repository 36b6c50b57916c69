"""The section says what was measured, and nothing else of the page is touched."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.growth import Growth, Point, Side, Stretch
from benchmarks.scale_report import FIGURES, GROWTH, PAGE, SHARING, Measurements, to_markdown, write
from benchmarks.sharing import ALONE, TWO, Shared
from benchmarks.starting import Starts
from benchmarks.whole_cost import WholeCost


def side(lone_ms: float, waiting_ms: float) -> Side:
    laps = {"read": 0.1, "commit": lone_ms - 0.1}
    return Side((lone_ms,) * 3, (laps,) * 3, (waiting_ms,) * 2)


def measured(
    *, last_lone_ms: float = 1.5, last_waiting_ms: float = 0.6, ready_s: float = 2.0, slower: int = 19
) -> Measurements:
    points = (
        Point(0, side(1.0, 0.5), side(1.0, 0.5)),
        Point(50_000, side(last_lone_ms, last_waiting_ms), side(1.0, 0.5)),
    )
    stretch = Stretch(1_000, 49_000, 0.55, {"read": 0.1, "commit": 3.0})
    times = [
        tuple(second + part / rate for second in range(10) for part in range(rate)) for rate in (20, slower)
    ]
    return Measurements(
        {
            **dict.fromkeys(
                ("date", "processor", "system", "python", "sqlite", "openvino", "file_system"), "?"
            ),
            **{"cores": 2, "images": "real tiles", "load_before": 1.0, "load_others": 0.5, "seconds": 600.0},
            **{"rounds": 1, "shared_images": 200},
        },
        WholeCost("demo", "openvino:f32", 20.0, 15.0, 10.0, 3),
        Growth(51_000, (stretch,), points, 51_000_000),
        Starts(5_000, *([(ready_s,) * 3] * 6)),
        {ALONE: [Shared(times[:1])], TWO: [Shared(tuple(times))]},
    )


def test_growth_is_told_as_part_of_what_an_image_costs_in_all() -> None:
    text = to_markdown(measured(last_lone_ms=1.5))
    assert "| 50,000 | 1.500 | 1.000 | +2.5% | 0.600 | 0.500 | +1.0% |" in text
    assert "within 10 %: met (at most 2.5% away)" in text
    assert "on an image alone is 1.50 times that with an empty journal" in " ".join(text.split())


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"last_lone_ms": 3.5}, "**missed** (at most 12.5% away)"),
        ({"last_lone_ms": 0.5, "last_waiting_ms": 2.0}, "**missed** (at most 15.0% away)"),
        ({"ready_s": 5.5}, "**missed** (the slowest took 5.5 s)"),
        ({"slower": 10}, "**missed** (0.50)"),
    ],
)
def test_a_missed_target_is_said_to_be_missed(changed: dict[str, float], verdict: str) -> None:
    assert "missed" not in to_markdown(measured())
    assert verdict in to_markdown(measured(**changed))  # type: ignore[arg-type]


def test_other_sections_of_the_page_stay_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / PAGE
    page.write_text("# Performance\n\nWords.\n\n## Scale\n\nold\n\n### Deeper\n\nold\n\n## Scales\n\nkept\n")
    write(measured(), tmp_path)
    text = page.read_text()
    assert text.startswith("# Performance\n\nWords.\n\n## Scale\n\n*Written by")
    assert text.endswith("\n\n## Scales\n\nkept\n")
    assert "old" not in text
    write(replace(measured()), tmp_path)
    assert page.read_text() == text


def test_a_page_that_is_not_there_begins_with_the_section(tmp_path: Path) -> None:
    write(measured(), tmp_path)
    text = (tmp_path / PAGE).read_text()
    assert text.startswith("# Performance\n\n## Scale\n")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for picture in (GROWTH, SHARING):
        assert f"]({picture})" in text
        assert (tmp_path / picture).stat().st_size < 60_000
    assert (
        json.loads((tmp_path / FIGURES).read_text())["growth"]["points"][1]["grown"]["lone_ms"] == [1.5] * 3
    )
