"""Programs of test_cuda.py, each for a process whose libcuda.so.1 is the double of tests/fakecuda.

    python -m tests.edge.backends.card_programs PROGRAM ARGUMENT...

In them `tensorrt` is the double of TensorRT's module; pycuda and cuda-bindings are the real ones. Each prints
what it found as JSON, on its last line.
"""

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge.backends import cuda
from edge.bundle import Bundle
from edge.demo.renderer import draw_tile
from edge.errors import BackendError, EngineAway
from edge.pipeline import Pipeline, open_pipeline
from tests.edge.backends import fake_tensorrt
from tests.edge.backends.fake_card import DriverCard

KINDS = ("device", "pinned", "streams", "events", "graphs")


def _open(bundle: str) -> Pipeline:
    return open_pipeline(Bundle.load(Path(bundle)), "tensorrt")


def _counts(card: DriverCard) -> list[int]:
    gc.collect()
    return [card.count(kind) for kind in KINDS]


def probe(card: DriverCard) -> Any:
    """The card, or why there is none."""
    try:
        return str(cuda.probe())
    except EngineAway as error:
        return f"EngineAway: {error}"


def thousand(card: DriverCard, bundle: str) -> Any:
    """1,000 images, and what is held of the card before, early, late and after."""
    tiles = [draw_tile(seed).rgb for seed in range(5)]
    before = _counts(card)
    found = []
    with _open(bundle) as pipeline:
        for number in range(1000):
            findings = pipeline.read(tiles[number % len(tiles)])
            found.append(len(findings))
            if number == 9:
                early = _counts(card)
        late, times = _counts(card), dict(pipeline._sessions[0].stage_ms)
    return {
        "held": [before, early, late, _counts(card)],
        "leukocytes": sum(found),
        "launches": card.count("launches"),
        "stages": {stage: ms > 0 for stage, ms in times.items()},
    }


def answers(card: DriverCard, bundle: str) -> Any:
    """Findings of three drawn tiles."""
    with _open(bundle) as pipeline:
        read = [pipeline.read(draw_tile(seed).rgb) for seed in range(3)]
        return {
            "findings": [[f.label, *f.box_xyxy, f.class_score] for findings in read for f in findings],
            "launches": card.count("launches"),
        }


def answers_without_bindings(card: DriverCard, bundle: str) -> Any:
    """The same where cuda-bindings is not installed."""
    sys.modules["cuda.bindings"] = None  # type: ignore[assignment]
    return answers(card, bundle)


def overflow(card: DriverCard) -> Any:
    return _overflow() | {"held": _counts(card)[:2]}


def _overflow() -> dict[str, Any]:
    """Copies of more than a buffer holds, a buffer larger than the card, a wait while work is recorded."""
    memory = cuda.CudaMemory()
    small, large = memory.buffer((4,), np.uint8), memory.buffer((400,), np.uint8)
    wrong = cuda.Buffer(large.host, small.address)
    said = []
    for call in (
        lambda: memory.run([wrong], lambda: None, []),
        lambda: memory.run([], lambda: None, [wrong]),
        lambda: memory.buffer((1 << 30,), np.uint8),
        lambda: memory.capture(lambda: memory.run([], lambda: None, [])),
    ):
        try:
            call()
        except BackendError as error:
            said.append(str(error))
    large.host[:] = np.arange(400) % 256
    doubled = memory.capture(lambda: None)
    memory.run([large], doubled, [large])  # all of these can be survived
    intact = bool((large.host == np.arange(400) % 256).all())
    memory.close()
    return {"said": said, "intact": intact}


def fails(card: DriverCard, bundle: str) -> Any:
    """A pipeline that reads until CUDA fails, as LIBCUDA_DOUBLE_FAIL orders."""
    read = 0
    try:
        with _open(bundle) as pipeline:
            for seed in range(20):
                pipeline.read(draw_tile(seed).rgb)
                read += 1
    except BackendError as error:
        return {"read": read, "said": str(error), "can_pass": isinstance(error, EngineAway)}
    return {"read": read, "said": "", "can_pass": False}


def refused_by_rtx(card: DriverCard, bundle: str) -> Any:
    """Why the real module of TensorRT-RTX does not load a bundle's engines."""
    try:
        open_pipeline(Bundle.load(Path(bundle)), "tensorrt_rtx").close()
    except BackendError as error:
        return str(error)
    return ""


def watch(card: DriverCard, *args: str) -> Any:
    """`edge-watch`."""
    from edge.cli import watch as command

    command(list(args))


PROGRAMS: dict[str, Callable[..., Any]] = {
    program.__name__: program
    for program in (
        probe,
        thousand,
        answers,
        answers_without_bindings,
        overflow,
        fails,
        refused_by_rtx,
        watch,
    )
}

if __name__ == "__main__":
    sys.modules["tensorrt"] = fake_tensorrt
    the_card = DriverCard()
    fake_tensorrt.card = the_card
    print(json.dumps(PROGRAMS[sys.argv[1]](the_card, *sys.argv[2:])))
