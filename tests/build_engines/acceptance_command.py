"""`python -m build_engines.acceptance` in a process whose libcuda.so.1 is the double of tests/fakecuda.

pycuda and cuda-bindings are the real ones; TensorRT, its builder and NVML are doubles. With the word "cold"
before its arguments it is `build_engines.cold_start` on the same.
"""

import sys
from functools import partial

from build_engines import acceptance_run, job
from build_engines.acceptance import main
from build_engines.acceptance_run import Amounts, Means
from build_engines.cold_start import main as start_cold
from tests.build_engines.acceptance_doubles import build_double, remembering_session
from tests.build_engines.fake_nvml import FakeNvml
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.fake_card import DriverCard

if __name__ == "__main__":
    sys.modules["tensorrt"] = fake_tensorrt
    sys.modules["pynvml"] = FakeNvml()  # type: ignore[assignment]
    fake_tensorrt.card = DriverCard()
    job.DETECTOR_BATCHES = job.CLASSIFIER_BATCHES = (1,)  # type: ignore[assignment]
    fake_tensorrt._session = remembering_session  # type: ignore[assignment]
    if sys.argv[1] == "cold":
        start_cold(*sys.argv[2:])
    else:
        cold = (sys.executable, "-m", "tests.build_engines.acceptance_command", "cold")
        acceptance_run.Means = partial(Means, build=build_double, cold_command=cold)  # type: ignore[misc, assignment]
        few = partial(Amounts, gate_images=1, cold_starts=1, steady_images=6, graph_images=3)
        acceptance_run.Amounts = few  # type: ignore[misc, assignment]
        main()
