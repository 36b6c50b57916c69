"""What NVML tells of a card, on a double of its module that is held against the real one. No GPU."""

import inspect

import pynvml
import pytest

from edge import card_state
from edge.card_state import NvmlCard, find_nvml_card
from edge.errors import BackendError
from tests.build_engines.fake_nvml import BUS_ID, FakeNvml


def test_the_state_is_read_in_the_units_of_its_names() -> None:
    state = NvmlCard(FakeNvml(slowed_by=pynvml.nvmlClocksEventReasonSwPowerCap), BUS_ID).read()
    assert (state.driver, state.cuda, state.pstate, state.persistence) == ("580.65.06", "13.0", 2, True)
    assert (state.sm_mhz, state.sm_most_mhz, state.memory_mhz, state.memory_most_mhz) == (
        1800,
        2100,
        7300,
        7500,
    )
    assert (state.temperature_c, state.power_w, state.power_limit_w) == (56, 61.5, 170)
    assert (state.memory_used_mb, state.memory_total_mb) == (500, 12_000)
    assert (state.held_by, state.slowed_by) == (("power limit",), ())


def test_what_a_card_does_not_tell_is_none() -> None:
    silent = tuple(name for name in dir(FakeNvml) if name.startswith(("nvmlDeviceGet", "nvmlSystem")))
    card = NvmlCard(FakeNvml(silent=silent), BUS_ID)
    state = card.read()
    assert (state.pstate, state.cuda, state.power_w, state.persistence, state.memory_used_mb) == (None,) * 5
    assert state.slowed_by == ()
    with pytest.raises(
        BackendError, match=r"how much of the card's memory is taken \(Not Supported\); update"
    ):
        card.memory_used_bytes()


def test_nvml_that_does_not_start_or_know_the_card_is_told() -> None:
    with pytest.raises(BackendError, match=r"^NVML does not tell of the card \(Not Supported\); install"):
        NvmlCard(FakeNvml(silent=("nvmlInit",)), BUS_ID)
    with pytest.raises(BackendError, match=r"^NVML does not tell of the card \(Not Found\)"):
        NvmlCard(FakeNvml(), "0000:02:00.0")


def test_the_real_module_without_a_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", lambda: no_library(""))
    monkeypatch.setattr(card_state, "_bus_id", lambda: BUS_ID)
    with pytest.raises(BackendError, match=r"\(NVML Shared Library Not Found\)"):
        find_nvml_card()


def test_every_function_that_is_asked_is_one_of_nvidias_module() -> None:
    for name, function in vars(FakeNvml).items():
        if name.startswith("nvml"):
            real = [
                p
                for p in inspect.signature(getattr(pynvml, name)).parameters.values()
                if p.default is p.empty
            ]
            assert len(real) == len(inspect.signature(function).parameters) - 1, name
    source = inspect.getsource(card_state)
    assert all(hasattr(pynvml, name) for name in (*card_state._SLOWED, *card_state._HELD))
    assert "pynvml" in source
