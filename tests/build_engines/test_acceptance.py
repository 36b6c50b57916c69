"""A whole acceptance run on doubles of TensorRT, of the card and of NVML. No GPU has run this."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build_engines import acceptance, acceptance_steps, job
from build_engines.acceptance import Step, accept
from build_engines.acceptance_images import KnownImages, images_of
from build_engines.acceptance_report import Report, Result
from build_engines.acceptance_run import Run
from build_engines.engines_build import build_untried
from build_engines.preflight import Library
from edge.errors import BackendError
from tests.build_engines.acceptance_doubles import (
    AMOUNTS,
    FOUND,
    NAMES,
    drawn,
    kept,
    results,
    run_on_doubles,
    stray_on_the_second_image,
    why,
)
from tests.edge.backends.engines import CARD
from tests.edge.backends.fake_card import FakeCard
from tests.real_files import data_path

ROOT = Path(__file__).parents[2]


def test_every_step_runs_and_its_figures_are_in_the_report(card: FakeCard, tmp_path: Path) -> None:
    report = kept(run_on_doubles(card, tmp_path / "scratch"), tmp_path)
    assert results(report) == dict.fromkeys(NAMES, Result.PASSED), report.verdict
    assert report.verdict == "GPU acceptance passed: all 12 steps."
    told = json.loads((tmp_path / "gpu-acceptance.json").read_text())
    assert told["passed"] is True
    found = {step["name"]: step["outcome"] for step in told["steps"]}
    assert found["PREFLIGHT"]["figures"]["card"] == CARD.gpu
    assert len(found["BUILD"]["rows"]) == len(found["GATE"]["rows"]) == 4
    assert 0 < found["SELFTEST"]["figures"]["largest difference, box_px"] < 2
    assert found["PARITY"]["figures"]["cells on the card"] == 2
    assert found["PARITY"]["figures"]["strays most on"].startswith("drawn smear")
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
    assert found["GRAPHS"]["figures"]["graphs recorded"] == 4
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


@pytest.mark.usefixtures("known_reference")
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


def test_the_real_builder_builds_and_a_machine_without_a_driver_cannot_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX builds on the processor."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")
    monkeypatch.setattr(job, "DETECTOR_BATCHES", (1,))
    monkeypatch.setattr(job, "CLASSIFIER_BATCHES", (1,))
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
    assert len(build.outcome.rows) == 2
    assert all(row["FP16 outputs of layers"] for row in build.outcome.rows)
    assert why(report, "DESERIALISE") == "CUDA does not start (double); restart the station"


@pytest.mark.usefixtures("known_reference")
def test_no_file_name_of_an_image_is_in_the_report(
    card: FakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ward-7"
    folder.mkdir()
    for index in range(2):
        (folder / f"jane-doe-{index}.jpg").write_bytes(drawn(2).data(index))
    (folder / "jane-doe-2.jpg").write_bytes(b"no image at all")
    monkeypatch.setenv("COLUMNS", "300")
    run = run_on_doubles(card, tmp_path / "scratch", damage=stray_on_the_second_image)
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


@pytest.mark.usefixtures("known_reference")
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
    smears = sorted(data_path("smears/images").glob("*.jpg"))[::100][:4]
    names = tuple(f"image {number}" for number in range(1, len(smears) + 1))
    images = KnownImages(names, tuple(smears), f"{len(smears)} smear images")
    run = run_on_doubles(card, tmp_path, images=images, amounts=replace(AMOUNTS, gate_images=4))
    assert acceptance_steps.build(run).why == ""
    outcome = acceptance_steps.parity(run)
    assert outcome.why == ""
    assert outcome.figures["images"] == 4
    assert outcome.figures["cells on the card"] == outcome.figures["cells on onnxruntime f32"]
