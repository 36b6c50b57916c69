"""What Prometheus reads: the figures, and the server that no request and no refused port may harm."""

import errno
import logging
import math
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families

from edge.cells import CELL_CLASSES, Finding, Unlikeness
from edge.daemon import run_station
from edge.errors import SettingsError
from edge.exit_codes import ExitCode
from edge.metrics import PAUSES, Metrics, served
from edge.notify import Notifier
from edge.records import State
from edge.settings import Settings, load_settings
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

P = "cytologia_edge_"


def finding(label: str) -> Finding:
    return Finding((0, 0, 4, 4), label, 0.9, 0.8, {label: 1.0})


def read(text: str) -> dict[str, float]:
    """Samples by name and labels, as `name{label=value,...}`; the format is checked by Prometheus' parser."""
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples(registry: CollectorRegistry) -> dict[str, float]:
    return read(generate_latest(registry).decode())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("openvino:bf16", "demo-1a2b", {State.DONE: 5, State.PENDING: 1}, clock=lambda: 1.7e9)


def test_images_go_on_from_the_journal_and_every_state_is_there_from_the_start(metrics: Metrics) -> None:
    metrics.on_result(ImageResult(Path("a"), "", State.DONE, is_new=True))
    metrics.on_result(ImageResult(Path("b"), "", State.REJECTED, "empty", is_new=True))
    told = samples(metrics.registry)
    images = {key: value for key, value in told.items() if key.startswith(f"{P}images_total")}
    expected = {state: 0.0 for state in State if state is not State.PENDING}
    expected |= {State.DONE: 6, State.REJECTED: 1}
    assert images == {f"{P}images_total{{state={state}}}": count for state, count in expected.items()}


def test_no_series_claims_to_be_as_young_as_the_process(metrics: Metrics) -> None:
    """With a time of creation, Prometheus would take what earlier runs counted for new."""
    assert "_created" not in generate_latest(metrics.registry).decode()


def test_leukocytes_are_counted_by_class_and_every_class_is_there_from_the_start(metrics: Metrics) -> None:
    cells = tuple(map(finding, ("PNN", "PNN", "LY")))
    metrics.on_result(ImageResult(Path("a"), "", State.DONE, is_new=True, findings=cells))
    told = samples(metrics.registry)
    expected = {cell_class.code: 0.0 for cell_class in CELL_CLASSES} | {"PNN": 2, "LY": 1}
    assert {c: told[f"{P}leukocytes_total{{class={c}}}"] for c in expected} == expected


def test_images_unlike_the_training_images_are_counted(metrics: Metrics) -> None:
    for unlikeness in (None, Unlikeness(0.9), Unlikeness(1.1, "blurred")):
        metrics.on_result(ImageResult(Path("a"), "", State.DONE, is_new=True, unlikeness=unlikeness))
    assert samples(metrics.registry)[f"{P}images_unlike_training_total{{}}"] == 1


def test_times_are_in_seconds_and_only_of_images_that_were_read(metrics: Metrics) -> None:
    for state in State:
        stage_ms = {"read": 0.2, "detect": 6.0, "record": 0.5}
        metrics.on_result(ImageResult(Path("a"), "", state, is_new=True, stage_ms=stage_ms))
    told = samples(metrics.registry)
    assert told[f"{P}image_duration_seconds_count{{}}"] == 2
    assert told[f"{P}image_duration_seconds_sum{{}}"] == pytest.approx(2 * 0.0067)
    assert told[f"{P}stage_duration_seconds_sum{{stage=detect}}"] == pytest.approx(2 * 0.006)
    assert told[f"{P}stage_duration_seconds_bucket{{le=0.005,stage=detect}}"] == 0
    assert told[f"{P}stage_duration_seconds_bucket{{le=0.01,stage=detect}}"] == 2
    bounds = [key for key in told if key.startswith(f"{P}image_duration_seconds_bucket")]
    assert (bounds[0], bounds[-2], len(bounds)) == (
        f"{P}image_duration_seconds_bucket{{le=0.0001}}",
        f"{P}image_duration_seconds_bucket{{le=10.0}}",
        17,
    )


def test_the_last_success_is_not_a_number_before_the_first(metrics: Metrics) -> None:
    name = f"{P}last_success_timestamp_seconds{{}}"
    metrics.on_result(ImageResult(Path("a"), "", State.REJECTED, "empty", is_new=True))
    assert math.isnan(samples(metrics.registry)[name])
    metrics.on_result(ImageResult(Path("a"), "", State.EMPTY, is_new=True))
    assert samples(metrics.registry)[name] == 1.7e9


def test_queue_and_pauses_are_as_the_last_turn_had_them(metrics: Metrics) -> None:
    def paused() -> list[float]:
        told = samples(metrics.registry)
        return [told[f"{P}intake_paused{{reason={reason}}}"] for reason in PAUSES]

    assert PAUSES == ("disk_full", "inbox")
    assert paused() == [0, 0]
    metrics.on_turn(7, {"disk_full": "why"})
    assert paused() == [1, 0]
    assert samples(metrics.registry)[f"{P}queue_length{{}}"] == 7
    metrics.on_turn(0, {"inbox": "why"})
    assert paused() == [0, 1]


def test_the_engine_the_bundle_and_the_version_are_told(metrics: Metrics) -> None:
    (info,) = (key for key in samples(metrics.registry) if key.startswith(f"{P}info"))
    assert "bundle=demo-1a2b,engine=openvino:bf16,version=" in info


def test_two_stations_in_one_process_share_nothing(metrics: Metrics) -> None:
    metrics.on_turn(7, ())
    other = Metrics("other", "other", {})
    assert samples(other.registry)[f"{P}queue_length{{}}"] == 0


def get(registry: CollectorRegistry) -> tuple[str, str]:
    """Status and body of a request, given to the server's application without a network."""
    environ: dict[str, Any] = {"PATH_INFO": "/metrics"}
    setup_testing_defaults(environ)
    told = []

    def start_response(status: str, headers: Iterable[tuple[str, str]]) -> None:
        told.append(status)

    body = b"".join(make_wsgi_app(registry)(environ, start_response))
    return told[0], body.decode()


def test_a_request_is_answered(metrics: Metrics) -> None:
    status, body = get(metrics.registry)
    assert status == "200 OK"
    assert read(body)[f"{P}images_total{{state=done}}"] == 5


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    (tmp_path / "in").mkdir()
    return load_settings(inbox=tmp_path / "in", out=tmp_path / "out", quiet_period_s=0.05)


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1"])
def test_an_address_that_cannot_be_had_is_one_sentence_and_78(
    settings: Settings, taken_port: int, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    refused = settings.model_copy(update={"metrics_port": taken_port, "metrics_address": address})
    assert run_station(refused, OneCell(), notifier=Notifier()) is ExitCode.CONFIGURATION
    said = caplog.records[-1].getMessage()
    assert f"cannot be served at {address!r}, port {taken_port} (" in said
    assert "set another metrics_address or metrics_port" in said
    assert "\n" not in said
    assert caplog.records[-1].exc_info is None


def test_a_service_without_a_network_is_told_what_gives_it_one(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)  # as RestrictAddressFamilies= of systemd does
    serving = served(metrics.registry, "127.0.0.1", 9464)
    with (
        pytest.raises(SettingsError, match=r"127\.0\.0\.1.*9464.*not supported.*drop-in metrics\.conf"),
        serving,
    ):
        pass


def test_the_port_is_listened_at_meanwhile_and_free_afterwards(metrics: Metrics, free_port: int) -> None:
    def serve() -> AbstractContextManager[None]:
        return served(metrics.registry, "127.0.0.1", free_port)

    with serve(), pytest.raises(SettingsError), serve():
        pass
    with serve():
        pass


@pytest.mark.parametrize(
    ("address", "warns"), [("127.0.0.1", False), ("127.0.0.2", False), ("0.0.0.0", True)]
)
def test_an_address_beyond_this_machine_is_warned_of(
    metrics: Metrics, free_port: int, caplog: pytest.LogCaptureFixture, address: str, warns: bool
) -> None:
    with served(metrics.registry, address, free_port):
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert bool(warnings) is warns


def test_the_server_asks_for_no_name(
    metrics: Metrics, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no name server answers, asking for the machine's name would delay the start."""

    def ask(name: str = "") -> str:
        raise AssertionError(f"the name of {name!r} was asked for")

    monkeypatch.setattr(socket, "getfqdn", ask)
    with served(metrics.registry, "127.0.0.1", free_port):
        pass


def test_a_station_with_metrics_counts_what_it_does(
    settings: Settings, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.full((6, 8, 3), 200, np.uint8)
    Image.fromarray(pixels).save(settings.inbox / "a.png")
    (settings.inbox / "b.png").touch()
    made: list[Metrics] = []
    real_init = Metrics.__init__

    def init(self: Metrics, *args: Any) -> None:
        real_init(self, *args)
        made.append(self)

    results: list[ImageResult] = []

    def stop_at_two(result: ImageResult) -> None:
        results.append(result)
        if len(results) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Metrics, "__init__", init)
    with_metrics = settings.model_copy(update={"metrics_port": free_port})
    assert run_station(with_metrics, OneCell(), notifier=Notifier(), on_result=stop_at_two) == 0
    told = samples(made[0].registry)
    assert told[f"{P}images_total{{state=done}}"] == told[f"{P}images_total{{state=rejected}}"] == 1
    assert told[f"{P}leukocytes_total{{class=PNN}}"] == 1
    assert told[f"{P}stage_duration_seconds_count{{stage=commit}}"] == 1
    assert told[f"{P}queue_length{{}}"] == 0


def test_without_a_port_the_library_is_not_even_loaded(settings: Settings) -> None:
    (settings.inbox / "a.png").touch()
    code = f"""
import signal, sys
from edge.settings import load_settings
from edge.daemon import run_station
class Nothing:
    bundle_id = engine_id = "double"
settings = load_settings(inbox={str(settings.inbox)!r}, out={str(settings.out)!r}, quiet_period_s=0.05)
run_station(settings, Nothing(), on_result=lambda _: signal.raise_signal(signal.SIGTERM))
print({{"prometheus_client", "http.server"}} & set(sys.modules))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
