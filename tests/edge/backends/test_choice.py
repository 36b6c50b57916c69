"""Which backend a station uses, and what it says of that."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.backends import tensorrt
from edge.backends.base import Backend, BackendAbsent, Outputs, Session, find_backend
from edge.bundle import Bundle
from edge.engine_files import Machine
from edge.errors import BackendError, EngineAway, SettingsError
from edge.exit_codes import ExitCode, exit_code_of
from edge.manifest import NetworkSpec
from edge.pipeline import open_pipeline
from edge.settings import load_settings


class OpenSession(Session):
    """Test double of a session: knows whether it was closed."""

    closed = False

    def _run(self, batch: np.ndarray) -> Outputs:
        raise AssertionError("nothing is run here")

    def close(self) -> None:
        self.closed = True


class TensorRtDouble(Backend):
    """Test double of a backend whose detector opens and whose classifier does not."""

    name = "tensorrt"

    def __init__(self) -> None:
        self.opened: list[OpenSession] = []

    def precisions(self) -> list[str]:
        return ["f16"]

    def open(
        self, bundle_path: Path, spec: NetworkSpec, precision: str, *, in_lanes: bool = False
    ) -> Session:
        if self.opened:
            raise BackendError("The engine is for another card; build it.")
        self.opened.append(OpenSession("double", spec.side_px))
        return self.opened[0]


@pytest.fixture
def without_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "probe", lambda: "no NVIDIA driver")


def engines(monkeypatch: pytest.MonkeyPatch, **doubles: Backend | BackendError) -> None:
    """Let some backends be doubles, or be refused."""

    def find(name: str, server_url: str | None) -> Backend:
        found = doubles.get(name) or find_backend(name, server_url)
        if isinstance(found, BackendError):
            raise found
        return found

    monkeypatch.setattr("edge.pipeline.find_backend", find)


@pytest.mark.usefixtures("without_card")
def test_auto_takes_openvino_without_a_card_and_knows_why(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), open_pipeline(bundle) as pipeline:
        assert pipeline.engine_id.startswith("openvino:")
        assert pipeline.why == "no NVIDIA driver"  # once, though it is the reason against two backends
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.INFO, f"bundle {bundle.id} on {pipeline.engine_id} (no NVIDIA driver)")
    ]


@pytest.mark.usefixtures("without_card")
def test_auto_takes_onnx_runtime_where_openvino_is_not_there(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines(monkeypatch, openvino=BackendAbsent("openvino", "not installed"))
    with open_pipeline(bundle) as pipeline:
        assert pipeline.engine_id == "onnxruntime:f32"
        assert pipeline.why == "no NVIDIA driver; not installed"


@pytest.mark.usefixtures("without_card")
def test_a_named_backend_that_cannot_be_used_is_refused(bundle: Bundle) -> None:
    sentence = r"^The backend 'tensorrt' cannot be used here: no NVIDIA driver; mend that, or choose another"
    with pytest.raises(BackendError, match=sentence):
        open_pipeline(bundle, "tensorrt")


@pytest.mark.usefixtures("without_card")
def test_a_fallback_is_used_only_where_it_is_declared_and_with_a_warning(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with open_pipeline(bundle, "tensorrt", "f16", fallback="onnxruntime") as pipeline:
        assert pipeline.engine_id == "onnxruntime:f32"  # the precision was that of the other one
        assert pipeline.why == "no NVIDIA driver"
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith(
        "onnxruntime is used instead: The backend 'tensorrt' cannot be used here: no NV"
    )


@pytest.mark.usefixtures("without_card")
def test_a_fallback_that_cannot_be_used_either_is_refused_with_both_reasons(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"'tensorrt' cannot be used .* 'tensorrt_rtx' cannot be used"):
        open_pipeline(bundle, "tensorrt", fallback="tensorrt_rtx")


def test_a_fallback_that_nobody_knows_is_refused_before_it_is_needed(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"^There is no backend 'onnxrutime'; use auto, .*onnxruntime"):
        open_pipeline(bundle, "openvino", fallback="onnxrutime")


@pytest.mark.usefixtures("without_card")
def test_a_server_that_is_away_is_waited_for_though_the_fallback_can_never_be_used(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines(monkeypatch, kserve=EngineAway("The server does not answer."))
    with pytest.raises(
        EngineAway, match=r"does not answer\. The backend 'tensorrt' cannot be used"
    ) as raised:
        open_pipeline(bundle, "kserve", fallback="tensorrt")
    assert exit_code_of(raised.value) == ExitCode.ENGINE_FAULT


def test_a_card_without_fitting_engines_is_warned_of_and_gives_its_memory_back(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    double = TensorRtDouble()
    engines(monkeypatch, tensorrt=double, tensorrt_rtx=BackendAbsent("tensorrt_rtx", "not installed"))
    with open_pipeline(bundle, precision="auto") as pipeline:
        assert pipeline.engine_id.startswith("openvino:")
        assert pipeline.why == "The engine is for another card; build it; not installed"
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "openvino is used instead: The engine is for another card; build it."
    ]
    assert double.opened[0].closed


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise FileNotFoundError('Could not find: libnvinfer.so.10')", "Could not find: libnvinfer.so.10"),
        ("import tensorrt_bindings", "No module named 'tensorrt_bindings'"),
    ],
)
def test_a_library_that_does_not_load_is_warned_of_and_the_next_is_used(
    line: str,
    said: str,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "tensorrt.py").write_text(line)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(tensorrt, "probe", lambda: Machine("a card", "8.6", "", 0))
    engines(monkeypatch, tensorrt_rtx=BackendAbsent("tensorrt_rtx", "not installed"))
    with open_pipeline(bundle) as pipeline:
        assert pipeline.engine_id.startswith("openvino:")
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        f"openvino is used instead: tensorrt does not load ({said}); install it again."
    ]


def test_the_settings_declare_a_fallback_for_a_named_backend_only(tmp_path: Path) -> None:
    flags = {"inbox": tmp_path / "inbox", "out": tmp_path / "out", "fallback": "openvino"}
    assert load_settings(**flags, backend="tensorrt").fallback == "openvino"
    with pytest.raises(
        SettingsError, match=r"fallback is 'openvino', but backend is 'auto', which tries all"
    ):
        load_settings(**flags)
