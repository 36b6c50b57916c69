"""No test opens the network or fails by the clock; what it logged can be sent from one process to another."""

import socket
import sys
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

from edge.backends import onnxruntime, openvino  # noqa: F401  importing them switches their telemetry off


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    asks_a_name = event == "socket.getaddrinfo"
    goes_out = event in ("socket.connect", "socket.sendto") and args[0].family != socket.AF_UNIX
    if asks_a_name or goes_out:
        raise RuntimeError(f"a test opened the network: {event} {args[1:]}")


sys.addaudithook(_refuse_network)
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Captured text is sent as UTF-8, which has no lone surrogates; tests log some on purpose."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
