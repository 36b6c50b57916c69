"""A real Triton Inference Server on the loopback interface, out of the package nvidia-pytriton."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Self

import pytest

_DOUBLE = Path(__file__).with_name("onnxruntime_in_triton.py")


class TritonServer:
    """Starts as a context, and anew with `start`.

    Args:
        repository: of models.
        folder: for its backends.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        found = importlib.util.find_spec("pytriton")
        if found is None or found.origin is None:
            pytest.skip("needs a Triton server; `pip install --no-deps nvidia-pytriton` has one")
        self._package = Path(found.origin).parent
        self._repository = repository
        self._backends = folder
        self._place_backends(self._package / "tritonserver")
        self.port = _free_port()
        self._shared_memory = f"cytologia-test-{os.getpid()}-{self.port}-"
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None
        self._drain: threading.Thread | None = None

    def start(self) -> None:
        """Start, and return when all models are ready."""
        libraries = (self._package.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
        command = [
            self._package / "tritonserver/bin/tritonserver",
            f"--model-repository={self._repository}",
            f"--backend-directory={self._backends}",
            "--http-address=127.0.0.1",
            f"--http-port={self.port}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "TRITON_SITE_PACKAGES": sysconfig.get_path("purelib"),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if "Started HTTPService" in line:
                # At every batch it warns that there is no card; with the pipe full it would stop.
                self._drain = threading.Thread(target=self._process.stderr.read)
                self._drain.start()
                return
        self.kill()
        raise AssertionError(f"Triton did not start:\n{''.join(lines)}")

    def kill(self) -> None:
        """As a power failure would."""
        if self._process is None:
            return
        # The group: the models' own processes have inherited the port, and would take connections for ever.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._drain is not None:
            self._drain.join()
            self._drain = None
        for left in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            left.unlink()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    def _place_backends(self, package: Path) -> None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = package / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.is_file():
            pytest.skip(f"the package nvidia-pytriton has no Triton for Python {version}")
        python = self._backends / "python"
        python.mkdir(parents=True)
        for file in (*(package / "backends/python").iterdir(), stub):
            if file.is_file():
                shutil.copy(file, python / file.name)  # links out of the folder are refused
        for name in ("onnxruntime", "tensorrt"):
            (self._backends / name).mkdir()
            shutil.copy(_DOUBLE, self._backends / name / "model.py")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
