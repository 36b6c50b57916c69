"""Ray: a cluster of its own on this machine, reachable from nowhere else, or one that is there."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge.errors import ArchiveError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # that a worker is started again is no error
}
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""What this switches off is clusters: all of Ray's servers then bind to the loopback address, on Linux too.
`ray.init(_node_ip_address="127.0.0.1")` does not do it; Ray replaces that address by the machine's own."""
_OBJECT_STORE_BYTES = 256 * 2**20
_CONNECT_S = 5.0


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Ray is there meanwhile, without usage statistics and dashboard.

    Args:
        address: of a cluster, `host:port` or "auto"; None starts one on this machine and ends it.

    Raises:
        ArchiveError: there is no cluster at that address, or none can be started.
    """
    if address and ":" in address:
        _require_answer(address)
    for key, value in (ENVIRONMENT | ({} if address else LOOPBACK_ONLY)).items():
        os.environ.setdefault(key, value)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address:
            ray.init(address, **quiet)
        else:
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _cannot_be_used(address or "this machine", error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray itself tries for a quarter of an hour before it says that nobody is there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.rpartition("/")[2].strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise _cannot_be_used(address, error) from error


def _cannot_be_used(address: str, error: Exception) -> ArchiveError:
    line = " ".join(str(error).split())[:300]
    return ArchiveError(
        f"the Ray cluster at {address} cannot be used ({line}); see that it runs (`ray status`) and has the "
        "same releases of Python and Ray."
    )
