"""TensorRT-RTX itself builds engines here, without a card; what it refuses becomes one sentence."""

import re
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build_engines import engine as engine_module
from build_engines.engine import build_engine, known_capabilities
from build_engines.engine_network import Order
from build_engines.errors import EngineError
from edge.backends import tensorrt_log
from edge.bundle import embedded_bundle, file_sha256
from edge.engine_files import Machine, TensorSpec
from tests.build_engines import small_graphs

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")

CARD = Machine("Double of an RTX 3060", "8.6", "580.65.06", 12_000_000_000)


class Told:
    """Keeps what a build tells of its progress."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}
        self.steps: Counter[str] = Counter()
        self.ended: set[str] = set()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self.begun[phase] = steps

    def step(self, phase: str, step: int) -> None:
        assert 0 <= step < self.begun[phase]
        self.steps[phase] += 1

    def finish(self, phase: str) -> None:
        self.ended.add(phase)


def order_of(path: Path, batch: int = 2, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "onnx_path": path,
        "input_name": "tiles",
        "output_names": frozenset({"answer"}),
        "side_px": small_graphs.SIDE_PX,
        "batch": batch,
        "compute_capabilities": ("8.6", "12.0"),
    }
    return Order(**{**fields, **changes})


def refusal(order: Order, trt: Any = rtx, machine: Machine | None = None) -> str:
    with pytest.raises(EngineError) as caught:
        build_engine(trt, order, machine, Told())
    message = str(caught.value)
    assert re.fullmatch(r"[^\n]*\.", message), "one line, and a sentence"
    return message


@pytest.mark.parametrize(
    ("graph", "side_px", "batch", "inputs", "answers"),
    [
        (
            "detector.fp16.onnx",
            416,
            1,
            "tiles",
            {"boxes": (1, 100, 4), "scores": (1, 100), "labels": (1, 100)},
        ),
        ("classifier.fp16.onnx", 192, 4, "crops", {"probabilities": (4, 15)}),
    ],
)
def test_the_embedded_bundle_becomes_fp16_engines_with_fixed_shapes(
    graph: str, side_px: int, batch: int, inputs: str, answers: dict[str, tuple[int, ...]]
) -> None:
    path, told = embedded_bundle() / graph, Told()
    order = Order(path, inputs, frozenset(answers), side_px, batch, ("8.6", "12.0"))
    plan, record = build_engine(rtx, order, None, told)
    assert len(plan) > path.stat().st_size
    assert record.onnx_sha256 == file_sha256(path)
    assert record.inputs == {inputs: TensorSpec(shape=(batch, side_px, side_px, 3), dtype="uint8")}
    assert {name: spec.shape for name, spec in record.outputs.items()} == answers
    assert {spec.dtype for spec in record.outputs.values()} <= {"float32", "int32"}
    assert record.layer_types["HALF"] > 90
    assert (record.compute_capabilities, record.library_version) == (("8.6", "12.0"), rtx.__version__)
    assert (record.gpu, record.driver, record.gate) == ("", "", None)
    assert told.ended == set(told.begun)
    assert sum(told.steps.values()) > 100


def test_every_card_from_ampere_to_blackwell_gets_an_engine(tmp_path: Path) -> None:
    path = small_graphs.good(tmp_path / "good.onnx")
    for capability in known_capabilities(rtx):
        plan, record = build_engine(rtx, order_of(path, compute_capabilities=(capability,)), None, Told())
        assert plan
        assert record.compute_capabilities == (capability,)
    assert known_capabilities(rtx)[0] == "7.5"


def test_an_fp32_graph_is_an_f32_engine_and_never_an_f16_one(tmp_path: Path) -> None:
    path = small_graphs.good(tmp_path / "whole.onnx", half=False)
    assert "1 of the 1 convolutions and matrix products of whole.onnx do not compute in HALF" in refusal(
        order_of(path)
    )
    _, record = build_engine(rtx, order_of(path, precision="f32"), None, Told())
    assert record.precision == "f32"
    assert "HALF" not in record.layer_types


def test_an_fp16_graph_is_no_f32_engine(tmp_path: Path) -> None:
    path = small_graphs.good(tmp_path / "half.onnx")
    assert "do not compute in FLOAT, so it is no f32 graph" in refusal(order_of(path, precision="f32"))


def test_the_embedded_fp32_graph_is_refused_as_f16() -> None:
    path = embedded_bundle() / "classifier.onnx"
    order = Order(path, "crops", frozenset({"probabilities"}), 192, 1, ("8.6",))
    assert "it is no f16 graph" in refusal(order)


def test_one_convolution_left_in_fp32_is_found(tmp_path: Path) -> None:
    path = small_graphs.half_in_disguise(tmp_path / "disguise.onnx")
    assert "1 of the 2 convolutions" in refusal(order_of(path))


def test_what_the_parser_refuses_is_told_with_its_place(tmp_path: Path) -> None:
    unknown = refusal(order_of(small_graphs.with_unknown_operator(tmp_path / "unknown.onnx")))
    assert "unknown.onnx (Frobnicate odd: " in unknown
    assert "Plugin not found" in unknown
    mixed = refusal(order_of(small_graphs.of_mixed_types(tmp_path / "mixed.onnx")))
    assert "Add mixed: " in mixed
    assert "types Half and Float" in mixed


def test_a_damaged_or_missing_graph_is_told(tmp_path: Path) -> None:
    path = small_graphs.good(tmp_path / "half.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    assert "Failed to parse the ONNX model" in refusal(order_of(path))
    path.write_bytes(b"")  # the parser calls it a success
    assert "half.onnx takes nothing, but the station gives it tiles" in refusal(order_of(path))
    assert "cannot be read (No such file or directory)" in refusal(order_of(tmp_path / "nothing.onnx"))


def test_another_input_or_output_than_the_station_has_is_told_with_both(tmp_path: Path) -> None:
    path = small_graphs.good(tmp_path / "good.onnx")
    assert "takes tiles UINT8 [-1, 8, 8, 3], but the station gives it tiels UINT8 [2, 8, 8, 3]" in refusal(
        order_of(path, input_name="tiels")
    )
    assert "[-1, 8, 8, 3], but the station gives it tiles UINT8 [2, 16, 16, 3]" in refusal(
        order_of(path, side_px=16)
    )
    assert "answers with answer, but the station reads boxes" in refusal(
        order_of(path, output_names=frozenset({"boxes"}))
    )


def test_a_batch_that_the_graph_fixes_otherwise_is_told(tmp_path: Path) -> None:
    path = small_graphs.good(tmp_path / "two.onnx", shape=[2, 8, 8, 3])
    build_engine(rtx, order_of(path, batch=2), None, Told())
    assert "takes tiles UINT8 [2, 8, 8, 3], but the station gives it tiles UINT8 [4, 8, 8, 3]" in refusal(
        order_of(path, batch=4)
    )


def test_a_shape_that_depends_on_values_is_refused(tmp_path: Path) -> None:
    path = small_graphs.with_a_shape_from_values(tmp_path / "open.onnx")
    assert "have shapes that depend on values" in refusal(order_of(path))


def test_a_card_that_the_library_does_not_know_is_told_with_those_it_knows(tmp_path: Path) -> None:
    path = small_graphs.good(tmp_path / "good.onnx")
    message = refusal(order_of(path, compute_capabilities=("8.6", "9.0")))
    assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1 and not for 9.0" in message


def test_no_engine_is_told_with_what_the_library_logged(tmp_path: Path) -> None:
    """Turing multiplies no FP32 matrices, and TensorRT-RTX says so by returning None."""
    helper = small_graphs.helper
    path = small_graphs.save(
        tmp_path / "product.onnx",
        [
            *small_graphs.planes(half=True),
            helper.make_node("Conv", ["planes", "half_weights"], ["found"], name="convolve"),
            small_graphs.cast("found", "whole", small_graphs.TensorProto.FLOAT),
            helper.make_node("MatMul", ["whole", "whole"], ["answer"], name="product"),
        ],
    )
    build_engine(rtx, order_of(path), None, Told())
    message = refusal(order_of(path, compute_capabilities=("7.5",)))
    assert "built no engine of product.onnx for 2 at a time on 7.5 (" in message
    assert "FP32 GEMM is not supported" in message
    assert "leave 7.5 out" in message


def test_a_library_that_gives_nothing_and_says_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx.Builder, "build_serialized_network", lambda *_: None)
    message = refusal(order_of(small_graphs.good(tmp_path / "good.onnx")))
    assert "(and does not say why); update it, or take another target." in message


def test_ctrl_c_ends_a_build(tmp_path: Path) -> None:
    class Interrupted(Told):
        def step(self, phase: str, step: int) -> None:
            super().step(phase, step)
            signal.raise_signal(signal.SIGINT)

    order = order_of(small_graphs.good(tmp_path / "good.onnx"))
    before = signal.getsignal(signal.SIGINT)
    interrupted, patient = Interrupted(), Told()
    with pytest.raises(KeyboardInterrupt):
        build_engine(rtx, order, None, interrupted)
    assert signal.getsignal(signal.SIGINT) == before
    build_engine(rtx, order, None, patient)
    assert interrupted.steps.total() == 1 < patient.steps.total()


def test_ctrl_c_is_not_lost_in_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in its calls of the logger is printed and forgotten there."""
    order = order_of(small_graphs.with_unknown_operator(tmp_path / "unknown.onnx"))

    def line_and_ctrl_c(text: str) -> str:
        signal.raise_signal(signal.SIGINT)
        return text

    monkeypatch.setattr(tensorrt_log, "one_line", line_and_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        build_engine(rtx, order, None, Told())


def test_what_the_progress_raises_ends_a_build(tmp_path: Path) -> None:
    class Broken(Told):
        def start(self, phase: str, parent: str | None, steps: int) -> None:
            raise BrokenPipeError(phase)

    with pytest.raises(BrokenPipeError):
        build_engine(rtx, order_of(small_graphs.good(tmp_path / "good.onnx")), None, Broken())


def test_tensorrt_builds_only_on_a_card(tmp_path: Path) -> None:
    class TensorRtDouble:
        __name__ = "tensorrt"

    message = refusal(order_of(small_graphs.good(tmp_path / "good.onnx")), TensorRtDouble())
    assert "this machine has none; build there, or give `--target tensorrt-rtx`" in message


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_tensorrt_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX in place of TensorRT: it has the same calls, and its cache is never of use."""
    monkeypatch.setattr(engine_module, "target_of", lambda trt: "tensorrt")
    cache = tmp_path / "caches" / "timing.cache"
    order = order_of(
        small_graphs.good(tmp_path / "good.onnx"), compute_capabilities=("8.6",), timing_cache=cache
    )
    _, record = build_engine(rtx, order, CARD, Told())
    assert (record.target, record.gpu, record.driver) == ("tensorrt", CARD.gpu, CARD.driver)
    first = cache.read_bytes()
    assert first
    build_engine(rtx, order, CARD, Told())
    cache.write_bytes(b"of another machine")
    build_engine(rtx, order, CARD, Told())
    assert cache.read_bytes() != b"of another machine"
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"file/timing\.cache cannot be written"):
        build_engine(rtx, replace(order, timing_cache=tmp_path / "file" / "timing.cache"), CARD, Told())


def test_what_another_card_measured_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TensorRT says so by False, or by no cache at all; TensorRT-RTX never does, so a double says it."""

    class ConfigDouble:
        def __init__(self, refuses: bool) -> None:
            self.refuses = refuses
            self.caches: list[Any] = []

        def create_timing_cache(self, saved: bytes) -> bytes | None:
            return None if saved and not self.refuses else saved

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self.caches.append(cache)
            return not cache

    path = tmp_path / "timing.cache"
    path.write_bytes(b"of another card")
    for refuses, tried in ((True, [b"of another card", b""]), (False, [b""])):
        config = ConfigDouble(refuses)
        engine_module._load_timing_cache(config, path)
        assert config.caches == tried
    assert "all layers are measured anew" in caplog.text
