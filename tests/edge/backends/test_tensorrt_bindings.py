"""All that the code uses of TensorRT exists, as it is called, in the real bindings of 10.16, 11.4 and RTX.

The bindings' wheels of TensorRT are loaded with libraries of which every function returns NULL: that shows
classes, enums and signatures, and nothing of what they do.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BINDINGS = Path(sys.prefix) / "bindings"
RTX_ONLY = {
    "ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
"""Only TensorRT-RTX builds for a card that is not there."""

Hold = Callable[[str, list[Path]], tuple[set[str], list[str]]]


def files_that_use_tensorrt() -> list[Path]:
    paths = [*ROOT.glob("edge/**/*.py"), *ROOT.glob("build_engines/**/*.py")]
    return [path for path in paths if re.search(r"\btrt\.[A-Z]", path.read_text())]


def library_of_nulls(module: Path, folder: Path) -> None:
    """What a bindings module is linked to: its libraries of TensorRT, in which every function gives NULL."""
    for tool in ("cc", "nm", "readelf"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}; install gcc and binutils")

    def said(*command: str | Path) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    functions = re.findall(r" U (create\w+|get\w+|initLib\w+)$", said("nm", "-D", module), re.MULTILINE)
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions)
    for library in re.findall(r"\[(libnv\w+\.so\.\d+)\]", said("readelf", "-d", module)):
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, "-x", "c", "-"]
        subprocess.run(command, check=True, input=source, text=True)


@pytest.fixture(scope="session")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, dict[str, str]]]:
    """The module of a version, and the environment of a process that can import it."""
    libraries: dict[str, Path] = {}

    def found(version: str) -> tuple[str, dict[str, str]]:
        module, variables = "tensorrt_rtx", {}
        if version == "rtx":
            if find_spec(module) is None:
                pytest.skip("needs tensorrt_rtx; `pip install tensorrt-rtx-cu13`")
        else:
            folder = BINDINGS / version
            if not folder.exists():
                pytest.skip(f"needs TensorRT's bindings in {folder}; `make .venv/bindings` fetches them")
            if version not in libraries:
                libraries[version] = tmp_path_factory.mktemp(version)
                library_of_nulls(folder / "tensorrt_bindings" / "tensorrt.so", libraries[version])
            module = "tensorrt_bindings"
            variables = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(libraries[version])}
        return module, os.environ | variables

    return found


@pytest.fixture(scope="session")
def hold(bindings: Callable[[str], tuple[str, dict[str, str]]]) -> Hold:
    """Holds files against the bindings of a version, in a process of its own: uses, and faults."""

    def held(version: str, files: list[Path]) -> tuple[set[str], list[str]]:
        module, environment = bindings(version)
        command = [sys.executable, "-m", "tests.edge.backends.tensorrt_uses", module, *map(str, files)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert version == "rtx" or found["version"].startswith(version)
        return set(found["uses"]), found["faults"]

    return held


@pytest.mark.parametrize("version", ["10.16", "11.4", "rtx"])
def test_all_that_is_used_of_tensorrt_is_there(hold: Hold, version: str) -> None:
    files = files_that_use_tensorrt()
    assert ROOT / "edge/backends/tensorrt.py" in files
    assert ROOT / "build_engines/engine.py" in files
    uses, faults = hold(version, files)
    missing = [] if version == "rtx" else [f"{name} does not exist" for name in RTX_ONLY]
    assert [fault for fault in faults if not fault.endswith(tuple(missing))] == []
    # Of these the walk must know, or it has lost sight of what it is to look at.
    assert uses >= {
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.num_io_tensors",
        "IExecutionContext.set_tensor_address",
        "IExecutionContext.execute_async_v3",
        "ILogger.Severity.ERROR",
        "TensorIOMode.INPUT",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.parse",
        "Builder.build_serialized_network",
        "IBuilderConfig.set_memory_pool_limit",
    }


NO_START = """
import tensorrt_bindings as trt
from build_engines.engine import build_engine
from edge.backends.tensorrt import _TensorRtSession
from edge.errors import BackendError
from tests.edge.backends.engines import CARD
from tests.edge.backends.fake_card import FakeCard, FakeMemory

for start in (
    lambda: build_engine(trt, None, CARD, None),
    lambda: _TensorRtSession("graph", 64, trt, FakeMemory(FakeCard()), []),
):
    try:
        start()
    except BackendError as error:
        print(error)
"""


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_a_library_that_does_not_start_is_told_in_one_sentence(
    bindings: Callable[[str], tuple[str, dict[str, str]]], version: str
) -> None:
    """As it does where the driver is older than its CUDA: builder and runtime are null pointers then."""
    _, environment = bindings(version)
    command = [sys.executable, "-c", NO_START]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2
    for line in said:
        assert line.startswith(f"tensorrt_bindings {version}.")
        assert line.endswith(
            " does not start; update the NVIDIA driver, or install what fits the CUDA that it knows."
        )


WRONG = [
    ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16 does not exist"),
    ("flag = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "EXPLICIT_BATCH does not exist"),
    ("self._context.execute_async_v2([1], 2)", "IExecutionContext.execute_async_v2 does not exist"),
    (
        "trt.Runtime(logger).deserialize_cuda_engine(plan).create_execution_context().run()",
        "run does not exist",
    ),
    ("config.max_workspace_size = 1", "IBuilderConfig.max_workspace_size does not exist"),
    ("engine.num_io_tensors = 1", "ICudaEngine.num_io_tensors cannot be set"),
    ("context.execute_async_v3()", "does not fit"),
    ("context.execute_async_v3(1, 2)", "does not fit"),
    ("context.execute_async_v3(stream=1)", "does not fit"),
    ("trt.Runtime()", "does not fit"),
    ("network = trt.Builder(logger).create_network(1, 2)", "does not fit"),
    ("made = builder.create_network()\nmade.add_profile()", "INetworkDefinition.add_profile does not exist"),
    ("class Log(trt.ILogger):\n    def log(self, message):\n        pass", "ILogger.log takes [3] arguments"),
    ("def run(thing: Any):\n    thing.execute_async_v2()", "what is the untyped 'thing'?"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_not_there_or_is_called_otherwise_is_found(hold: Hold, tmp_path: Path, number: int) -> None:
    source, sentence = WRONG[number]
    (tmp_path / "wrong.py").write_text(source)
    _, faults = hold("11.4", [tmp_path / "wrong.py"])
    assert len(faults) == 1, faults
    assert sentence in faults[0]


def test_what_is_right_is_not_found_fault_with(hold: Hold, tmp_path: Path) -> None:
    source = """
def load(trt: Any, logger: Any, plan: bytes) -> Any:
    runtime = trt.Runtime(logger=logger)
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    context.set_tensor_address("crops", memory=256)
    context.set_input_shape("crops", (1, 2))
    assert engine.get_tensor_mode("crops") == trt.TensorIOMode.INPUT
    return context.execute_async_v3(stream_handle=7)
"""
    (tmp_path / "right.py").write_text(source)
    for version in ("10.16", "11.4"):
        assert hold(version, [tmp_path / "right.py"])[1] == []
