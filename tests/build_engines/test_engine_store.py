"""Engines come into their folder whole or not at all, and are not built twice."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from build_engines.engine_network import Order
from build_engines.engine_store import (
    building_in,
    plan_name,
    remove_unreadable,
    unchanged_engine,
    write_engine,
)
from build_engines.errors import EngineError
from edge.bundle import file_sha256
from edge.engine_files import EngineFile, EngineRecord, Machine, engines_of
from edge.errors import BackendError
from edge.manifest import GateResult

CARD = Machine("NVIDIA RTX A2000 12GB", "8.6", "580.65.06", 12_000_000_000)


@pytest.fixture
def order(tmp_path: Path) -> Order:
    graph = tmp_path / "detector.fp16.onnx"
    graph.write_bytes(b"stands for a graph")
    return Order(graph, "tiles", frozenset({"boxes"}), 416, 4, ("8.6", "12.0"))


def record_of(order: Order, plan: bytes, **changes: object) -> EngineRecord:
    record = EngineRecord(
        target="tensorrt_rtx",
        graph=order.onnx_path.name,
        onnx_sha256=file_sha256(order.onnx_path),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        batch=order.batch,
        builder_level=order.builder_level,
        workspace_bytes=order.workspace_bytes,
        inputs={},
        outputs={},
        precision="f16",
        layer_types={"HALF": 3},
        library_version="1.7.1",
        compute_capabilities=order.compute_capabilities,
        built_at="2026-01-01T00:00:00+00:00",
        build_s=1,
    )
    return record.model_copy(update=changes)


def stored(order: Order, plan: bytes = b"plan", **changes: object) -> EngineFile:
    folder = order.onnx_path.parent / "engines" / "tensorrt_rtx"
    name = plan_name("tensorrt_rtx", order, None)
    return write_engine(folder / name, plan, record_of(order, plan, **changes))


def test_a_plan_is_named_for_the_cards_that_it_is_for(order: Order) -> None:
    assert plan_name("tensorrt_rtx", order, CARD) == "detector.fp16-b4-sm86-sm120.plan"
    assert plan_name("tensorrt", order, CARD) == "detector.fp16-b4-nvidia-rtx-a2000-12gb.plan"


def test_what_was_written_is_what_the_station_reads(order: Order) -> None:
    stored(order)
    (engine,) = engines_of(order.onnx_path.parent, "tensorrt_rtx")
    assert engine.read() == b"plan"
    assert engine.record == record_of(order, b"plan")
    assert sorted(path.suffix for path in engine.plan.parent.iterdir()) == [".json", ".plan"]


def test_two_builds_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with building_in(tmp_path / "engines"):
        with building_in(tmp_path / "other"):
            pass
        with (
            pytest.raises(
                EngineError, match=r"^Another build is under way in .*engines; wait for its end, or"
            ),
            building_in(tmp_path / "engines"),
        ):
            pass
    with building_in(tmp_path / "engines"):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from build_engines.engine_store import write_engine
from edge.engine_files import EngineRecord

{name}_calls = 0
real = os.{name}
def deadly(*args, **kwargs):
    global {name}_calls
    {name}_calls += 1
    if {name}_calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
os.{name} = deadly
write_engine(Path({path!r}), b"new plan", EngineRecord.model_validate_json({record!r}))
"""


@pytest.mark.parametrize(
    ("name", "call", "survives"),
    [("fsync", 1, "old"), ("replace", 1, "old"), ("replace", 2, "none"), ("fsync", 4, "new")],
)
def test_a_build_that_is_killed_leaves_the_old_engine_or_none(
    order: Order, name: str, call: int, survives: str
) -> None:
    old = stored(order, b"old plan")
    new = record_of(order, b"new plan").model_dump_json()
    code = KILLED.format(name=name, call=call, path=str(old.plan), record=new)
    ended = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ})
    assert ended.returncode == -signal.SIGKILL
    (engine,) = engines_of(order.onnx_path.parent, "tensorrt_rtx")
    if survives == "none":
        with pytest.raises(BackendError, match="is not the plan that its record describes; run"):
            engine.read()
    else:
        assert engine.read() == f"{survives} plan".encode()
    assert unchanged_engine(order.onnx_path.parent, "tensorrt_rtx", order, "1.7.1", None) == (
        None if survives == "none" else engine
    )
    assert stored(order, b"new plan").read() == b"new plan"
    assert sorted(path.suffix for path in engine.plan.parent.iterdir()) == [".json", ".plan"]


def test_a_folder_that_cannot_be_written_is_told_with_the_size(order: Order) -> None:
    (order.onnx_path.parent / "engines").write_text("a file where a folder is needed")
    with pytest.raises(EngineError, match=r"sm86-sm120\.plan cannot be written \(.*, 0 MB\); make room"):
        stored(order)


def found(order: Order, version: str = "1.7.1") -> EngineFile | None:
    return unchanged_engine(order.onnx_path.parent, "tensorrt_rtx", order, version, None)


def test_an_engine_is_unchanged_while_all_that_made_it_is(order: Order) -> None:
    assert found(order) is None
    engine = stored(order)
    assert found(order) == engine
    assert found(order, "1.8.0") is None
    order.onnx_path.write_bytes(b"another graph")
    assert found(order) is None


def test_a_damaged_or_missing_plan_is_built_again(order: Order) -> None:
    engine = stored(order)
    engine.plan.write_bytes(b"plam")
    assert found(order) is None
    engine.plan.unlink()
    assert found(order) is None


def test_an_engine_that_failed_its_gate_is_built_again(order: Order) -> None:
    gate = GateResult(
        backend="tensorrt_rtx", precision="f16", passed=False, images="all", box_px=9, score=0, probability=0
    )
    stored(order, gate=gate)
    assert found(order) is None
    engine = stored(order, gate=gate.model_copy(update={"passed": True}))
    assert found(order) == engine


def test_an_engine_of_another_card_is_no_engine_of_tensorrt(order: Order) -> None:
    folder = order.onnx_path.parent / "engines" / "tensorrt"
    for gpu, expected in (("NVIDIA RTX A2000 12GB", True), ("NVIDIA RTX A2000-12GB", False)):
        record = record_of(order, b"plan", target="tensorrt", gpu=gpu)
        write_engine(folder / plan_name("tensorrt", order, CARD), b"plan", record)
        engine = unchanged_engine(order.onnx_path.parent, "tensorrt", order, "1.7.1", CARD)
        assert (engine is not None) == expected


def test_a_record_of_another_version_goes_with_its_plan(
    order: Order, caplog: pytest.LogCaptureFixture
) -> None:
    kept = stored(order)
    foreign = kept.plan.with_name("detector.fp16-b9-sm75.json")
    foreign.write_text('{"schema_version": 2}')
    foreign.with_suffix(".plan").write_bytes(b"plan")
    with caplog.at_level("WARNING"):
        assert found(order) == kept  # it does not hide the others
    assert "no engine record of this version" in caplog.text
    remove_unreadable(order.onnx_path.parent, "tensorrt_rtx")
    assert found(order) == kept
    assert not foreign.with_suffix(".plan").exists()
