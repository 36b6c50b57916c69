"""A comparison of every layer on the card with ONNX Runtime, by NVIDIA's Polygraphy, where that is installed.

Not run on a GPU.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from build_engines.errors import EngineError
from edge.bundle import Bundle
from edge.engine_files import Target


def compare_layers(bundle: Bundle, target: Target) -> None:
    """Print Polygraphy's report on each FP16 graph, fed with a known image. Its verdict changes nothing.

    Raises:
        EngineError: Polygraphy or ONNX Runtime is not installed.
    """
    program = _program()
    for spec, known in zip(bundle.manifest.networks, bundle.golden().networks, strict=True):
        _compare(program, bundle.path / spec.graph.fp16, spec.input_name, known.inputs[:1], target)


def _program() -> Path:
    beside = Path(sys.executable).with_name("polygraphy")
    found = str(beside) if beside.exists() else shutil.which("polygraphy")
    lacking = [name for name in ("polygraphy", "onnxruntime") if find_spec(name) is None]
    if lacking or found is None:
        raise EngineError(
            f"The layers were not compared, since {' and '.join(lacking) or 'the command polygraphy'} is not "
            "installed; `pip install polygraphy onnxruntime`, or leave out --per-layer."
        )
    return Path(found)


def _compare(program: Path, graph: Path, input_name: str, batch: NDArray[np.uint8], target: Target) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.json"
        import_module("polygraphy.json").save_json([{input_name: batch}], str(inputs))
        environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": str(int(target == "tensorrt_rtx"))}
        command = layer_command(program, graph, input_name, batch.shape, inputs)
        subprocess.run(command, check=False, env=environment)


def layer_command(
    program: Path, graph: Path, input_name: str, shape: tuple[int, ...], inputs: Path
) -> list[str]:
    """The command line of Polygraphy."""
    return [
        sys.executable, str(program), "run", str(graph), "--onnxrt", "--trt", "--strongly-typed",
        "--onnx-outputs", "mark", "all", "--trt-outputs", "mark", "all",
        "--input-shapes", f"{input_name}:[{','.join(map(str, shape))}]", "--load-inputs", str(inputs),
    ]  # fmt: skip
