"""No test opens the network."""

import socket
import sys
from typing import Any

from edge.backends import onnxruntime, openvino  # noqa: F401  importing them switches their telemetry off


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    asks_a_name = event == "socket.getaddrinfo"
    goes_out = event in ("socket.connect", "socket.sendto") and args[0].family != socket.AF_UNIX
    if asks_a_name or goes_out:
        raise RuntimeError(f"a test opened the network: {event} {args[1:]}")


sys.addaudithook(_refuse_network)
