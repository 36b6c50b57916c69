"""Metrics for Prometheus: what the station did and how long it took, over HTTP, to whoever asks.

Imported only when `metrics_port` is set. Names follow the conventions of Prometheus: seconds, and counters
that end in _total.
"""

import errno
import logging
import math
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.exposition import ThreadingWSGIServer

from edge.cells import CELL_CLASSES
from edge.errors import SettingsError
from edge.records import State
from edge.tasks import ImageResult

log = logging.getLogger(__name__)

# `images_total` is older than the process: the time of its creation would be wrong.
disable_created_metrics()  # type: ignore[no-untyped-call]

PAUSES = ("disk_full", "inbox")
"""Why no images are taken in: no space for the results, or a folder that cannot be read."""

_NAMESPACE = "cytologia_edge"
_BUCKETS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
_LONGEST_REQUEST_S = 10.0


class Metrics:
    """The figures, in a registry of their own. `on_result` and `on_turn` cost microseconds and never wait.

    Args:
        counts: images by state so far, as the journal has them. `images_total` goes on from there, so that a
            restart loses nothing; all else counts from the start of the process.
        clock: seconds since 1970.
    """

    def __init__(
        self, engine: str, bundle: str, counts: Mapping[State, int], clock: Callable[[], float] = time.time
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self._images = Counter(
            "images",
            "Images with a final answer, also of earlier runs with this journal",
            ["state"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._leukocytes = Counter(
            "leukocytes",
            "Cells found since the start, by class of the CytologIA challenge",
            ["class"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._unlike = Counter(
            "images_unlike_training",
            "Images since the start that are unlike all that the bundle was trained on",
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._queue = Gauge(
            "queue_length",
            "Files that wait, whole or still changing",
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._paused = Gauge(
            "intake_paused",
            "1 while no images are taken in for this reason",
            ["reason"],
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._last_success = Gauge(
            "last_success_timestamp_seconds",
            "When the last image was read (done or empty); NaN before the first since the start",
            namespace=_NAMESPACE,
            registry=registry,
        )
        self._stages = Histogram(
            "stage_duration_seconds",
            "Time of one stage of an image that was read",
            ["stage"],
            namespace=_NAMESPACE,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._total = Histogram(
            "image_duration_seconds",
            "Time from opening the file of an image that was read to its durable rows",
            namespace=_NAMESPACE,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        about = {"engine": engine, "bundle": bundle, "version": _version()}
        Info(_NAMESPACE, "What reads the images", registry=registry).info(about)
        # A label that appears only with its first event hides that event from increase() and rate().
        for state in State:
            if state is not State.PENDING:
                self._images.labels(state).inc(counts.get(state, 0))
        for cell_class in CELL_CLASSES:
            self._leukocytes.labels(cell_class.code)
        self._last_success.set(math.nan)
        self.on_turn(0, ())

    def on_result(self, result: ImageResult) -> None:
        """Count a new answer."""
        self._images.labels(result.status).inc()
        if result.status not in (State.DONE, State.EMPTY):
            return
        self._last_success.set(self._clock())
        self._total.observe(sum(result.stage_ms.values()) / 1e3)
        for stage, time_ms in result.stage_ms.items():
            self._stages.labels(stage).observe(time_ms / 1e3)
        if result.unlikeness is not None and result.unlikeness.is_marked:
            self._unlike.inc()
        for finding in result.findings:
            self._leukocytes.labels(finding.label).inc()

    def on_turn(self, queue: int, pauses: Collection[str]) -> None:
        """Note how things stand.

        Args:
            queue: how many files wait.
            pauses: those of `PAUSES` that hold now.
        """
        self._queue.set(queue)
        for reason in PAUSES:
            self._paused.labels(reason).set(reason in pauses)


def _version() -> str:
    try:
        return version("cytologia-edge")
    except PackageNotFoundError:  # run from a copy of the sources
        return "unknown"


@contextmanager
def served(registry: CollectorRegistry, address: str, port: int) -> Iterator[None]:
    """Answer HTTP requests from threads of their own meanwhile.

    Raises:
        SettingsError: the address or the port cannot be had.
    """
    try:
        server = _Server((address, port), _Handler)
    except OSError as error:
        advice = "set another metrics_address or metrics_port, or end what listens there"
        if error.errno == errno.EAFNOSUPPORT:
            advice = "the service has no network until it gets the drop-in metrics.conf"
        raise SettingsError(
            f"the metrics cannot be served at {address!r}, port {port} ({error.strerror}); {advice}."
        ) from error
    server.set_app(make_wsgi_app(registry))
    bound = str(server.server_address[0])
    if not ip_address(bound).is_loopback:
        log.warning("The metrics at %s, port %d, can be read by any machine that reaches it.", bound, port)
    log.info("Metrics are served at %s, port %d.", bound, port)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = _LONGEST_REQUEST_S  # a client that says nothing must not keep its thread

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


class _Server(ThreadingWSGIServer):
    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without the look-up of the machine's name, which on a network without a name server takes long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("A request for the metrics failed.", exc_info=True)
