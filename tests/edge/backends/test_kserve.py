"""The session on a server, on a double of the connection; test_kserve_on_triton.py has a real server."""

import logging
from typing import Any

import numpy as np
import pytest

from edge.backends.base import Session
from edge.backends.kserve import KServeBackend
from edge.backends.kserve_http import Address
from edge.backends.kserve_models import BUNDLE_ID, PRECISION
from edge.backends.kserve_server import EngineAway
from edge.bundle import Bundle
from edge.demo.renderer import draw_field, draw_tile
from edge.errors import BackendError
from edge.pipeline import Pipeline, open_pipeline
from tests.edge.backends.kserve_double import FakeClock, ServerDouble, other_id

URL = "http://127.0.0.1:18000"


def backend_of(double: ServerDouble, clock: FakeClock | None = None) -> KServeBackend:
    clock = clock or FakeClock()
    return KServeBackend(URL, connect=lambda address: double, clock=clock, pause=clock.wait)


def pipeline_of(
    bundle: Bundle, double: ServerDouble, monkeypatch: pytest.MonkeyPatch, precision: str = "auto"
) -> Pipeline:
    with monkeypatch.context() as patched:
        patched.setattr("edge.pipeline.find_backend", lambda *args, **options: backend_of(double))
        return open_pipeline(bundle, "kserve", precision)


def classifier_of(bundle: Bundle, double: ServerDouble, clock: FakeClock | None = None) -> Session:
    spec = bundle.classifier
    assert spec is not None
    session = backend_of(double, clock).open(bundle.path, spec, "f32")
    double.batches.clear()  # what was tried at the start
    return session


def crops(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 255, (count, 192, 192, 3), np.uint8)


@pytest.fixture
def double(bundle: Bundle) -> ServerDouble:
    return ServerDouble(bundle)


def test_same_findings_as_onnx_runtime(
    bundle: Bundle, double: ServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [*(draw_tile(seed).rgb for seed in range(4)), draw_field(1, cells=20, size_wh=(1200, 900)).rgb]
    with (
        pipeline_of(bundle, double, monkeypatch) as served,
        open_pipeline(bundle, "onnxruntime", "f32") as local,
    ):
        for rgb in images:
            assert served.read(rgb) == local.read(rgb)
        assert served.engine_id.startswith("kserve:f32:")
        assert served.why == f"double 1 at {URL}"


def test_engine_id_changes_with_what_the_server_tells(bundle: Bundle, double: ServerDouble) -> None:
    first = classifier_of(bundle, double).build
    assert classifier_of(bundle, double).build == first
    double.parameters["cytologia_sha256"] = "of another model"
    assert classifier_of(bundle, double).build != first


def test_static_batches_are_padded_and_split(bundle: Bundle) -> None:
    double = ServerDouble(bundle, static={"classifier": (1, 4, 16)})
    session, whole = classifier_of(bundle, double), classifier_of(bundle, ServerDouble(bundle))
    for count in (1, 3, 21):
        np.testing.assert_allclose(
            session.run(crops(count))["probabilities"], whole.run(crops(count))["probabilities"], atol=1e-5
        )
    assert [(model, shape[0]) for model, shape in double.batches] == [
        ("classifier", 1),
        ("classifier-b4", 4),
        ("classifier-b16", 16),
        ("classifier-b16", 16),
    ]


def test_no_batch_is_larger_than_the_server_takes(bundle: Bundle) -> None:
    double = ServerDouble(bundle, limits={"classifier": 16})
    assert classifier_of(bundle, double).run(crops(20))["probabilities"].shape == (20, 15)
    assert [shape[0] for _, shape in double.batches] == [16, 4]


def test_another_bundle_is_refused(bundle: Bundle, double: ServerDouble) -> None:
    double.parameters[BUNDLE_ID] = other_id(bundle)
    with pytest.raises(BackendError, match=f"{URL} serves the bundle {other_id(bundle)}, .* {bundle.id}; "):
        classifier_of(bundle, double)


def test_a_server_that_tells_no_bundle_and_no_precision(
    bundle: Bundle,
    double: ServerDouble,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    double.parameters = {}
    with pipeline_of(bundle, double, monkeypatch) as pipeline:
        assert pipeline.engine_id.startswith("kserve:f16:")
    assert "does not tell which bundle" in caplog.text


def test_the_self_test_finds_out_another_model(
    bundle: Bundle, double: ServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.parameters = {}
    double.change = lambda answer: {name: np.roll(values, 1, axis=-1) for name, values in answer.items()}
    with pytest.raises(BackendError, match="does not give the known answers"):
        pipeline_of(bundle, double, monkeypatch)


@pytest.mark.parametrize("wrong", ["classifier", "classifier-b4", "classifier-b16"])
def test_the_self_test_finds_out_another_model_of_any_size(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    double = ServerDouble(bundle, static={"classifier": (1, 4, 16)})

    def rolled(answer: dict[str, Any]) -> dict[str, Any]:
        turns = double.batches[-1][0] == wrong
        return {name: np.roll(values, turns, axis=-1) for name, values in answer.items()}

    double.change = rolled
    with pytest.raises(BackendError, match=r"^classifier on .* does not give the known answers"):
        pipeline_of(bundle, double, monkeypatch)


@pytest.mark.parametrize("precision", ["int8", ""])
def test_an_unknown_precision_is_refused(bundle: Bundle, double: ServerDouble, precision: str) -> None:
    double.parameters[PRECISION] = precision
    with pytest.raises(BackendError, match=r"knows f32, f16, bf16; "):
        backend_of(double).precisions()


def test_another_precision_is_refused(
    bundle: Bundle, double: ServerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match="no precision 'f16'"):
        pipeline_of(bundle, double, monkeypatch, "f16")
    double.parameters[PRECISION] = "f16"
    with pytest.raises(BackendError, match="computes the classifier in f16, but f32 is wanted"):
        classifier_of(bundle, double)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"inputs": [{"name": "crops", "datatype": "UINT8", "shape": ["-1", "224", "224", "3"]}]},
            r"takes crops UINT8 \[any, 224, 224, 3\], but the bundle's takes .* \[any, 192, 192, 3\]",
        ),
        (
            {"inputs": [{"name": "crops", "datatype": "FP32", "shape": [-1, 192, 192, 3]}]},
            r"takes crops FP32 .* takes crops UINT8",
        ),
        ({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 192, 192, 3]}]}, "takes images"),
        (
            {"outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 23]}]},
            r"gives probabilities FP32 \[any, 23\], but the bundle's gives probabilities FP32 \[any, 15\]",
        ),
        ({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 15]}]}, "gives nothing of that"),
    ],
)
def test_another_contract_is_refused(
    bundle: Bundle, double: ServerDouble, change: dict[str, Any], sentence: str
) -> None:
    double.metadata["classifier"] = change
    with pytest.raises(BackendError, match=f"'classifier' of the server at {URL} {sentence}"):
        classifier_of(bundle, double)


def test_a_model_that_is_not_there(bundle: Bundle, double: ServerDouble) -> None:
    del double._models["classifier"]
    with pytest.raises(BackendError, match=f"{URL} has no model 'classifier' .*--triton DIR"):
        classifier_of(bundle, double)


@pytest.mark.parametrize("change", [lambda a: a[:, :3], lambda a: a.astype(np.float64)])
def test_an_answer_of_another_kind_is_a_fault(bundle: Bundle, double: ServerDouble, change: Any) -> None:
    session = classifier_of(bundle, double)
    double.change = lambda answer: {name: change(values) for name, values in answer.items()}
    with pytest.raises(BackendError, match=r"gave 'probabilities' as float.* in place of FP32 \[2, 15\]"):
        session.run(crops(2))


def test_a_refused_batch_is_a_fault_at_once(bundle: Bundle, double: ServerDouble) -> None:
    clock = FakeClock()
    session, began_s = classifier_of(bundle, double, clock), clock()
    double.refusal = "unexpected shape"
    with pytest.raises(BackendError, match=f"{URL} refuses \\(unexpected shape\\)") as caught:
        session.run(crops(1))
    assert not isinstance(caught.value, EngineAway)
    assert clock() == began_s


def test_a_proxy_that_takes_the_known_inputs_and_no_large_batch_is_found_out_at_the_start(
    bundle: Bundle, double: ServerDouble
) -> None:
    double.most_bytes = 1 << 20  # nginx's
    with pytest.raises(BackendError, match=f"{URL} refuses \\(413 Request Entity Too Large\\)"):
        classifier_of(bundle, double)
    double.most_bytes = 2 << 20
    classifier_of(bundle, double)


@pytest.mark.parametrize(
    ("about", "metadata"), [([], {}), ({}, {"inputs": None}), ({}, {"inputs": [{}]}), ({}, {"config": []})]
)
def test_json_of_another_kind_is_an_error_of_the_server(
    bundle: Bundle, double: ServerDouble, about: Any, metadata: dict[str, Any]
) -> None:
    """An image would be `failed` for ever, were it taken for a fault of that."""
    clock = FakeClock()
    session = classifier_of(bundle, double, clock)
    double.about, double.metadata["classifier"] = about, metadata
    clock.wait(1.5)
    with pytest.raises(BackendError):
        session.run(crops(1))
    with pytest.raises(BackendError, match=f"at {URL} is not understood \\(.*correct server_url"):
        classifier_of(bundle, double)


def test_a_station_that_starts_waits_for_its_server(bundle: Bundle, double: ServerDouble) -> None:
    clock = FakeClock()
    double.is_away = True
    clock.after[clock() + 80] = lambda: setattr(double, "is_away", False)
    assert backend_of(double, clock).precisions() == ["f32"]


def test_a_server_that_does_not_come_is_told_from_a_wrong_one(bundle: Bundle, double: ServerDouble) -> None:
    clock = FakeClock()
    began_s = clock()
    double.is_away = True
    with pytest.raises(EngineAway, match=rf"{URL} has not answered for 9\d s \(Connection refused\); start"):
        backend_of(double, clock).precisions()
    # Five starts in 300 s, and systemd would give up.
    assert clock() - began_s > 60


def test_a_restart_of_the_server_is_waited_for(
    bundle: Bundle, double: ServerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    session = classifier_of(bundle, double, clock)
    before = session.run(crops(2))["probabilities"]
    double.is_away = True
    clock.after[clock() + 12] = lambda: setattr(double, "is_away", False)
    double.questions.clear()
    np.testing.assert_array_equal(session.run(crops(2))["probabilities"], before)
    # Whoever answers now is asked what it serves before it gets an image.
    assert double.questions[-3:] == ["server", "classifier", "infer"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        f"The server at {URL} does not answer (Connection refused); it is asked again for 15 s."
    ]


def test_a_server_that_stays_away_ends_the_work(bundle: Bundle, double: ServerDouble) -> None:
    clock = FakeClock()
    session, began_s = classifier_of(bundle, double, clock), clock()
    double.is_away = True
    with pytest.raises(EngineAway):
        session.run(crops(1))
    # Detector and classifier, each with an answer that does not come for 5 s, within systemd's 60 s.
    assert 15 <= clock() - began_s < 20


def test_another_server_in_its_place_gets_no_image(bundle: Bundle, double: ServerDouble) -> None:
    clock = FakeClock()
    session = classifier_of(bundle, double, clock)
    session.run(crops(1))
    double.questions.clear()
    session.run(crops(1))
    assert double.questions == ["infer"]
    clock.wait(1.5)
    double.about = {"name": "double", "version": "2"}
    double.batches.clear()
    with pytest.raises(BackendError, match=r"not serve what was tested \(double 2 at .* restart the station"):
        session.run(crops(1))
    double.parameters[BUNDLE_ID] = other_id(bundle)
    with pytest.raises(BackendError, match="serves the bundle"):
        session.run(crops(1))
    assert double.batches == []


@pytest.mark.parametrize(
    ("url", "host", "port", "is_exposed"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, False),
        ("http://localhost/", "localhost", 8000, False),
        ("http://[::1]:9", "::1", 9, False),
        ("http://10.0.0.7:8000", "10.0.0.7", 8000, True),
        ("https://triton.example:8443", "triton.example", 8443, False),
    ],
)
def test_addresses(url: str, host: str, port: int, is_exposed: bool) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.is_exposed) == (host, port, is_exposed)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://a:1",
        "http://",
        "http://me@a:1",
        "http://a:1/v2",
        "http://a:x",
        "http://a?b=1",
        "",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(BackendError, match=r"must be like 'http://127.0.0.1:8000'.*; correct server_url"):
        KServeBackend(url)


def test_images_that_go_unencrypted_are_told(caplog: pytest.LogCaptureFixture) -> None:
    KServeBackend("https://triton.example:8000")
    assert not caplog.records
    KServeBackend("http://triton.example:8000")
    assert "Images go to http://triton.example:8000 unencrypted" in caplog.text
