"""Which engines are held side by side."""

from pathlib import Path
from typing import Any

import pytest

from edge.bench import engines
from edge.bench.engines import EngineChoice, open_engines, parse_engine, reference_of
from edge.errors import BenchError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openvino:bf16", ("openvino", "bf16")),
        ("onnxruntime", ("onnxruntime", "auto")),
    ],
)
def test_an_engine_is_a_backend_and_a_precision(text: str, expected: tuple[str, str]) -> None:
    assert parse_engine(text) == expected


@pytest.mark.parametrize("text", ["", ":f32", "openvino:", "a:b:c"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match="give BACKEND or BACKEND:PRECISION"):
        parse_engine(text)


def test_the_daemon_is_given_what_the_user_gave_and_no_more() -> None:
    choice = EngineChoice(Path("b"), "kserve", None, "http://h:1")
    assert choice.flags == ["--bundle", "b", "--backend", "kserve", "--server-url", "http://h:1"]
    assert EngineChoice().flags == []


class DoubleBundle:
    """A double of a bundle; it is its own manifest, and its own pipeline on an engine."""

    def __init__(self, name: str, engine_id: str = "") -> None:
        self.name = self.bundle_id = name
        self.engine_id = engine_id
        self.manifest = self

    def __enter__(self) -> "DoubleBundle":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def _doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(bundle: DoubleBundle, backend: str, precision: str, **_: Any) -> DoubleBundle:
        return DoubleBundle(bundle.name, f"{backend}:{precision}:0123abcd")

    monkeypatch.setattr(engines.Bundle, "load", lambda path: DoubleBundle(path.name))
    monkeypatch.setattr(engines, "open_pipeline", opened)


def names(*choices: EngineChoice) -> list[str]:
    with open_engines(choices) as opened:
        return [one.name for one in opened]


def test_engines_are_named_shortly_and_apart() -> None:
    f32 = EngineChoice(None, "openvino", "f32")
    assert names(f32, EngineChoice(None, "openvino", "bf16")) == ["openvino:f32", "openvino:bf16"]
    assert names(f32, f32, f32) == ["openvino:f32", "openvino:f32 (2)", "openvino:f32 (3)"]
    assert names(*(EngineChoice(Path(b), "openvino", "f32") for b in "ab")) == [
        "a on openvino:f32",
        "b on openvino:f32",
    ]


def test_the_reference_is_onnx_runtime_in_f32_or_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engines(
        [EngineChoice(None, "openvino", "f32"), EngineChoice(None, "onnxruntime", "f32")]
    ) as two:
        assert reference_of(two) is two[0]  # with another hash it is another engine
        monkeypatch.setattr(engines, "REFERENCE", "onnxruntime:f32:0123abcd")
        assert reference_of(two) is two[1]
