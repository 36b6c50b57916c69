"""One page with all plots that needs no other file, and tables with the same figures."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from rich.console import Console

from edge.bench.charts import ratio_chart
from edge.bench.compare import NO_DIFFERENCE, compare
from edge.bench.estimates import Estimate
from edge.bench.offered import figures_of
from edge.bench.page import to_html
from edge.bench.svg import COLOURS, FAINT, linear, log_ticks, logarithmic, ticks
from edge.bench.table import load_rows, notes, print_comparison, print_report, stage_rows, total_line
from tests.edge.bench.reports import MACHINE, engine, report, with_another_engine

_VOID = {"meta"}


class Reading(HTMLParser):
    """Whether tags are closed in order, what the page would load, and its plots."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.plots: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "svg":
            self.plots.append(given["aria-label"] or "")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_has_every_plot_and_loads_nothing() -> None:
    made = with_another_engine(report(), 1.5)
    page = to_html(made, compare(report(slow=0.8), made, "old.json"))
    read = Reading(page)
    assert read.open == []
    assert read.loaded == []
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert read.plots == [
        "ratio to before, right of 1 is slower; bars are 95 % intervals",
        "Latency distribution of each engine",
        "Waterfall of the stages",
        "time of an image, ratio to the first; right of 1 is slower; bars are 95 % intervals",
        "Latency against offered load",
    ]
    assert "url(" not in page
    assert "@import" not in page


def test_a_page_of_one_engine_shows_what_was_measured_only() -> None:
    made = replace(report(), load=(), cold=None, idle=None)
    read = Reading(to_html(made))
    assert len(read.plots) == 2
    assert "cold start" not in to_html(made)


def test_every_coordinate_is_a_number_within_the_picture() -> None:
    page = to_html(with_another_engine(report(), 4.0), compare(report(slow=0.05), report(), "old.json"))
    for attribute in ("x", "y", "width", "height", "cx", "cy"):
        values = re.findall(rf' {attribute}="([^"]+)"', page)
        assert values
        assert all(-1 <= float(value) <= 1000 for value in values if value != "device-width")
    assert "nan" not in page


def test_a_histogram_counts_every_image_that_it_shows() -> None:
    page = to_html(report())
    panel = page.split("Latency distribution")[1].split("</svg>")[0]
    shown = sum(int(count) for count in re.findall(r"(\d+) of 100 images", panel))
    beyond = re.search(r"(\d+) beyond", panel)
    assert shown + int(beyond[1] if beyond else 0) == 100


def test_the_plot_of_a_comparison_says_what_its_table_says() -> None:
    rows = [("total", Estimate(0.985, 0.98, 0.99)), ("decode", Estimate(1.1, 1.05, 1.15))]
    near, far = re.findall(r'<circle [^>]* fill="([^"]+)"', ratio_chart(rows, "ratios", NO_DIFFERENCE))
    assert (near, far) == (FAINT, COLOURS[1])
    assert f'fill="{COLOURS[2]}"' in ratio_chart(rows, "ratios")  # engines in turn have no such margin


def test_a_long_name_does_not_leave_the_picture() -> None:
    name = "a-bundle-with-a-long-name on onnxruntime:f32"
    page = to_html(with_another_engine(report(engines=(engine(name),)), 1.5))
    assert f' textLength="175" lengthAdjust="spacingAndGlyphs">{name}</text>' in page
    assert page.count("textLength") == 1


def test_the_words_below_a_plot_stay_in_it_whatever_the_name() -> None:
    made = with_another_engine(report(engines=(engine("a-long-name" * 9),)), 1.5)
    for plot in re.findall(r"<svg .*?</svg>", to_html(made, compare(report(), made, "old.json"))):
        for middle, words in re.findall(r'<text x="([^"]+)"[^>]* text-anchor="middle"[^>]*>([^<]*)<', plot):
            assert 0 < float(middle) - 3.5 * len(words) < float(middle) + 3.5 * len(words) < 860, words


@pytest.mark.parametrize("high", [1.05, 2.0, 4.4, 4.6, 18.0])
@pytest.mark.parametrize("low", [0.01, 0.6, 0.95])
def test_the_marks_of_a_plot_of_ratios_have_room(low: float, high: float) -> None:
    plot = ratio_chart([("total", Estimate(1.0, low, high))], "ratios")
    found = re.findall(r'<text x="([^"]+)" [^>]*>([\d.]+)<', plot)
    assert len(found) > 2
    for (left, one), (right, other) in pairwise(found):
        assert float(right) - float(left) > 3.5 * len(one + other), (one, other)


def test_a_name_is_text_and_not_a_tag() -> None:
    page = to_html(report(engines=(engine("<b>bold</b>"),), input="<i>"))
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def test_equal_times_are_drawn_too() -> None:
    assert Reading(to_html(report(engines=(engine(detect_ms=[8.0] * 100),)))).open == []


def test_the_terminal_tells_the_same_figures() -> None:
    made = with_another_engine(report(), 1.5)
    console = Console(record=True, width=160, quiet=False)
    with console.capture() as captured:
        print_report(made, console)
        print_comparison(compare(report(), made, "old.json"), console)
    text = captured.get()
    for said in (
        "cold start: edge-watch until READY",
        "after a pause of 5 s",
        "1.50 (1.35 to 1.65)",
        "19 of 20",
        "falls behind",
        "200 MB when ready, 300 MB at most with 32 images at once",
        "package-0 0.50 J",
        "Energy not told: card: there is no NVIDIA driver.",
        "now against old.json",
        "Warning: Several engines took turns",
    ):
        assert said in text, said


def test_a_p99_of_few_images_has_no_upper_end() -> None:
    few, many = (total_line(engine(images=images)) for images in (100, 400))
    assert re.search(r"p90 [\d.]+ \([\d.]+ to [\d.]+\), p99 [\d.]+ \([\d.]+ or more\)\.$", few)
    assert re.search(r"p99 [\d.]+ \([\d.]+ to [\d.]+\)\.$", many)


def test_a_median_of_a_handful_has_no_upper_end() -> None:
    few, many = (stage_rows(report(engines=(engine(images=images),))).rows[-1][3] for images in (5, 6))
    assert few.endswith(" or more")
    assert " to " in many


def test_a_p99_under_load_has_no_upper_end_where_few_images_came() -> None:
    made = report()
    *_, p99, _, _, _ = load_rows(made).rows[0]
    assert p99 == "20.0"
    due_s = [number / 10 for number in range(367)]
    few = figures_of(0.5, due_s, [second + 0.02 for second in due_s], 1)
    *_, p99, _, _, _ = load_rows(replace(made, load=(few,))).rows[0]
    assert p99 == "20.0 or more"


def test_no_letter_of_a_name_is_lost_on_a_narrow_terminal() -> None:
    name = "a-bundle-with-a-long-name on onnxruntime:f32"
    console = Console(width=80)
    with console.capture() as captured:
        print_report(with_another_engine(report(engines=(engine(name),)), 1.5), console)
    assert "…" not in captured.get()


def test_figures_of_files_in_memory_are_said_to_be() -> None:
    told = notes(report(machine=MACHINE | {"disk": "tmpfs"}))
    assert any("written into memory (tmpfs)" in sentence for sentence in told)
    assert not any("memory (" in sentence for sentence in notes(report()))


def test_a_name_with_brackets_is_told_as_it_is() -> None:
    console = Console(record=True, width=160)
    with console.capture() as captured:
        print_report(report(engines=(engine("mine[v2]"), engine("mine[/v3]", slow=1.5))), console)
    assert "mine[v2]" in captured.get()
    assert "mine[/v3]" in captured.get()


def test_marks_are_round() -> None:
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(9.1, 11.2, 4) == [10.0, 11.0]
    assert log_ticks(3, 60) == [5, 10, 20, 50]
    assert linear(0, 10, 100, 200)(5) == 150
    assert logarithmic(1, 100, 0, 200)(10) == 100
