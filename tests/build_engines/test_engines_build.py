"""All engines of a bundle are built, tried on the card before the station sees them, and not built twice."""

import io
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from build_engines import engines_build
from build_engines.engine_store import building_in
from build_engines.engines_build import build_on_card, build_untried
from build_engines.errors import EngineError
from build_engines.gate import cpu_reference, gate, judge
from build_engines.job import Job
from build_engines.reference import Reference, gate_images
from edge.backends.base import Backend, Outputs, Session
from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.bundle import Bundle, embedded_bundle
from edge.engine_files import Machine, engines_of, fitting_engines
from edge.manifest import NetworkSpec
from edge.selftest import TOLERANCES

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install '.[rtx]'")

CARD = Machine("Double of an RTX 3060", "8.6", "580.65.06", 12_000_000_000)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return cpu_reference(Bundle.load(embedded_bundle()), *gate_images(None, 3), 8)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.load(Path(shutil.copytree(embedded_bundle(), tmp_path / "bundle")))


@pytest.fixture
def lines() -> Console:
    """A journal: no terminal."""
    return Console(file=io.StringIO(), width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class CardDouble(Backend):
    """Stands for the card: takes the engines that fit it, and computes their graphs with ONNX Runtime.

    Args:
        bundle: the real one, which must not change while engines are tried.
        damage: changes its answers.
    """

    name = "tensorrt_rtx"

    def __init__(self, bundle: Bundle, damage: Any = None) -> None:
        self.bundle = bundle
        self.damage = damage
        self.batches: dict[str, set[int]] = {}

    def precisions(self) -> list[str]:
        return ["f16"]

    def open(
        self, bundle_path: Path, spec: NetworkSpec, precision: str, *, in_lanes: bool = False
    ) -> Session:
        assert bundle_path != self.bundle.path
        engines = fitting_engines(bundle_path, "tensorrt_rtx", spec.graph.fp16, rtx.__version__, CARD)
        assert all(engine.read() for engine in engines)
        inner = OnnxRuntimeBackend().open(bundle_path, spec, precision)
        return SessionDouble(inner, self.damage, self.batches.setdefault(spec.graph.fp16, set()))


class SessionDouble(Session):
    def __init__(self, inner: Session, damage: Any, batches: set[int]) -> None:
        super().__init__("double", inner.side_px)
        self.inner, self.damage, self.batches = inner, damage, batches

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        self.batches.add(len(batch))
        answers = {name: values.copy() for name, values in self.inner.run(batch).items()}
        if self.damage is not None:
            self.damage(answers)
        return answers

    def close(self) -> None:
        self.inner.close()


def names_in(bundle: Bundle) -> set[str]:
    return {engine.plan.name for engine in engines_of(bundle.path, "tensorrt_rtx")}


ALL_SIZES = {
    *(f"detector.fp16-b{batch}-sm86.plan" for batch in (1, 4)),
    *(f"classifier.fp16-b{batch}-sm86.plan" for batch in (1, 4, 16)),
}


def test_engines_for_named_cards_are_built_without_one_and_only_once(bundle: Bundle, lines: Console) -> None:
    job = Job(rtx, bundle, bundle.path, None, ("12.0", "8.6"))
    engines = build_untried(job, lines)
    assert names_in(bundle) == {name.replace("sm86", "sm86-sm120") for name in ALL_SIZES}
    assert text_of(lines).count(": built in") == 5
    times = [engine.plan.stat().st_mtime_ns for engine in engines]
    again = build_untried(job, lines)
    assert [engine.plan.stat().st_mtime_ns for engine in again] == times
    assert text_of(lines).count(": built in") == 5
    assert text_of(lines).count("unchanged, not built again") == 5
    assert Bundle.load(bundle.path).id == bundle.id
    for capability in ("8.6", "12.0"):
        card = Machine("a card", capability, "", 0)
        assert (
            len(fitting_engines(bundle.path, "tensorrt_rtx", "detector.fp16.onnx", rtx.__version__, card))
            == 2
        )


def test_only_what_changed_is_built_again(bundle: Bundle, lines: Console) -> None:
    job = Job(rtx, bundle, bundle.path, None, ("8.6",), batches=(1,))
    detector, classifier = build_untried(job, lines)
    before = classifier.plan.stat().st_mtime_ns
    detector.plan.write_bytes(b"damaged")
    build_untried(job, lines)
    assert detector.plan.stat().st_size > 1_000_000
    assert classifier.plan.stat().st_mtime_ns == before
    build_untried(Job(rtx, bundle, bundle.path, None, ("8.6",), batches=(1,), rebuild=True), lines)
    assert classifier.plan.stat().st_mtime_ns > before


def test_turing_has_plans_of_its_own(bundle: Bundle) -> None:
    orders = Job(rtx, bundle, bundle.path, None, ("7.5", "12.0", "8.6"), batches=(1,)).orders()
    assert {order.compute_capabilities for order in orders} == {("8.6", "12.0"), ("7.5",)}


def test_what_can_be_built_is_built_before_the_rest_is_told(bundle: Bundle, lines: Console) -> None:
    (bundle.path / "detector.fp16.onnx").write_bytes(b"damaged after it was loaded")
    with pytest.raises(
        EngineError, match=r"^1 of 2 engines were not built; of the first: .*detector\.fp16\.onnx"
    ):
        build_untried(Job(rtx, bundle, bundle.path, None, ("8.6",), batches=(1,)), lines)
    assert names_in(bundle) == {"classifier.fp16-b1-sm86.plan"}


def test_without_a_card_it_must_be_told_for_which_to_build(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"give --compute-capability, one or more of 7\.5, 8\.0, 8\.6"):
        Job(rtx, bundle, bundle.path, None).orders()


def test_every_engine_answers_at_its_own_batch_before_the_station_sees_it(
    bundle: Bundle, lines: Console, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = CardDouble(bundle)
    monkeypatch.setattr(engines_build, "find_backend", lambda name: card)
    job = Job(rtx, bundle, bundle.path, CARD)
    (bundle.path / "engines" / ".build" / "engines").mkdir(parents=True)  # left by a build that was killed
    build_on_card(job, reference, lines)
    assert names_in(bundle) == ALL_SIZES
    assert card.batches == {"detector.fp16.onnx": {1, 4}, "classifier.fp16.onnx": {1, 4, 16}}
    for engine in engines_of(bundle.path, "tensorrt_rtx"):
        gate = engine.record.gate
        assert gate is not None
        assert gate.passed
        assert gate.images == "4 golden tiles and 3 drawn smears"
        assert (engine.record.gpu, engine.record.driver) == (CARD.gpu, CARD.driver)
        assert (gate.box_px > 0) == engine.plan.name.startswith("detector")
        assert engine.read()
    assert {path.name for path in (bundle.path / "engines").iterdir()} == {"tensorrt_rtx", ".build.lock"}
    card.batches.clear()
    build_on_card(job, reference, lines)
    assert text_of(lines).count("unchanged, not built again") == 5
    assert card.batches == {}


def test_a_second_build_of_a_bundle_is_refused(bundle: Bundle, lines: Console, reference: Reference) -> None:
    with building_in(bundle.path / "engines"):
        with pytest.raises(EngineError, match="Another build is under way"):
            build_on_card(Job(rtx, bundle, bundle.path, CARD), reference, lines)
        with pytest.raises(EngineError, match="Another build is under way"):
            build_untried(Job(rtx, bundle, bundle.path, None, ("8.6",)), lines)
    assert text_of(lines) == ""


def test_a_bundle_that_cannot_be_written_is_told_in_one_sentence(
    bundle: Bundle, lines: Console, reference: Reference
) -> None:
    job = Job(rtx, bundle, bundle.path, CARD, batches=(1,))
    (bundle.path / "engines").write_text("a file where a folder is needed")
    with pytest.raises(EngineError, match=r"engines cannot be written \(File exists\); make room, run it as"):
        build_on_card(job, reference, lines)
    (bundle.path / "engines").unlink()
    (bundle.path / "engines/tensorrt_rtx/a.json").mkdir(parents=True)
    with pytest.raises(EngineError, match=r"tensorrt_rtx cannot be written \("):
        build_on_card(job, reference, lines)


def test_engines_that_were_built_elsewhere_are_tried_and_not_built_again(
    bundle: Bundle, lines: Console, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_untried(Job(rtx, bundle, bundle.path, None, ("8.6",), batches=(1,)), lines)
    monkeypatch.setattr(engines_build, "find_backend", lambda name: CardDouble(bundle))
    build_on_card(Job(rtx, bundle, bundle.path, CARD, batches=(1,)), reference, lines)
    assert text_of(lines).count(": built in") == 2
    assert all(engine.record.gate for engine in engines_of(bundle.path, "tensorrt_rtx"))


def shift_boxes(answers: Outputs) -> None:
    if "boxes" in answers:
        answers["boxes"][-1] += 30


def lose_cells(answers: Outputs) -> None:
    if "scores" in answers:
        answers["scores"][:] = 0


def swap_classes(answers: Outputs) -> None:
    if "probabilities" in answers:
        answers["probabilities"][:] = answers["probabilities"][:, ::-1]


def break_down(answers: Outputs) -> None:
    for values in answers.values():
        if values.dtype.kind == "f":
            values[:] = np.nan


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            shift_boxes,
            r"detector\.fp16-b1-sm86\.plan did not pass .*the most on (golden tile|drawn smear) \d",
        ),
        (lose_cells, r"detector\.fp16-b1-sm86\.plan did not pass .*the most on"),
        (
            swap_classes,
            r"classifier\.fp16-b1-sm86\.plan did not pass .*(golden crop|cell 1 of drawn smear) \d",
        ),
        (break_down, r"did not pass .*a value of 'probabilities' that is not finite"),
    ],
)
def test_an_engine_that_answers_otherwise_never_comes_to_the_station(
    damage: Any,
    said: str,
    bundle: Bundle,
    lines: Console,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build_untried(Job(rtx, bundle, bundle.path, None, ("8.6",), batches=(1,)), lines)
    before = {engine.plan: engine.record for engine in engines_of(bundle.path, "tensorrt_rtx")}
    monkeypatch.setattr(engines_build, "find_backend", lambda name: CardDouble(bundle, damage))
    with pytest.raises(EngineError, match=said):
        build_on_card(Job(rtx, bundle, bundle.path, CARD, batches=(1,), rebuild=True), reference, lines)
    assert {engine.plan: engine.record for engine in engines_of(bundle.path, "tensorrt_rtx")} == before
    assert {path.name for path in (bundle.path / "engines").iterdir()} == {"tensorrt_rtx", ".build.lock"}


@pytest.mark.parametrize("damage", [None, lose_cells])
def test_what_was_measured_for_an_engine_that_fails_is_not_used_again(
    damage: Any, bundle: Bundle, lines: Console, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next build would choose the same kernels."""
    cache = bundle.path / "timing.cache"
    cache.write_bytes(b"of this build")
    monkeypatch.setattr(Job, "timing_cache", cache)
    monkeypatch.setattr(engines_build, "find_backend", lambda name: CardDouble(bundle, damage))
    with nullcontext() if damage is None else pytest.raises(EngineError, match="did not pass its gate"):
        build_on_card(Job(rtx, bundle, bundle.path, CARD, batches=(1,)), reference, lines)
    assert cache.exists() == (damage is None)


def test_the_gate_names_the_image_that_strays_most(reference: Reference) -> None:
    """An engine that is right but for the third tile."""
    bundle = Bundle.load(embedded_bundle())
    inner = OnnxRuntimeBackend().open(bundle.path, bundle.detector, "f32")
    known = reference.answers.detectors[0]
    tile, boxes = known.inputs[2], known.outputs["boxes"][2][known.outputs["scores"][2] > 0.5]
    smallest_px = (boxes[:, 2:] - boxes[:, :2]).max(1).min()

    class WrongOnce(Session):
        def _run(self, batch: NDArray[np.uint8]) -> Outputs:
            answers = {name: values.copy() for name, values in inner.run(batch).items()}
            answers["boxes"] += 1.5 * np.array([(one == tile).all() for one in batch])[:, None, None]
            return answers

        def close(self) -> None: ...

    for batch in (1, 4):
        found, worst = judge(
            [WrongOnce("wrong", inner.side_px), None], reference, 0.4, TOLERANCES["f16"], batch
        )
        assert worst == "golden tile 3"
        assert found.box_px == pytest.approx(1.5 / max(smallest_px / 100, 1), abs=0.01)
    inner.close()


def test_the_processor_passes_the_gate_in_fp16_too(reference: Reference) -> None:
    bundle = Bundle.load(embedded_bundle())
    verdicts = gate(bundle.path, bundle.manifest.networks, reference, 0.4, ["onnxruntime"])
    assert [(one.name, one.result.passed) for one in verdicts] == [
        ("onnxruntime f32", True),
        ("onnxruntime f16", True),
    ]
    half = verdicts[1]
    assert half.result.box_px > verdicts[0].result.box_px
    assert half.worst
