"""A whole acceptance run on doubles of TensorRT, of the card and of NVML; each step can fail, alone. No GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pynvml
import pytest

from build_engines import acceptance, acceptance_steps
from build_engines.acceptance import Step, accept, main
from build_engines.acceptance_images import KnownImages, images_of
from build_engines.acceptance_report import Report, Result, save
from build_engines.acceptance_run import Run
from build_engines.engines_build import build_untried
from build_engines.gate import cpu_reference
from build_engines.preflight import Library
from edge.backends import cuda, tensorrt
from edge.backends.cuda import Buffer
from edge.bundle import Bundle, embedded_bundle
from edge.errors import BackendError
from edge.geometry import letterbox
from edge.pipeline import Pipeline, open_pipeline
from tests.build_engines.acceptance_doubles import (
    AMOUNTS,
    FOUND,
    StrayingMemory,
    build_double,
    drawn,
    remembering_session,
    run_on_doubles,
    shift_boxes,
    tile_of,
)
from tests.build_engines.fake_nvml import FakeNvml
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.engines import CARD
from tests.edge.backends.fake_card import FakeCard
from tests.real_files import real_smears

ROOT = Path(__file__).parents[2]
NAMES = [step.name for step in acceptance.steps()]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    """The card on which the double of TensorRT works; it computes each batch once for all tests."""
    made = FakeCard()
    monkeypatch.setattr(fake_tensorrt, "card", made)
    monkeypatch.setattr(fake_tensorrt, "_session", remembering_session)
    yield made
    tensorrt._say_once.cache_clear()


@pytest.fixture(scope="module")
def processor() -> Iterator[Pipeline]:
    """FP32 on the processor, which the tests of faults open once."""
    with open_pipeline(Bundle.load(embedded_bundle()), "onnxruntime", "f32") as opened:
        yield opened


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, processor: Pipeline) -> None:
    """FP32's answers are computed once, for tests that are about something else."""

    class Open:
        def __enter__(self) -> Pipeline:
            return processor

        def __exit__(self, *_: object) -> None: ...

    @cache
    def known(names: tuple[str, ...]) -> Any:
        rgbs = {name: drawn(2).rgb(index) for index, name in enumerate(names)}
        return cpu_reference(processor.bundle, rgbs, "drawn smears", 64)

    monkeypatch.setattr(
        acceptance_steps, "cpu_reference", lambda bundle, rgbs, *_: _KNOWN(tuple(rgbs), known)
    )
    monkeypatch.setattr(acceptance_steps, "open_pipeline", lambda *_: Open())


_references: dict[tuple[str, ...], Any] = {}


def _KNOWN(names: tuple[str, ...], make: Callable[..., Any]) -> Any:  # noqa: N802
    if names not in _references:
        _references[names] = make(names)
    return _references[names]


def kept(run: Run, folder: Path) -> Report:
    """The run's report, written as the command does it."""
    return accept(run, lambda report: save(report, folder))


def results(report: Report) -> dict[str, Result]:
    return {step.name: step.result for step in report.steps}


def why(report: Report, name: str) -> str:
    return next(step.why for step in report.steps if step.name == name)


def test_every_step_runs_and_its_figures_are_in_the_report(card: FakeCard, tmp_path: Path) -> None:
    command = (sys.executable, "-W", "error", "-m", "tests.build_engines.cold_double")
    report = kept(run_on_doubles(card, tmp_path / "scratch", cold_command=command), tmp_path)
    assert results(report) == dict.fromkeys(NAMES, Result.PASSED), report.verdict
    assert report.verdict == "GPU acceptance passed: all 12 steps."
    told = json.loads((tmp_path / "gpu-acceptance.json").read_text())
    assert told["passed"] is True
    found = {step["name"]: step["outcome"] for step in told["steps"]}
    assert found["PREFLIGHT"]["figures"]["card"] == CARD.gpu
    assert len(found["BUILD"]["rows"]) == len(found["GATE"]["rows"]) == 5
    assert 0 < found["SELFTEST"]["figures"]["largest difference, box_px"] < 2
    assert found["PARITY"]["figures"]["cells on the card"] == 2
    assert found["PARITY"]["figures"]["strays most on"].startswith("drawn smear")
    (start,) = found["COLD"]["rows"]
    assert (
        start["to the first answer, ms"] > start["of that opening, ms"] > start["of that the image, ms"] > 0
    )
    stages = {row["stage"] for row in found["LATENCY"]["rows"]}
    assert stages >= {
        "image",
        "detect",
        "classify",
        "detect, upload",
        "classify, compute",
        "classify, download",
    }
    assert [row["pause"] for row in found["IDLE"]["rows"]] == [1, 2]
    assert found["GRAPHS"]["figures"]["graphs recorded"] == 5
    assert found["GRAPHS"]["figures"]["without / with"] > 0
    assert found["MEMORY"]["figures"]["card, most, MB"] == 500
    assert {tuple(row) for row in found["STATE"]["rows"]} == {("", "before", "under load", "after idle")}
    assert told["versions"]["cytologia-edge"]
    assert told["machine"]["processor"]
    page = (tmp_path / "gpu-acceptance.md").read_text()
    assert page.startswith("# GPU acceptance passed: all 12 steps.")
    for shown in ("p99, ms", "580.65.06", "commit", "host, growth, MB"):
        assert shown in page
    assert {path.name for path in tmp_path.iterdir()} == {
        "scratch",
        "gpu-acceptance.md",
        "gpu-acceptance.json",
    }


class Fault:
    """What goes wrong in a run, and only there. `step` is the one that is at work."""

    def __init__(self) -> None:
        self.step = ""
        self.slept = False
        self.leak: list[bytearray] = []

    def watch(self, report: Report) -> None:
        self.step = next((one.name for one in report.steps if one.why == "the process died in it"), "")

    def in_self_test(self, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        if self.step == "SELFTEST":
            shift_boxes(outputs)

    def in_a_batch_of_four(self, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        for buffer in outputs:
            if buffer.host.shape[0] == 4 and buffer.host.shape[-1] == 4:
                buffer.host[-1] += 30

    def on_the_second_image(self, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        spec = Bundle.load(embedded_bundle()).detector
        tile, _ = letterbox(drawn(2).rgb(1), spec.tile_size, spec.anchor, spec.pad)
        if tile_of(inputs[0]).shape == tile.shape and (tile_of(inputs[0]) == tile).all():
            shift_boxes(outputs)

    def after_a_pause(self, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        if self.slept:
            shift_boxes(outputs)

    def leak_host(self, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        if self.step == "MEMORY":
            self.leak.append(bytearray(os.urandom(1) * (2 << 20)))

    def sleep(self, seconds: float) -> None:
        self.slept = True


class Timeless(StrayingMemory):
    """A card that does not tell how long it took."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stage_ms = {}


def build_all_but_one(job: Any, console: Any) -> list[Any]:
    build_double(job, console)
    next((job.out / "engines" / "tensorrt").glob("classifier*b4*.json")).unlink()
    return []


def build_without_context(job: Any, console: Any) -> list[Any]:
    return build_double(job, console, context=False)


def full_card() -> FakeNvml:
    nvml = FakeNvml()
    nvml.used_bytes = 11_900_000_000
    return nvml


AFTER_BUILD, AFTER_LOADING = set(NAMES[2:]), set(NAMES[3:])


@pytest.mark.parametrize(
    ("name", "not_run", "said", "options"),
    [
        ("PREFLIGHT", set(), r"100 MB of the card's memory are free, and 1000 MB are needed", lambda fault, card: {"nvml": full_card()}),
        ("PREFLIGHT", set(NAMES[1:]), r"0\.5 GB of disk are free", lambda fault, card: {"found": replace(FOUND, disk_bytes=5 * 10**8)}),
        ("BUILD", AFTER_BUILD, r"1 of 5 engines were not built, first that of classifier\.fp16\.onnx for 4 at a time", lambda fault, card: {"build": build_all_but_one}),
        ("DESERIALISE", AFTER_LOADING, r"detector\.fp16-b1-.*\.plan gets no context \(CUDA out of memory\)", lambda fault, card: {"build": build_without_context}),
        ("SELFTEST", {"COLD"}, r"does not give the known answers \(boxes 30 px off", lambda fault, card: {"damage": fault.in_self_test}),
        ("GATE", set(), r"detector\.fp16-b4-.* the most on golden tile \d", lambda fault, card: {"damage": fault.in_a_batch_of_four}),
        ("PARITY", set(), r"^drawn smear 1 strays most: 1 cells on the card and 1 on onnxruntime f32", lambda fault, card: {"damage": fault.on_the_second_image}),
        ("COLD", set(), r"cold start 1 ended with 1 \(it broke\)", lambda fault, card: {"cold_command": (sys.executable, "-S", "-c", "exit('it broke')")}),
        ("LATENCY", set(), r"told no times of detect, upload", lambda fault, card: {"make_memory": lambda: Timeless(card, lambda *_: None)}),
        ("IDLE", set(), r"After pause 1 of 0 s the answer to the same image is another one", lambda fault, card: {"damage": fault.after_a_pause, "sleep": fault.sleep}),
        ("GRAPHS", set(), r"0 of 5 engines were recorded as CUDA graphs \(cuda-bindings is not installed", lambda fault, card: {"memory_options": {"graphs": False}}),
        ("MEMORY", set(), r"the host's memory grew by \d+\.\d MB over 20 images, and 16 MB are allowed", lambda fault, card: {"damage": fault.leak_host}),
        ("MEMORY", set(), r"the card's memory grew by \d+\.\d MB over 20 images", lambda fault, card: {"nvml": FakeNvml(leak_bytes=2_000_000)}),
        ("STATE", set(), r"under load the card is slowed down by heat \(hardware\)", lambda fault, card: {"nvml": FakeNvml(slowed_by=pynvml.nvmlClocksEventReasonHwThermalSlowdown)}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("quick")
def test_a_fault_fails_its_step_and_only_that(
    card: FakeCard,
    tmp_path: Path,
    name: str,
    not_run: set[str],
    said: str,
    options: Callable[[Fault, FakeCard], dict[str, Any]],
) -> None:
    import re

    fault = Fault()
    report = accept(run_on_doubles(card, tmp_path, **options(fault, card)), fault.watch)
    found = results(report)
    assert found.pop(name) is Result.FAILED, report.verdict
    assert re.search(said, why(report, name)), why(report, name)
    assert {one for one, result in found.items() if result is Result.NOT_RUN} == not_run
    assert {one for one, result in found.items() if result is Result.FAILED} == set()
    assert all(step.why.startswith("needs ") for step in report.steps if step.name in not_run)
    assert not report.passed
    assert report.verdict.startswith(f"GPU acceptance failed: {name} (")


@pytest.mark.usefixtures("quick")
def test_without_nvml_all_that_does_not_need_it_is_still_run(card: FakeCard, tmp_path: Path) -> None:
    def refuse() -> Any:
        raise BackendError("NVML does not tell of the card (double); install it.")

    report = accept(run_on_doubles(card, tmp_path, find_nvml=refuse), lambda _: None)
    failed = [name for name, result in results(report).items() if result is not Result.PASSED]
    assert failed == ["PREFLIGHT", "MEMORY", "STATE"]
    assert "NVML does not tell of the card (double)" in why(report, "PREFLIGHT")


def test_an_error_that_nobody_foresaw_and_ctrl_c_end_in_a_report(
    card: FakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(run: Run) -> Any:
        """Nobody foresaw it."""
        raise RuntimeError("out of\nthe blue")

    def ctrl_c(run: Run) -> Any:
        """Somebody is in a hurry."""
        raise KeyboardInterrupt

    steps = (Step("ONE", (), surprise), Step("TWO", (), ctrl_c), Step("THREE", (), surprise))
    monkeypatch.setattr(acceptance, "steps", lambda: steps)
    seen: list[Report] = []
    report = accept(run_on_doubles(card, tmp_path), seen.append)
    assert [step.why for step in report.steps] == [
        "RuntimeError: out of the blue; report it with this file",
        "interrupted by hand",
        "the command ended before it",
    ]
    assert "Traceback" in caplog.text
    # Had the process died in the first step, this report would have been there.
    assert [step.why for step in seen[0].steps] == [
        "the process died in it",
        "the command ended before it",
        "the command ended before it",
    ]


def test_without_a_card_the_command_ends_with_one_sentence_and_writes_the_report(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "build_engines.acceptance",
        "--out",
        str(tmp_path / "report"),
    ]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # on a machine that has a card
    done = subprocess.run(words, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("GPU acceptance failed: PREFLIGHT (")
    assert "no NVIDIA driver; docs/gpu.md tells what to install" in sentence or "sees no card" in sentence
    assert sentence.endswith("not run, and so failed: " + ", ".join(NAMES[1:]) + ".")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "gpu-acceptance.md",
        "gpu-acceptance.json",
    }
    told = json.loads((tmp_path / "report" / "gpu-acceptance.json").read_text())
    assert [step["result"] for step in told["steps"]] == ["failed", *["not run"] * 11]
    assert sentence in (tmp_path / "report" / "gpu-acceptance.md").read_text()


def test_a_bundle_or_a_folder_that_is_wrong_is_told_in_one_sentence(tmp_path: Path) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ["--bundle", "/nowhere", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "/nowhere is no model bundle" in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_real_builder_builds_and_a_machine_without_a_driver_cannot_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX builds on the processor."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
    libraries = {"tensorrt": Library(None, "left out"), "tensorrt_rtx": Library(rtx)}

    def no_memory() -> Any:
        raise BackendError("CUDA does not start (double); restart the station.")

    run = run_on_doubles(
        FakeCard(),
        tmp_path,
        found=replace(FOUND, libraries=libraries),  # type: ignore[arg-type]
        build=build_untried,
        make_memory=no_memory,
    )
    run.target = "tensorrt_rtx"
    report = accept(run, lambda _: None)
    assert results(report)["BUILD"] is Result.PASSED, report.verdict
    build = next(step for step in report.steps if step.name == "BUILD")
    assert len(build.outcome.rows) == 5
    assert all(row["FP16 outputs of layers"] for row in build.outcome.rows)
    assert why(report, "DESERIALISE") == "CUDA does not start (double); restart the station"


@pytest.mark.usefixtures("quick")
def test_no_file_name_of_an_image_is_in_the_report(
    card: FakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ward-7"
    folder.mkdir()
    for index in range(2):
        (folder / f"jane-doe-{index}.jpg").write_bytes(drawn(2).data(index))
    (folder / "jane-doe-2.jpg").write_bytes(b"no image at all")
    monkeypatch.setenv("COLUMNS", "300")
    fault = Fault()
    run = run_on_doubles(card, tmp_path / "scratch", damage=fault.on_the_second_image)
    run.make_images = lambda: images_of(folder, run.console)
    report = kept(run, tmp_path / "report")
    assert why(report, "PARITY").startswith("image 2 strays most")
    said = capsys.readouterr().err
    assert f"image 2 is {folder / 'jane-doe-1.jpg'}" in said
    assert "jane-doe-2.jpg is left out: not an image" in said
    for path in (tmp_path / "report").iterdir():
        assert "jane" not in path.read_text()
        assert "ward-7" not in path.read_text()
    assert next(s for s in report.steps if s.name == "PREFLIGHT").outcome.figures["images"] == (
        "2 smear images (1 could not be read)"
    )


@pytest.mark.usefixtures("quick")
def test_images_that_cannot_be_read_stop_the_run_before_the_build(card: FakeCard, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    run = run_on_doubles(card, tmp_path / "scratch")
    run.make_images = lambda: images_of(folder, run.console)
    report = accept(run, lambda _: None)
    assert why(report, "PREFLIGHT").startswith("None of the 1 images of --images can be read")
    assert results(report)["BUILD"] is Result.NOT_RUN


def test_an_image_that_goes_away_is_told_by_its_number(tmp_path: Path) -> None:
    images = KnownImages(("image 1",), (tmp_path / "jane-doe.jpg",), "1 smear image")
    with pytest.raises(Exception, match=r"^image 1 cannot be read any more \(No such file or directory\)"):
        images.rgb(0)


def test_real_smears_agree_in_fp16(card: FakeCard, tmp_path: Path) -> None:
    """The double computes the FP16 graphs, with the processor's arithmetic."""
    smears = real_smears(4)
    names = tuple(f"image {number}" for number in range(1, len(smears) + 1))
    images = KnownImages(names, tuple(smears), f"{len(smears)} smear images")
    run = run_on_doubles(card, tmp_path, images=images, amounts=replace(AMOUNTS, gate_images=4))
    assert acceptance_steps.build(run).why == ""
    outcome = acceptance_steps.parity(run)
    assert outcome.why == ""
    assert outcome.figures["images"] == 4
    assert outcome.figures["cells on the card"] == outcome.figures["cells on onnxruntime f32"]


def test_the_cuda_memory_of_a_run_is_the_stations() -> None:
    from build_engines.acceptance_run import Means

    assert Means().make_memory is cuda.CudaMemory
