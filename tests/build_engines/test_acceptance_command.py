"""The acceptance run as a command: on a double of the CUDA driver, and without a card. No GPU has run it."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from build_engines.acceptance import main
from tests.build_engines.acceptance_doubles import NAMES, drawn
from tests.fakecuda.build import build_libcuda

ROOT = Path(__file__).parents[2]
REPORT = {"gpu-acceptance.md", "gpu-acceptance.json"}


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """Folder of the double of the CUDA driver."""
    spec = find_spec("pycuda")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("needs pycuda; `make .venv/pycuda` compiles and installs it")
    for tool in ("cc", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, to build the double of the CUDA driver; install gcc")
    folder = tmp_path / "driver"
    folder.mkdir()
    build_libcuda(folder, list(Path(spec.submodule_search_locations[0]).glob("_driver*.so")))
    return folder


def run(module: str, *args: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *map(str, args)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


def test_on_a_double_of_the_driver_every_step_passes(driver: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "report"
    images.mkdir()
    for index in range(2):
        (images / f"{index}.jpg").write_bytes(drawn(2).data(index))
    done = run(
        "tests.build_engines.acceptance_command",
        "--images", images, "--count", 20, "--pauses", 1, "--idle-s", 0, "--out", out,
        LD_LIBRARY_PATH=str(driver), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"GPU acceptance passed: all {len(NAMES)} steps."
    assert {path.name for path in out.iterdir()} == REPORT
    found = {
        step["name"]: step["outcome"]
        for step in json.loads((out / "gpu-acceptance.json").read_text())["steps"]
    }
    assert found["PREFLIGHT"]["figures"]["card"] == "Double of a card"
    (start,) = found["COLD"]["rows"]
    assert (
        start["to the first answer, ms"] > start["of that opening, ms"] > start["of that the image, ms"] > 0
    )
    assert found["GRAPHS"]["figures"]["graphs recorded"] == 2
    assert any(row["stage"] == "classify, compute" for row in found["LATENCY"]["rows"])


def test_without_a_card_it_ends_with_one_sentence_and_writes_the_report(tmp_path: Path) -> None:
    # The variable hides the card of a machine that has one.
    done = run("build_engines.acceptance", "--out", tmp_path / "report", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("GPU acceptance failed: PREFLIGHT (")
    assert "no NVIDIA driver; docs/gpu.md tells what to install" in sentence or "sees no card" in sentence
    assert sentence.endswith("not run, and so failed: " + ", ".join(NAMES[1:]) + ".")
    assert {path.name for path in (tmp_path / "report").iterdir()} == REPORT
    told = json.loads((tmp_path / "report" / "gpu-acceptance.json").read_text())
    assert [step["result"] for step in told["steps"]] == ["failed", *["not run"] * 11]
    assert sentence in (tmp_path / "report" / "gpu-acceptance.md").read_text()


def test_a_bundle_that_is_wrong_is_told_in_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--bundle", "/nowhere", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "/nowhere is no model bundle" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "file" / "report")])
    assert result.exit_code == 1
    assert "cannot be written (Not a directory); give another folder with --out." in result.output
