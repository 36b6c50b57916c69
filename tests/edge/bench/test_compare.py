"""What got slower is said, with what else changed; what did not is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge.bench.cold import ColdStart
from edge.bench.compare import Comparison, compare
from edge.bench.report import BenchReport, Conditions, Idle, load_report, save_report
from edge.errors import BenchError
from edge.locks import OutputFullError
from tests.edge.bench.reports import MACHINE, engine, report, with_another_engine


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {change.what: change.verdict for change in comparison.changes}


def test_a_report_against_itself_is_no_slower_and_warns_of_nothing() -> None:
    found = compare(report(), report(), "old.json")
    assert "slower" not in verdicts(found).values()
    assert all(change.ratio.value == 1 for change in found.changes)
    assert found.warnings == ()
    assert found.refusal(1.0) is None


def test_what_takes_longer_is_slower_and_the_rest_is_not() -> None:
    found = compare(report(), report(slow=1.3), "old.json")
    said = verdicts(found)
    assert said["total"] == said["detect"] == said["backlog, of an image"] == "slower"
    assert said["classify"] == said["cold start"] == "not told apart"
    assert verdicts(compare(report(slow=1.3), report(), "old.json"))["total"] == "faster"


def test_a_limit_is_passed_when_the_whole_interval_is_beyond_it() -> None:
    found = compare(report(), report(slow=1.3), "old.json")
    found = replace(found, changes=found.changes[:1])
    low = found.total.ratio.low
    assert found.refusal(low) is None
    said = found.refusal(low - 0.01)
    assert said is not None
    assert "old.json, 1.2" in said
    assert said.count(".\n") == 0
    assert said.endswith("look at the stages for where.")


def test_a_limit_is_of_the_backlog_too() -> None:
    first = replace(report().first, backlog_per_s=tuple(rate / 2 for rate in report().first.backlog_per_s))
    said = compare(report(), report(engines=(first,)), "old.json").refusal(1.5)
    assert said is not None
    assert said.startswith("An image of the backlog takes")


def test_images_without_a_cell_do_not_count_for_a_stage_that_they_do_not_come_to() -> None:
    found = next(c for c in compare(report(), report(), "old.json").changes if c.what == "classify")
    assert found.before == 1.5


def test_stages_that_one_side_does_not_know_are_left_out() -> None:
    old = report()
    times = {stage: ms for stage, ms in old.first.times_ms.items() if stage != "classify"}
    old = replace(old, engines=(replace(old.first, times_ms=times),))
    assert "classify" not in verdicts(compare(old, report(), "old.json"))


@pytest.mark.parametrize(
    ("missing", "left_out"),
    [
        ({"cold": None}, {"cold start", "first image after it", "memory, most"}),
        ({"idle": None}, {"after a pause of 5 s"}),
        (
            {"load": (), "arrivals": "regular"},
            {"most images that arrive, of an image", "p99 at 50% of its backlog"},
        ),
    ],
)
def test_what_one_side_did_not_measure_is_left_out(missing: dict[str, object], left_out: set[str]) -> None:
    all_of_it = verdicts(compare(report(), report(), "old.json")).keys()
    for before, after in ((report(), report(**missing)), (report(**missing), report())):
        found = compare(before, after, "old.json")
        assert all_of_it - verdicts(found).keys() == left_out
        assert found.warnings == ()


def test_other_engines_are_compared_by_name() -> None:
    found = compare(with_another_engine(report(), 1.0), with_another_engine(report(), 2.0), "old.json")
    assert verdicts(found)["total on other:f32"] == "slower"
    assert verdicts(found)["total"] == "not told apart"


def test_a_backlog_of_another_length_and_a_pause_of_another_are_not_compared() -> None:
    found = verdicts(compare(report(), report(waiting=8, idle=Idle(9.0, (12.0, 13.0))), "old.json"))
    words = ("backlog", "pause", "memory", "energy")
    assert not {name for name in found if any(word in name for word in words)}


def test_images_that_arrive_are_compared_where_they_arrived_in_the_same_way() -> None:
    quick, slow = (replace(made, load=made.load[1:]) for made in (report(), report(2.0)))
    changes = {change.what: change for change in compare(quick, slow, "before.json").changes}
    assert not any("p99" in what for what in changes)  # nobody can do 120 %
    full = [replace(made, load=(replace(made.load[0], share=0.95),)) for made in (report(), report(2.0))]
    assert not any("p99" in change.what for change in compare(*full, "before.json").changes)
    assert changes["most images that arrive, of an image"].ratio.value > 1
    found = {change.what: change for change in compare(report(), report(2.0), "before.json").changes}
    assert found["p99 at 50% of its backlog"].ratio.value == pytest.approx(2.0)
    assert found["p99 at 50% of its backlog"].verdict == "slower"
    few = [replace(made, load=(replace(made.load[0], images=100),)) for made in (report(), report(2.0))]
    changes = {change.what: change for change in compare(*few, "before.json").changes}
    assert changes["p99 at 50% of its backlog"].verdict == ""  # of a p99 of 100 images nobody knows the end
    others = compare(replace(report(), arrivals="regular"), report(), "before.json")
    assert not any("arrive" in what or "p99" in what for what in verdicts(others))


def test_memory_and_energy_are_told_without_a_verdict() -> None:
    found = compare(report(), report(), "old.json")
    told = {change.what: change for change in found.changes if not change.has_interval}
    assert {"memory, most", "energy of an image, package-0"} <= set(told)
    assert all(change.verdict == "" for change in told.values())


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"input_sha256": "01"}, "The images were others"),
        ({"machine": MACHINE | {"processor": "another"}}, "The processor was a processor in old.json"),
        ({"machine": MACHINE | {"cores": 4}}, "The number of cores was 2 in old.json, and now is 4."),
        ({"machine": MACHINE | {"packages": {}}}, "The version of numpy was 2 in old.json, and now is none."),
        ({"engines": (engine("openvino:f32"),)}, "The engine was double:f32 in old.json"),
        ({"engines": (replace(engine(), bundle="new-1"),)}, "The bundle was double-000000000000"),
        ({"waiting": 8}, "32 images waited in a round of the backlog in old.json, and now 8: the backlog"),
        ({"arrivals": "regular"}, "Images arrived exponential in old.json, and now regular: load is not"),
        ({"engines": (engine(images=20),)}, "One side timed 20 images only"),
        ({"machine": MACHINE | {"disk": "tmpfs"}}, "The file system that was written to was ext4"),
        ({"conditions": Conditions("powersave", 0.1, 0.0)}, "The governor was performance"),
        ({"conditions": Conditions("performance", 2, 1.5)}, "Other processes kept 1.5 cores busy now"),
    ],
)
def test_what_else_changed_is_warned_of(changes: dict[str, object], warning: str) -> None:
    warnings = compare(report(), report(**changes), "old.json").warnings
    assert len(warnings) == 1
    assert warnings[0].startswith(warning)


def test_too_few_values_are_told_without_a_verdict_and_refuse_nothing() -> None:
    cold = replace(report().cold, ready_s=(1.5, 1.5))  # type: ignore[type-var]
    few = replace(report().first, backlog_per_s=(140.0, 141.0))
    slow = replace(few, backlog_per_s=(70.0, 71.0))
    before = report(engines=(few,), cold=cold)
    after = report(engines=(slow,), cold=replace(cold, ready_s=(1.8, 1.8)))  # type: ignore[type-var]
    found = compare(before, after, "old.json")
    changes = {change.what: change for change in found.changes}
    for what, ratio in (
        ("cold start", 1.2),
        ("backlog, of an image", (1 / 70 + 1 / 71) / (1 / 140 + 1 / 141)),
    ):
        assert changes[what].ratio.value == pytest.approx(ratio)
        assert not changes[what].has_interval
        assert changes[what].verdict == ""
    assert found.refusal(1.1) is None
    (warning,) = found.warnings
    assert warning.startswith("One side has 2 rounds of the backlog, too few to hold it to --limit")


def test_what_an_older_version_did_not_tell_of_the_machine_is_not_warned_of() -> None:
    older = {key: value for key, value in MACHINE.items() if key != "disk"}
    assert compare(report(machine=older), report(), "old.json").warnings == ()


def test_taking_turns_is_another_thing_than_being_alone() -> None:
    (warning,) = compare(with_another_engine(report(), 1.0), report(), "old.json").warnings
    assert warning.startswith("Several engines took turns in old.json and one was alone in this one")


def test_a_report_comes_back_from_its_file_as_it_went(tmp_path: Path) -> None:
    made = with_another_engine(report(), 1.5)
    save_report(made, tmp_path / "made.json")
    assert load_report(tmp_path / "made.json") == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", r"is no file of edge-bench --json of schema 2 \(schema: Field required\)"),
        ("no json", r"\(the whole: Invalid JSON"),
        ('{"bundle": "b", "engine": "e", "stages": []}', "measure again with this version"),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=said):
        load_report(path)


@pytest.mark.parametrize(
    "made",
    [
        report(engines=()),
        report(engines=(replace(engine(), times_ms={"detect": (1.0,)}),)),
        report(engines=(replace(engine(), times_ms={"total": ()}),)),
        report(engines=(replace(engine(), backlog_per_s=(140.0, 0.0, 150.0)),)),
        report(cold=ColdStart((1.5,), (30.0,), (200.0,), 0.0, 32, None)),
        report(idle=Idle(5.0, ())),
        report(load=(replace(report().load[0], answered_per_s=0.0),)),
    ],
)
def test_figures_that_no_run_gives_are_refused_before_anything_is_measured(
    tmp_path: Path, made: BenchReport
) -> None:
    save_report(made, tmp_path / "other.json")
    with pytest.raises(BenchError, match=r"other\.json has figures that no run gives"):
        load_report(tmp_path / "other.json")


def test_a_median_of_nan_is_refused_which_would_be_within_any_limit(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    save_report(report(engines=(replace(engine(), times_ms={"total": (12345.0,) * 3}),)), path)
    path.write_text(path.read_text().replace("12345.0", "NaN"))
    with pytest.raises(BenchError, match="figures that no run gives"):
        load_report(path)


def test_no_space_for_the_figures_is_told_as_that() -> None:
    with pytest.raises(OutputFullError, match="There is no space for /dev/full; free some"):
        save_report(report(), Path("/dev/full"))


def test_a_later_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    save_report(report(schema=3), tmp_path / "later.json")
    with pytest.raises(BenchError, match="is of schema 3 and this version reads 2"):
        load_report(tmp_path / "later.json")
    with pytest.raises(BenchError, match="cannot be read"):
        load_report(tmp_path / "nothing.json")
    with pytest.raises(BenchError, match="cannot be written"):
        save_report(report(), tmp_path / "nowhere" / "made.json")
