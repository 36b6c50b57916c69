"""The TensorRT session on doubles of TensorRT's module and of a card. No GPU has run it."""

import logging
from pathlib import Path

import numpy as np
import pytest

from edge.backends.base import Session, find_backend
from edge.backends.tensorrt_log import library_logger
from edge.bundle import Bundle
from edge.demo.renderer import draw_field, draw_tile
from edge.errors import BackendError
from edge.images import ImageLimits, decode
from edge.pipeline import Pipeline, open_pipeline
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.engines import BATCHES, add_engine, backend_on, classifier_on, with_engines
from tests.edge.backends.fake_card import FakeCard
from tests.real_files import data_path

CLASSIFIER = "classifier.fp16.onnx"


def pipeline_on(card: FakeCard, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    with monkeypatch.context() as patched:
        patched.setattr("edge.pipeline.find_backend", lambda name, server_url: backend_on(card))
        return open_pipeline(bundle, "tensorrt")


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 192, 192, 3), np.uint8)


def reference(bundle: Bundle) -> Session:
    """The same graph on ONNX Runtime itself."""
    assert bundle.classifier is not None
    spec = bundle.classifier
    return find_backend("onnxruntime").open(bundle.path, spec, "f16")


def require_the_same_findings(ours: Pipeline, theirs: Pipeline, images: list[np.ndarray]) -> int:
    leukocytes = 0
    for rgb in images:
        found, expected = ours.read(rgb), theirs.read(rgb)
        assert [f.label for f in found] == [f.label for f in expected]
        for a, b in zip(found, expected, strict=True):
            assert a.box_xyxy == pytest.approx(b.box_xyxy, abs=1e-3)
            assert a.detection_score == pytest.approx(b.detection_score, abs=1e-4)
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4)
        leukocytes += len(found)
    return leukocytes


def test_drawn_smears_have_the_findings_of_onnx_runtime(
    card: FakeCard, equipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [draw_tile(seed).rgb for seed in range(6)] + [draw_field(3, cells=30, size_wh=(1920, 1440)).rgb]
    with (
        pipeline_on(card, equipped, monkeypatch) as ours,
        open_pipeline(equipped, "onnxruntime", "f16") as theirs,
    ):
        assert ours.engine_id.startswith("tensorrt:f16:")
        assert require_the_same_findings(ours, theirs, images) > 20
    assert card.replays > 0  # the recorded graphs were used


def test_real_smears_have_the_findings_of_onnx_runtime(
    card: FakeCard, equipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(data_path("smears/images").glob("*.jpg"))[::40]
    images = [decode(path.read_bytes(), ImageLimits()) for path in paths]
    with (
        pipeline_on(card, equipped, monkeypatch) as ours,
        open_pipeline(equipped, "onnxruntime", "f16") as theirs,
    ):
        assert require_the_same_findings(ours, theirs, images) >= len(images) // 2


@pytest.mark.parametrize("count", [1, 2, 4, 5, 16, 17, 21, 33])
def test_a_batch_of_any_size_is_padded_or_split(card: FakeCard, equipped: Bundle, count: int) -> None:
    session = classifier_on(card, equipped)
    batch = crops(count)
    found = session.run(batch)["probabilities"]
    expected = np.concatenate([reference(equipped).run(one[None])["probabilities"] for one in batch])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    session.close()


def test_the_smallest_plan_that_holds_a_batch_is_run(card: FakeCard, equipped: Bundle) -> None:
    session = classifier_on(card, equipped)
    runs = []
    for count in (1, 3, 16, 17):
        before = card.waits
        session.run(crops(count))
        runs.append(card.waits - before)
    assert runs == [1, 1, 1, 2]
    session.close()


def test_what_pads_a_batch_is_blank_and_not_the_image_before(card: FakeCard, equipped: Bundle) -> None:
    session = classifier_on(card, equipped)
    session.run(crops(4))
    found = session.run(crops(3))["probabilities"]
    assert found.shape == (3, 15)
    (padded,) = [block for block in card.blocks.values() if block.size == 4 * 192 * 192 * 3]
    assert (padded.reshape(4, -1).max(1) > 0).tolist() == [True, True, True, False]
    session.close()


def test_every_shape_is_warm_before_the_first_image(card: FakeCard, equipped: Bundle) -> None:
    session = classifier_on(card, equipped)
    assert card.waits == 3 * len(BATCHES[CLASSIFIER])
    assert card.replays == len(BATCHES[CLASSIFIER])
    blocks = len(card.blocks)
    for count in (1, 4, 16):
        session.run(crops(count))
    assert len(card.blocks) == blocks
    session.close()


def test_without_graphs_kernels_are_launched_plainly_and_that_is_said_once(
    card: FakeCard, equipped: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    session = classifier_on(card, equipped, graphs=False)
    np.testing.assert_allclose(
        session.run(crops(2))["probabilities"], reference(equipped).run(crops(2))["probabilities"], atol=1e-4
    )
    assert card.replays == 0
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert said == [
        "Without CUDA graphs, kernels are launched one by one: cuda-bindings is not installed (double)."
    ]
    session.close()


def test_close_gives_all_memory_of_the_card_back(card: FakeCard, equipped: Bundle) -> None:
    session = classifier_on(card, equipped)
    assert card.blocks
    session.close()
    session.close()
    assert not card.blocks


def test_a_session_that_cannot_be_opened_leaves_nothing_on_the_card(
    card: FakeCard, bundle: Bundle, tmp_path: Path
) -> None:
    equipped = with_engines(bundle, tmp_path / "bundle")
    add_engine(equipped.path, CLASSIFIER, 16, fails_at=1)
    with pytest.raises(BackendError, match=r"b16-double\.plan failed \(.*illegal memory access.*\); restart"):
        classifier_on(card, equipped)
    assert not card.blocks


def test_a_buffer_that_is_too_small_is_an_error_and_no_silent_overwrite(
    card: FakeCard, equipped: Bundle
) -> None:
    with pytest.raises(BackendError, match="illegal address"):
        classifier_on(card, equipped, shrink=1)


def test_an_engine_that_fails_at_work_is_an_error(card: FakeCard, bundle: Bundle, tmp_path: Path) -> None:
    equipped = with_engines(bundle, tmp_path / "bundle")
    add_engine(equipped.path, CLASSIFIER, 1, fails_at=4)  # two to warm up, one to record
    session = classifier_on(card, equipped, graphs=False)
    with pytest.raises(
        BackendError, match=r"b1-double\.plan failed \(.*illegal memory.*\); restart the stat"
    ):
        session.run(crops(1))
    session.close()


def test_the_session_carries_the_hash_of_its_plans(card: FakeCard, bundle: Bundle, tmp_path: Path) -> None:
    one = with_engines(bundle, tmp_path / "one")
    session = classifier_on(card, one)
    add_engine(one.path, CLASSIFIER, 4, fails_at=99)
    assert len(session.build) == 64
    assert classifier_on(card, one).build != session.build


def test_of_two_engines_of_one_batch_the_one_for_fewer_cards_is_taken(
    card: FakeCard, bundle: Bundle, tmp_path: Path
) -> None:
    equipped = with_engines(bundle, tmp_path / "bundle")
    cards = ("7.5", "8.6", "8.9")
    for stem in ("a", "z"):
        add_engine(
            equipped.path, CLASSIFIER, 1, stem=stem, context=False, changes={"compute_capabilities": cards}
        )
    classifier_on(card, equipped).close()


def test_the_library_s_messages_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    logger = library_logger(fake_tensorrt)
    severity = fake_tensorrt.ILogger.Severity
    with caplog.at_level(logging.DEBUG):
        logger.log(severity.WARNING, "two\n lines")
        logger.log(severity.VERBOSE, "chatter")
        logger.log(severity.INTERNAL_ERROR, "broken")
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.WARNING, "two lines"),
        (logging.DEBUG, "chatter"),
        (logging.ERROR, "broken"),
    ]
    assert logger is library_logger(fake_tensorrt)  # TensorRT keeps a pointer to it
    assert logger.take_errors() == ["broken"]


@pytest.mark.parametrize(
    ("graph", "batch", "output"),
    [
        *((CLASSIFIER, batch, "probabilities") for batch in (1, 4, 16)),
        *(("detector.fp16.onnx", batch, "boxes") for batch in (1, 4)),
    ],
)
def test_an_engine_that_answers_otherwise_at_any_size_of_batch_is_found_out_at_the_start(
    card: FakeCard,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    graph: str,
    batch: int,
    output: str,
) -> None:
    equipped = with_engines(bundle, tmp_path / "bundle")
    add_engine(equipped.path, graph, batch, reverses=output)
    with pytest.raises(BackendError, match=f"^{graph} on tensorrt in f16 does not give the known answers"):
        pipeline_on(card, equipped, monkeypatch)
    assert not card.blocks


def test_stage_times_come_from_the_card(card: FakeCard, equipped: Bundle) -> None:
    session = classifier_on(card, equipped)
    session.run(crops(1))
    assert list(session.stage_ms) == ["upload", "compute", "download"]
    session.close()
