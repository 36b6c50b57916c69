"""pycuda and cuda-bindings, the real ones, on a double of the CUDA driver. No GPU has run this.

Each test is a process of its own, since a process has one driver: see card_programs.py.
"""

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edge.backends import cuda
from edge.backends.cuda import probe
from edge.bundle import Bundle
from edge.demo.renderer import draw_tile
from edge.exit_codes import ExitCode
from edge.overlay import encode_jpeg
from edge.pipeline import open_pipeline
from tests.edge.backends.engines import BATCHES, add_engine, with_engines
from tests.fakecuda.build import build_libcuda

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 60

Command = Callable[..., tuple[list[str], dict[str, Any]]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the double of the driver."""
    for tool in ("cc", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, to build the double of the CUDA driver; install gcc")
    folder = tmp_path_factory.mktemp("driver")
    spec = find_spec("pycuda")
    libraries = Path(spec.submodule_search_locations[0]).glob("_driver*.so") if spec else []
    build_libcuda(folder, list(libraries))
    return folder


@pytest.fixture(scope="session")
def command(driver: Path) -> Command:
    """The command of a program, and how it is to be started."""

    def command_of(program: str, *args: object, **environment: str) -> tuple[list[str], dict[str, Any]]:
        words = [sys.executable, "-W", "error", "-m", "tests.edge.backends.card_programs", program]
        variables = os.environ | {"LD_LIBRARY_PATH": str(driver), "OMP_NUM_THREADS": "1"} | environment
        return [*words, *map(str, args)], {"cwd": ROOT, "env": variables, "text": True}

    return command_of


@pytest.fixture(scope="session")
def run(command: Command) -> Run:
    def run_program(program: str, *args: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        words, options = command(program, *args, **environment)
        return subprocess.run(words, **options, capture_output=True, timeout=TIMEOUT_S)

    return run_program


@pytest.fixture
def pycuda() -> None:
    if find_spec("pycuda") is None:
        pytest.skip("needs pycuda; `make .venv/pycuda` compiles and installs it")


def told(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_machine_without_a_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_not_there(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", is_not_there)
    assert probe() == "no NVIDIA driver"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
        ("NVRM version: something else", ""),
    ],
)
def test_the_version_of_the_driver_is_what_the_kernel_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, version: str
) -> None:
    monkeypatch.setattr(cuda, "_DRIVER_VERSION", tmp_path / "version")
    assert cuda._driver_version() == ""
    (tmp_path / "version").write_text(text)
    assert cuda._driver_version() == version


def test_the_driver_is_asked_for_the_card_and_its_troubles(run: Run) -> None:
    assert told(run("probe")).startswith("Machine(gpu='Double of a card', compute_capability='8.6', driver=")
    assert told(run("probe", LIBCUDA_DOUBLE_CARDS="0")) == "the NVIDIA driver sees no card"
    assert told(run("probe", LIBCUDA_DOUBLE_FAIL="cuInit:803:1")) == (
        "EngineAway: cuInit of the NVIDIA driver failed with 803, CUDA_ERROR_UNKNOWN; run `nvidia-smi`, and "
        "restart the machine if that fails, too."
    )


@pytest.mark.usefixtures("pycuda")
def test_a_thousand_images_leave_nothing_behind(run: Run, equipped: Bundle) -> None:
    done = run("thousand", equipped.path)
    assert done.stderr == ""  # there pycuda says what it could not free
    found = told(done)
    before, early, late, after = found["held"]
    assert before == after == [0, 0, 0, 0, 0]
    assert early == late
    assert late[2] == 2  # one stream for each of the two networks
    assert found["leukocytes"] >= 1000
    assert found["launches"] >= 2000  # detector and classifier were graphs
    assert found["stages"] == {"upload": True, "compute": True, "download": True}


@pytest.mark.usefixtures("pycuda")
def test_graphs_plain_launches_and_onnx_runtime_agree(run: Run, equipped: Bundle) -> None:
    graphs, plain = told(run("answers", equipped.path)), told(run("answers_without_bindings", equipped.path))
    assert graphs["launches"] > 0 == plain["launches"]
    assert graphs["findings"] == plain["findings"]
    with open_pipeline(equipped, "onnxruntime", "f16") as pipeline:
        expected = [finding for seed in range(3) for finding in pipeline.read(draw_tile(seed).rgb)]
    assert len(expected) == len(plain["findings"])
    for (label, *numbers), finding in zip(plain["findings"], expected, strict=True):
        assert label == finding.label
        assert numbers == pytest.approx([*finding.box_xyxy, finding.class_score], abs=1e-3)


@pytest.mark.usefixtures("pycuda")
def test_overflow_is_caught(run: Run) -> None:
    found = told(run("overflow"))
    upload, download, too_much, waits = found["said"]
    assert upload == (
        "CUDA failed (inference: cuMemcpyHtoDAsync failed: CUDA_ERROR_INVALID_VALUE); restart the station."
    )
    assert "cuMemcpyDtoHAsync failed: CUDA_ERROR_INVALID_VALUE" in download
    assert too_much.startswith("The card has no memory left (taking 1073741824 bytes: cuMemAlloc failed")
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in waits
    assert found["intact"]
    assert found["held"] == [0, 0]


@pytest.mark.usefixtures("pycuda")
@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        (
            "cuStreamSynchronize:700:30",
            "CUDA failed (inference: cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL",
        ),
        (
            "cuGraphLaunch:700:30",
            "cuGraphLaunch failed with CUDA_ERROR_ILLEGAL_ADDRESS; restart the station.",
        ),
        ("cuMemAlloc_v2:2:4", "The card has no memory left (taking "),
        ("cuStreamCreate:999:1", "CUDA failed (making a stream: "),
        ("cuDevicePrimaryCtxRetain:999:1", "CUDA does not start ("),
    ],
)
def test_errors_of_cuda_end_in_one_sentence(run: Run, equipped: Bundle, order: str, sentence: str) -> None:
    found = told(run("fails", equipped.path, LIBCUDA_DOUBLE_FAIL=order))
    assert sentence in found["said"]
    assert found["can_pass"]
    assert found["read"] == 0 or "30" in order


@pytest.mark.usefixtures("pycuda")
def test_what_cannot_be_recorded_is_launched_plainly(run: Run, equipped: Bundle) -> None:
    done = run("answers", equipped.path, LIBCUDA_DOUBLE_FAIL="cuGraphInstantiateWithFlags:801:1")
    assert told(done)["launches"] == 0


@pytest.mark.usefixtures("pycuda")
@pytest.mark.parametrize(("cuda", "why"), [("13000", ""), ("12080", "CUDA driver version is insufficient")])
def test_the_real_tensorrt_rtx_refuses_what_is_no_plan_in_one_line(
    run: Run, bundle: Bundle, tmp_path: Path, cuda: str, why: str
) -> None:
    """Its runtime starts on the double of the driver, which is as far as it comes without a card."""
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx; `pip install tensorrt-rtx-cu13`")
    folder = with_engines(bundle, tmp_path / "bundle").path
    changes = {"target": "tensorrt_rtx", "library_version": version("tensorrt-rtx-cu13")}
    for graph, batches in BATCHES.items():
        for batch in batches:
            add_engine(folder, graph, batch, changes=changes)
    (folder / "engines" / "tensorrt").rename(folder / "engines" / "tensorrt_rtx")
    said = told(run("refused_by_rtx", folder, LIBCUDA_DOUBLE_CUDA=cuda))
    _, said = said.split("detector.fp16-b1-double.plan is no plan that this machine can load (")
    assert why in said
    assert said.endswith("; run `python build_engines/build.py`.")
    assert "\n" not in said


def watched(
    command: Command,
    tmp_path: Path,
    bundle: Path,
    *args: str,
    images: int = 0,
    until: str = "",
    **environment: str,
) -> tuple[int, str, list[str]]:
    """`edge-watch` over an inbox until it ends of itself, or is told to when systemd heard a word.

    Returns:
        Exit code, log, and what systemd heard.
    """
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for seed in range(images):
        (inbox / f"{seed}.jpg").write_bytes(encode_jpeg(draw_tile(seed).rgb))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(TIMEOUT_S)
        environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        arguments, options = command(
            "watch", inbox, "--out", tmp_path / "out", "--bundle", bundle, *args, **environment
        )
        heard: list[str] = []
        with subprocess.Popen(arguments, **options, stderr=subprocess.PIPE) as daemon:
            try:
                while until and not any(until in line for line in heard):
                    heard.append(listener.recv(65536).decode())
                if until:
                    daemon.terminate()
                _, log = daemon.communicate(timeout=TIMEOUT_S)
            finally:
                daemon.kill()
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(listener.recv(65536).decode())
    return daemon.returncode, log, heard


@pytest.mark.usefixtures("pycuda")
def test_a_cuda_error_ends_the_daemon_with_the_code_of_the_engine(
    command: Command, tmp_path: Path, equipped: Bundle
) -> None:
    """Images before the error have rows; "auto" takes TensorRT where engines and card fit, and says so."""
    fault = "cuStreamSynchronize:700:50"
    code, log, heard = watched(command, tmp_path, equipped.path, images=40, LIBCUDA_DOUBLE_FAIL=fault)
    assert code == ExitCode.ENGINE_FAULT, log
    assert "CUDA failed (inference: cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS)" in log
    status = next(line for line in heard if line.startswith("STATUS="))
    assert status.startswith("STATUS=tensorrt:f16:")
    assert " (its engines fit Double of a card, compute capability 8.6), bundle " in status
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(rows) > 1
    assert ",tensorrt:f16:" in rows[1]


@pytest.mark.parametrize(
    ("cards", "sentence"),
    [
        ("0", "The backend 'tensorrt' cannot be used here: the NVIDIA driver sees no card; mend that, or"),
        ("1", "has no tensorrt engine of detector.fp16.onnx; run `python build_engines/build.py`."),
    ],
)
def test_a_named_backend_that_does_not_fit_ends_the_daemon_as_a_wrong_setting(
    command: Command, tmp_path: Path, bundle: Bundle, cards: str, sentence: str
) -> None:
    named = ("--backend", "tensorrt")
    code, log, _ = watched(command, tmp_path, bundle.path, *named, LIBCUDA_DOUBLE_CARDS=cards)
    assert code == ExitCode.CONFIGURATION, log
    (line,) = [line for line in log.splitlines() if "tensorrt" in line]
    assert sentence in line


@pytest.mark.usefixtures("pycuda")
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("cuInit:999:1", "cuInit of the NVIDIA driver failed with 999, CUDA_ERROR_UNKNOWN; run `nvidia-smi`"),
        ("cuMemAlloc_v2:2:1", "The card has no memory left"),
    ],
)
def test_a_card_that_is_away_at_the_start_ends_the_daemon_so_that_it_is_started_again(
    command: Command, tmp_path: Path, equipped: Bundle, fault: str, sentence: str
) -> None:
    named = ("--backend", "tensorrt")
    code, log, _ = watched(command, tmp_path, equipped.path, *named, LIBCUDA_DOUBLE_FAIL=fault)
    assert code == ExitCode.ENGINE_FAULT, log
    assert sentence in log


def test_a_declared_fallback_is_warned_of_and_stands_in_the_status_line(
    command: Command, tmp_path: Path, bundle: Bundle
) -> None:
    declared = {"CYTOLOGIA_EDGE_BACKEND": "tensorrt", "CYTOLOGIA_EDGE_FALLBACK": "onnxruntime"}
    code, log, heard = watched(command, tmp_path, bundle.path, until="STATUS=", **declared)
    assert code == ExitCode.STOPPED, log
    assert "WARNING onnxruntime is used instead: " in log
    status = next(line for line in heard if line.startswith("STATUS="))
    assert status.startswith("STATUS=onnxruntime:f32 (")
    assert (
        "has no tensorrt engine of detector.fp16.onnx; run `python build_engines/build.py`), bundle" in status
    )
