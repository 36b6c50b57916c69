"""The order of the whole measurement, with a double in the engine's place."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.bench import measure as measuring
from edge.bench.engines import EngineChoice, OpenEngine
from edge.bench.inputs import Inputs
from edge.bench.measure import Amounts, measure
from edge.card_state import NvmlCard
from tests.build_engines.fake_nvml import BUS_ID, FakeNvml
from tests.chaos.tiny import OneCell, tiny_image


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    paths = tuple(tmp_path / f"{number}.png" for number in range(3))
    for number, path in enumerate(paths):
        path.write_bytes(tiny_image().copy(number))
    return Inputs(paths, "3 tiny images", "00")


@pytest.fixture(autouse=True)
def _doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def doubles(choices: Sequence[EngineChoice]) -> Iterator[list[Any]]:
        yield [OpenEngine(f"double {place}", OneCell()) for place, _ in enumerate(choices)]  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "open_engines", doubles)


def test_only_what_was_asked_for_is_measured(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure([EngineChoice()], inputs, Amounts(7, starts=0, waiting=4, rounds=2), tmp_path / "s")
    assert (found.cold, found.idle, found.load) == (None, None, ())
    assert (found.first.images, found.first.leukocytes) == (7, 3)  # three different ones, in turn
    assert found.first.ratio is found.first.agreement is None
    assert len(found.first.backlog_per_s) == 2
    assert capsys.readouterr().err.splitlines() == [
        "opening 1 engine",
        "timing 7 images, one at a time",
        "timing 2 rounds of 4 waiting images",
    ]


def test_engines_are_held_against_the_first_over_different_images_only(
    inputs: Inputs, tmp_path: Path
) -> None:
    amounts = Amounts(
        5, starts=0, waiting=4, rounds=2, pause_s=0.01, pauses=2, load_s=0.05, shares=(0.5, 1.0)
    )
    found = measure([EngineChoice()] * 2, inputs, amounts, tmp_path / "s")
    first, other = found.engines
    assert (first.ratio, first.agreement, first.reference) == (None, None, "double 0")
    assert other.ratio is not None
    assert other.backlog_ratio is not None
    assert other.agreement is not None
    assert other.agreement.cells == other.agreement.matched == 3
    assert found.idle is not None
    assert len(found.idle.ms) == 2
    assert [one.share for one in found.load] == [0.5, 1.0]


def test_a_card_that_does_not_tell_its_memory_is_said_to_and_its_energy_is_told(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    card = NvmlCard(FakeNvml(silent=("nvmlDeviceGetMemoryInfo",)), BUS_ID)
    monkeypatch.setattr(measuring, "find_card", lambda: (card, ""))
    monkeypatch.setattr(measuring, "measure_starts", lambda *args: given.append(args[-1]))
    found = measure([EngineChoice()], inputs, Amounts(3, waiting=5, rounds=2), tmp_path / "s")
    assert given == [None]
    assert found.no_card.startswith("NVML does not tell how much of the card's memory is taken")
    assert found.energy.joules_an_image == {"card": 1.0}
