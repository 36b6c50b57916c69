"""Engines that do not fit, and files that are no plans, on the double of TensorRT."""

import errno
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge.backends.tensorrt import has_ultralytics_header
from edge.bundle import Bundle
from edge.engine_files import TensorSpec, engines_of
from edge.errors import BackendError
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.engines import add_engine, classifier_on, with_engines
from tests.edge.backends.fake_card import FakeCard

CLASSIFIER = "classifier.fp16.onnx"
BYTES = TensorSpec(shape=(1, 192, 192, 3), dtype="uint8")
REFUSALS = [
    ({"context": False}, {}, r"gets no context \(CUDA out of memory\); free memory of the card\."),
    ({"refuses": "probabilities"}, {}, r"does not take the address of 'probabilities' \(.*\); run `python"),
    (
        {"shapes": {"crops": (4, 192, 192, 3)}},
        {},
        r"has crops uint8 \[4, 192, 192, 3\], but its record says crops uint8 \[1, 192, 192, 3\]; run",
    ),
    ({"types": {"probabilities": "HALF"}}, {}, r"has probabilities float16 .* record says .* float32"),
    ({"types": {"probabilities": "BF16"}}, {}, r"has probabilities DataType\.BF16 .* record says .* float32"),
    ({"names": {"crops": "images"}}, {}, r"has images uint8 .*, but its record says crops uint8"),
    (
        {"shapes": {"crops": (1, 96, 96, 3)}},
        {"inputs": {"crops": TensorSpec(shape=(1, 96, 96, 3), dtype="uint8")}},
        r"takes crops uint8 \[1, 96, 96, 3\], but is given uint8 \[1, 192, 192, 3\]; run",
    ),
    (
        {"types": {"crops": "FLOAT"}},
        {"inputs": {"crops": BYTES.model_copy(update={"dtype": "float32"})}},
        r"takes crops float32 .* but is given uint8",
    ),
    (
        {"shapes": {"probabilities": (1, -1)}},
        {"outputs": {"probabilities": TensorSpec(shape=(1, -1), dtype="float32")}},
        r"gives probabilities float32 \[1, -1\], but its batch is 1 and every size must be known; run",
    ),
    (
        {},
        {"library_version": "10.13.0.35"},
        r"is for tensorrt 10\.13\.0\.35 and this machine has 10\.16\.1\.11;",
    ),
    (
        {},
        {"compute_capabilities": ("8.9",)},
        r"compute capability 8\.9 and this machine's Double of a card has 8\.6",
    ),
]


@pytest.mark.parametrize(("faults", "changes", "sentence"), REFUSALS, ids=range(len(REFUSALS)))
def test_an_engine_that_does_not_fit_is_refused_in_one_line(
    card: FakeCard,
    bundle: Bundle,
    tmp_path: Path,
    faults: dict[str, Any],
    changes: dict[str, Any],
    sentence: str,
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in (CLASSIFIER,):
        (folder / name).write_bytes((bundle.path / name).read_bytes())
    add_engine(folder, CLASSIFIER, 1, changes=changes, **faults)
    with pytest.raises(BackendError, match=sentence) as caught:
        classifier_on(card, replace(bundle, path=folder))
    assert "\n" not in str(caught.value)
    assert not card.blocks


ULTRALYTICS = json.dumps({"task": "detect", "stride": 32}).encode()


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (
            len(ULTRALYTICS).to_bytes(4, "little") + ULTRALYTICS + b"plan",
            r"was made by `yolo export`, which puts",
        ),
        (
            b"something else",
            r"is no plan that this machine can load \(.*magic tag\); run `python build_engines",
        ),
    ],
)
def test_a_file_that_is_no_plan_is_refused(
    card: FakeCard, bundle: Bundle, tmp_path: Path, plan: bytes, sentence: str
) -> None:
    equipped = with_engines(bundle, tmp_path / "bundle")
    path = add_engine(equipped.path, CLASSIFIER, 4, changes={"plan_sha256": sha256(plan).hexdigest()})
    path.write_bytes(plan)
    with pytest.raises(BackendError, match=sentence):
        classifier_on(card, equipped)
    assert not card.blocks


def test_a_library_that_does_not_start_is_told_with_its_reason(
    card: FakeCard, equipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_runtime(logger: fake_tensorrt.ILogger) -> None:
        logger.log(fake_tensorrt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(fake_tensorrt, "Runtime", no_runtime)
    sentence = r"10\.16\.1\.11 does not start \(CUDA initialization failure with error: 35\.\); update the"
    with pytest.raises(BackendError, match=sentence):
        classifier_on(card, equipped)


def test_engines_that_may_not_be_read_are_told(
    card: FakeCard, equipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_not(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", may_not)
    sentence = r"engines/tensorrt cannot be read \(Permission denied\); give the station's user the right"
    with pytest.raises(BackendError, match=sentence):
        classifier_on(card, equipped)


def test_a_plan_that_is_replaced_while_it_is_read_is_what_its_record_describes_or_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`build.py` may put another one there at any moment."""
    equipped = with_engines(bundle, tmp_path / "bundle")
    engine = engines_of(equipped.path, "tensorrt")[0]
    real, opened = engine.plan.read_bytes(), []

    def replaced_after(path: Path, *args: Any, **options: Any) -> Any:
        stream = real_open(path, *args, **options)
        if path == engine.plan:
            opened.append(path)
            path.unlink()
            with real_open(path, "wb") as other:
                other.write(b"another plan")
        return stream

    real_open = Path.open
    monkeypatch.setattr(Path, "open", replaced_after)
    assert engine.read() == real
    with pytest.raises(BackendError, match="is not the plan that its record describes"):
        engine.read()
    assert len(opened) == 2


def test_a_plain_plan_is_not_taken_for_one_of_ultralytics() -> None:
    assert not has_ultralytics_header(b"")
    assert not has_ultralytics_header(b"ptrt{ and the rest")
    assert not has_ultralytics_header((6).to_bytes(4, "little") + b"{brace")
    assert not has_ultralytics_header((2**31).to_bytes(4, "little") + b"{}")
    assert has_ultralytics_header((2).to_bytes(4, "little") + b"{}plan")
