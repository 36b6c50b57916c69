"""`build_engines.cold_start` in a process whose card and TensorRT are doubles."""

import sys

from build_engines import cold_start
from edge import pipeline
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.engines import backend_on
from tests.edge.backends.fake_card import FakeCard

if __name__ == "__main__":
    fake_tensorrt.card = card = FakeCard()
    pipeline.find_backend = lambda name, server_url=None: backend_on(card)
    cold_start.main(*sys.argv[1:])
