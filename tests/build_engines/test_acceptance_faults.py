"""For each step of an acceptance run a fault that makes it fail, and no other one. On doubles; no GPU."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest

from build_engines.acceptance import accept
from build_engines.acceptance_report import Report, Result
from edge.backends.cuda import Buffer
from tests.build_engines.acceptance_doubles import (
    FOUND,
    NAMES,
    StrayingMemory,
    build_double,
    results,
    run_on_doubles,
    shift_boxes,
    stray_on_the_second_image,
    why,
)
from tests.build_engines.fake_nvml import FakeNvml
from tests.edge.backends.fake_card import FakeCard

Options = dict[str, Any]
BREAKS = (sys.executable, "-S", "-c", "raise SystemExit('it broke')")


class Timeless(StrayingMemory):
    """A card that does not tell how long it took."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stage_ms = {}


class Fault:
    """What goes wrong in a run. `step` is the one that is at work."""

    def __init__(self, card: FakeCard) -> None:
        self.card = card
        self.step = ""
        self.slept = False
        self.leaked: list[bytearray] = []

    def watch(self, report: Report) -> None:
        self.step = next((one.name for one in report.steps if one.why == "the process died in it"), "")

    def a_card_that_others_use(self) -> Options:
        nvml = FakeNvml()
        nvml.used_bytes = 11_900_000_000
        return {"nvml": nvml}

    def a_full_disk(self) -> Options:
        return {"found": replace(FOUND, disk_bytes=5 * 10**8)}

    def an_engine_that_is_not_built(self) -> Options:
        def build_all_but_one(job: Any, console: Any) -> list[Any]:
            build_double(job, console)
            next((job.out / "engines" / "tensorrt").glob("classifier*b4*.json")).unlink()
            return []

        return {"build": build_all_but_one}

    def an_engine_that_gets_no_context(self) -> Options:
        return {"build": lambda job, console: build_double(job, console, context=False)}

    def known_answers_that_are_not_given(self) -> Options:
        def damage(inputs: list[Buffer], outputs: list[Buffer]) -> None:
            if self.step == "SELFTEST":
                shift_boxes(outputs)

        return {"damage": damage}

    def an_engine_that_strays_in_a_batch_of_four(self) -> Options:
        def damage(inputs: list[Buffer], outputs: list[Buffer]) -> None:
            for buffer in outputs if self.step == "GATE" else ():
                if buffer.host.shape[0] == 4 and buffer.host.shape[-1] == 4:
                    buffer.host[-1] += 30

        return {"damage": damage}

    def an_engine_that_strays_on_the_second_image(self) -> Options:
        return {"damage": stray_on_the_second_image}

    def a_process_that_breaks(self) -> Options:
        return {"cold_command": BREAKS}

    def a_card_without_times(self) -> Options:
        return {"make_memory": lambda: Timeless(self.card, lambda *_: None)}

    def a_card_that_forgets_in_a_pause(self) -> Options:
        def sleep(seconds: float) -> None:
            self.slept = True

        def damage(inputs: list[Buffer], outputs: list[Buffer]) -> None:
            if self.slept:
                shift_boxes(outputs)

        return {"damage": damage, "sleep": sleep}

    def no_cuda_graphs(self) -> Options:
        return {"memory_options": {"graphs": False}}

    def graphs_that_answer_otherwise(self) -> Options:
        def make() -> StrayingMemory:
            memory = StrayingMemory(self.card, lambda inputs, outputs: damage(outputs))
            capture = memory.capture

            def captured(launch: Callable[[], None]) -> Callable[[], None]:
                recorded.append(memory)
                return capture(launch)

            def damage(outputs: list[Buffer]) -> None:
                if self.step == "GRAPHS" and memory in recorded:
                    shift_boxes(outputs)

            memory.capture = captured
            return memory

        recorded: list[StrayingMemory] = []
        return {"make_memory": make}

    def a_leak_on_the_host(self) -> Options:
        def damage(inputs: list[Buffer], outputs: list[Buffer]) -> None:
            if self.step == "MEMORY":
                self.leaked.append(bytearray(os.urandom(1) * (2 << 20)))

        return {"damage": damage}

    def a_leak_on_the_card(self) -> Options:
        return {"nvml": FakeNvml(leak_bytes=2_000_000)}

    def a_card_that_is_too_hot(self) -> Options:
        return {"nvml": FakeNvml(slowed_by=pynvml.nvmlClocksEventReasonHwThermalSlowdown)}


@pytest.mark.parametrize(
    ("fault", "step", "not_run", "said"),
    [
        ("a_card_that_others_use", "PREFLIGHT", (), "100 MB of the card's memory are free, and 1000 MB are"),
        ("a_full_disk", "PREFLIGHT", NAMES[1:], r"0\.5 GB of disk are free"),
        (
            "an_engine_that_is_not_built",
            "BUILD",
            NAMES[2:],
            r"1 of 4 engines were not built, first that of classifier\.fp16\.onnx for 4 at a time",
        ),
        (
            "an_engine_that_gets_no_context",
            "DESERIALISE",
            NAMES[3:],
            r"detector\.fp16-b1-.*\.plan gets no context \(CUDA out of memory\)",
        ),
        (
            "known_answers_that_are_not_given",
            "SELFTEST",
            ("COLD",),
            r"known answers \(boxes inf px off",
        ),
        (
            "an_engine_that_strays_in_a_batch_of_four",
            "GATE",
            (),
            r"^detector\.fp16-b4-.* the most on (golden tile|drawn smear) \d",
        ),
        (
            "an_engine_that_strays_on_the_second_image",
            "PARITY",
            (),
            "^drawn smear 1 strays most: 1 cells on the card and 1 on onnxruntime f32, boxes (12|inf)",
        ),
        ("a_process_that_breaks", "COLD", (), r"cold start 1 ended with 1 \(it broke\)"),
        ("a_card_without_times", "LATENCY", (), "told no times of detect, upload, detect, compute"),
        ("a_card_that_forgets_in_a_pause", "IDLE", (), "after pause 1 of 0 s the answer .* is another one"),
        (
            "no_cuda_graphs",
            "GRAPHS",
            (),
            r"^0 of 4 engines were recorded as CUDA graphs \(cuda-bindings is not",
        ),
        ("graphs_that_answer_otherwise", "GRAPHS", (), "without CUDA graphs the answer .* is another one"),
        (
            "a_leak_on_the_host",
            "MEMORY",
            (),
            r"the host's memory grew by \d+\.\d MB over 20 images, and 16 MB",
        ),
        (
            "a_leak_on_the_card",
            "MEMORY",
            (),
            r"^the card's memory grew by \d+\.\d MB over 20 images, and 16 MB",
        ),
        ("a_card_that_is_too_hot", "STATE", (), r"under load the card is slowed down by heat \(hardware\)"),
    ],
)
@pytest.mark.usefixtures("known_reference")
def test_a_fault_fails_its_step_and_only_that(
    card: FakeCard, tmp_path: Path, fault: str, step: str, not_run: tuple[str, ...], said: str
) -> None:
    happening = Fault(card)
    make: Callable[[], Options] = getattr(happening, fault)
    report = accept(run_on_doubles(card, tmp_path, **make()), happening.watch)
    found = results(report)
    assert found.pop(step) is Result.FAILED, report.verdict
    assert re.search(said, why(report, step)), why(report, step)
    assert [name for name, result in found.items() if result is Result.NOT_RUN] == list(not_run)
    assert [name for name, result in found.items() if result is Result.FAILED] == []
    assert all(one.why.startswith("needs ") for one in report.steps if one.name in not_run)
    assert not report.passed
    assert report.verdict.startswith(f"GPU acceptance failed: {step} (")
    assert all(name in report.verdict for name in not_run)
