"""`edge-bench`, as a user runs it."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.bench import measure as measuring
from edge.bench.command import bench
from edge.bench.compare import SLOWER_EXIT_CODE, compare
from edge.bench.inputs import Inputs, folder_inputs
from edge.bench.report import BenchReport, load_report, save_report
from tests.chaos.tiny import tiny_image
from tests.edge.bench.reports import report
from tests.edge.bench.test_page import Reading

ENGINES = ("openvino:f32", "onnxruntime:f32")


def run(*args: object) -> Result:
    return CliRunner().invoke(bench, [str(arg) for arg in args], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The real command on a few drawn images, with every phase, as short as it goes."""
    folder = tmp_path_factory.mktemp("bench")
    words = "--drawn 200x200:1 --count 12 --starts 1 --waiting 4 --rounds 2"
    words += " --interval 0.05 --pauses 2 --load --load-seconds 0.1"
    words += "".join(f" --engine {engine}" for engine in ENGINES)
    return run(*words.split(), "--json", folder / "b.json", "--html", folder / "b.html"), folder


def test_two_engines_are_measured_and_agree(measured: tuple[Result, Path]) -> None:
    result, folder = measured
    assert result.exit_code == 0, result.output
    found = load_report(folder / "b.json")
    assert [engine.engine for engine in found.engines] == list(ENGINES)
    first, other = found.engines
    stages = [times.stage for times in first.stages]
    expected = "read journal wait decode letterbox detect crop classify merge compare commit csv total"
    assert " ".join(stages) == expected
    for engine in found.engines:
        assert engine.images == 12 == len(engine.times_ms["total"])
        assert engine.leukocytes >= 6
        *parts, total = (times.mean_ms for times in engine.stages)
        assert sum(parts) == pytest.approx(total, rel=0.15)
        for times in engine.stages:
            values = list(times.percentiles_ms.values())
            assert values == sorted(values)
            assert times.max_ms >= values[-1]
            for name, value in times.percentiles_ms.items():
                low, high = times.intervals_ms[name]
                assert low <= value <= high
    assert other.ratio is not None
    assert other.ratio.low <= other.ratio.value <= other.ratio.high
    agreed = first.agreement
    assert other.agreement is None  # it is the reference
    assert agreed is not None
    assert agreed.cells == agreed.matched == agreed.same_class == agreed.reference_cells >= 6
    assert agreed.worst_box_px < 1
    assert agreed.worst_probability < 0.01


def test_every_phase_of_the_real_station_is_in_the_report(measured: tuple[Result, Path]) -> None:
    found = load_report(measured[1] / "b.json")
    assert found.cold is not None
    assert found.cold.ready_s[0] > found.cold.first_ms[0] / 1000 > 0
    assert 50 < found.cold.started_mb[0] <= found.cold.peak_mb
    assert found.idle is not None
    assert len(found.idle.ms) == 2
    assert [one.share for one in found.load] == sorted(one.share for one in found.load)
    assert all(one.p50_ms.value <= one.p99_ms.value <= one.most_ms for one in found.load)
    assert found.machine["packages"]["openvino"]
    assert json.loads((measured[1] / "b.json").read_text())["schema"] == 2


def test_the_tables_and_the_page_show_it(measured: tuple[Result, Path]) -> None:
    result, folder = measured
    for said in (
        "cold start",
        "backlog: 4 waiting images",
        "findings against onnxruntime:f32",
        "Input: 16 drawn",
    ):
        assert said in result.output
    read = Reading((folder / "b.html").read_text())
    assert read.open == read.loaded == []
    assert len(read.plots) == 4


def test_a_run_against_itself_is_no_slower(measured: tuple[Result, Path]) -> None:
    found = load_report(measured[1] / "b.json")
    comparison = compare(found, found, "b.json")
    assert "slower" not in {change.verdict for change in comparison.changes}
    assert comparison.refusal(1.0) is None


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> BenchReport:
    """A double of the measurement, which takes no time: everything takes 1.3 times as long."""
    made = report(slow=1.3)
    monkeypatch.setattr(measuring, "measure", lambda *_: made)
    monkeypatch.setattr("edge.bench.inputs.drawn_inputs", lambda *_: None)
    return made


def test_a_run_that_got_slower_than_the_limit_ends_with_its_code_and_a_sentence(
    tmp_path: Path, slow_machine: BenchReport
) -> None:
    save_report(report(), tmp_path / "old.json")
    result = run("--compare", tmp_path / "old.json", "--limit", "1.1", "--json", tmp_path / "new.json")
    assert result.exit_code == SLOWER_EXIT_CODE
    assert "Slower: The median image takes" in result.output
    assert load_report(tmp_path / "new.json") == slow_machine  # it is kept all the same
    assert run("--compare", tmp_path / "old.json", "--limit", "1.5").exit_code == 0
    assert run("--compare", tmp_path / "old.json").exit_code == 0
    assert run("--compare", tmp_path / "new.json", "--limit", "1").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--limit 1.1", "--limit needs an earlier run"),
        ("--drawn 10x10:1", "cannot be drawn"),
        ("--drawn 100x100:1 --images .", "--images and --drawn were both given"),
        ("--engine openvino:f32 --backend openvino", "give --engine alone"),
        ("--engine openvino:", "'openvino:' is no engine; give BACKEND or BACKEND:PRECISION"),
        ("--compare nothing.json", "nothing.json cannot be read"),
        ("--engine nothing", "There is no backend 'nothing'"),
        ("--json nowhere/b.json", "There is no folder nowhere for b.json; create it."),
        ("--starts 0 --drawn 64x64:1 --bundle nowhere", "nowhere is no model bundle"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(words: str, said: str) -> None:
    result = run(*words.split())
    assert result.exit_code == 78
    assert said in result.output
    assert result.output.splitlines()[-1].startswith("Error: ")


def test_a_place_for_the_figures_is_tried_before_and_left_as_it_was(
    tmp_path: Path, slow_machine: BenchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.json"
    save_report(report(), old)
    saved = old.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", interrupted)
    assert run("--json", old, "--html", tmp_path / "new.html").exit_code == 1
    assert old.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [old]
    refused = run("--html", "/proc/b.html")
    assert refused.exit_code == 78
    assert "/proc/b.html cannot be written" in refused.output


def test_images_that_are_moved_away_meanwhile_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "cell.png"
    image.write_bytes(tiny_image().copy(1))

    def gone(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(image))

    monkeypatch.setattr(measuring, "measure", gone)
    result = run("--images", tmp_path)
    assert result.exit_code == 78
    assert f"{image} cannot be read any more (No such file or directory)" in result.output


@pytest.mark.parametrize("option", ["--limit", "--interval", "--load-seconds"])
def test_nan_is_no_number_for_an_option(option: str, tmp_path: Path, slow_machine: BenchReport) -> None:
    save_report(report(), tmp_path / "old.json")
    result = run("--compare", tmp_path / "old.json", "--load", option, "nan")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': it is no number." in result.output


def test_names_that_are_no_text_stand_in_the_figures(
    tmp_path: Path, slow_machine: BenchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "cell.png").write_bytes(tiny_image().copy(1))
    old = tmp_path / os.fsdecode(b"\xe9.json")
    save_report(report(), old)

    def measured(_: object, inputs: Inputs, *__: object) -> BenchReport:
        return replace(slow_machine, input=inputs.words)

    monkeypatch.setattr(measuring, "measure", measured)
    places = ("--json", tmp_path / "b.json", "--html", tmp_path / "b.html")
    result = run("--images", folder, "--compare", old, *places, "--limit", "1.1")
    assert result.exit_code == SLOWER_EXIT_CODE
    assert "ms in \\xe9.json" in result.output
    assert load_report(tmp_path / "b.json").input == "1 images of the folder caf\\xe9"
    assert "Against \\xe9.json" in (tmp_path / "b.html").read_text("utf-8")


def test_a_folder_is_called_by_its_name_where_it_is_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cell.png").write_bytes(tiny_image().copy(1))
    monkeypatch.chdir(tmp_path)
    assert folder_inputs(Path(), 1).words == f"1 images of the folder {tmp_path.name}"


def test_another_disk_than_that_of_tmpdir_is_not_measured(
    tmp_path: Path, slow_machine: BenchReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def measured(*given: object) -> BenchReport:
        seen.extend(one.parent for one in given if isinstance(one, Path))
        return slow_machine

    monkeypatch.setattr(measuring, "measure", measured)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert run().exit_code == 0
    assert seen == [tmp_path]
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    result = run()
    assert result.exit_code == 78
    assert result.output.splitlines()[-1] == (
        f"Error: {tmp_path}/gone cannot be written (No such file or directory); set TMPDIR to a folder on "
        "the disk that the station writes to."
    )
    assert seen == [tmp_path]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """In a process of its own, which the signal ends."""
    code = (
        "import os, signal, edge.bench.inputs as inputs, edge.bench.measure as measuring; "
        "from edge.bench.command import bench; inputs.drawn_inputs = lambda *_: None; "
        f"signal.signal({int(number)}, signal.SIG_DFL); "  # the tests may be under nohup
        f"measuring.measure = lambda *_: os.kill(os.getpid(), {int(number)}); bench()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False, timeout=100
    )
    assert ended.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_which_nothing_can_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    result = run("--images", tmp_path, "--count", "2")
    assert result.exit_code == 78
    assert "None of the 1 images" in result.output
    assert "(empty)" in result.output


@pytest.mark.parametrize("place", ["edge.bench.inputs.encode_jpeg", "edge.bench.ways.shutil.copyfile"])
def test_a_temporary_folder_without_space_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(place, full)
    words = "--drawn 64x64:1 --count 2 --starts 0 --engine openvino:f32"
    result = run(*words.split())
    assert result.exit_code == 74
    assert result.output.splitlines()[-1] == (
        f"Error: There is no space in {tempfile.gettempdir()}; free some, or set TMPDIR to another folder."
    )
