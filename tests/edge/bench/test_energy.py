"""Joules where the machine tells, and why not where it does not."""

import os
from pathlib import Path

import pytest

from edge.bench.energy import EnergyMeter, RaplZone, find_card, find_rapl, meter_of_this_machine
from edge.card_state import NvmlCard
from edge.errors import BackendError
from tests.build_engines.fake_nvml import BUS_ID, FakeNvml


def a_zone(powercap: Path, number: str, name: str, uj: int = 0, most_uj: int = 999_999_999) -> Path:
    """A double of a folder of the kernel."""
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most_uj}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    return folder / "energy_uj"


def test_packages_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    a_zone(tmp_path, "0", "package-0")
    a_zone(tmp_path, "0:0", "core")
    a_zone(tmp_path, "1", "package-1")
    zones, why = find_rapl(tmp_path)
    assert [zone.name for zone in zones] == ["package-0", "package-1"]
    assert why == ""


def test_joules_an_image_are_those_of_the_time_that_it_ran(tmp_path: Path) -> None:
    counter = a_zone(tmp_path, "0", "package-0", 1_000_000)
    meter = EnergyMeter(find_rapl(tmp_path)[0], None)
    for before, after in ((1_000_000, 9_000_000), (50_000_000, 58_000_000)):
        counter.write_text(str(before))
        with meter.running(images=8):
            counter.write_text(str(after))
    assert meter.energy().joules_an_image == {"package-0": 1.0}


def test_a_counter_that_begins_again_goes_on(tmp_path: Path) -> None:
    counter = a_zone(tmp_path, "0", "package-0", most_uj=9_999)
    zone = RaplZone(counter.parent)
    counter.write_text("400")
    assert zone.since_uj(9_900) == 500


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    zones, why = find_rapl(tmp_path)
    assert zones == []
    assert why == f"{tmp_path}/intel-rapl is absent, as in most virtual machines"
    assert meter_of_this_machine(None, "there is none").energy().lacking[-1] == "card: there is none"


def test_counters_for_root_alone_are_told_apart_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = a_zone(tmp_path, "0", "package-0")
    counter.chmod(0)
    if not os.geteuid():  # root may read everything: a double of the refusal
        read = Path.read_text

        def refuse(path: Path) -> str:
            if path == counter:
                raise PermissionError(13, "Permission denied")
            return read(path)

        monkeypatch.setattr(Path, "read_text", refuse)
    zones, why = find_rapl(tmp_path)
    assert zones == []
    assert why == f"only root may read {counter}"


def test_a_card_tells_its_own_energy() -> None:
    meter = EnergyMeter([], NvmlCard(FakeNvml(), BUS_ID))  # 5 J from one question to the next
    with meter.running(images=10):
        pass
    assert meter.energy().joules_an_image == {"card": 0.5}


def test_a_card_that_does_not_tell_is_told_of() -> None:
    silent = FakeNvml(silent=("nvmlDeviceGetTotalEnergyConsumption",))
    meter = EnergyMeter([], NvmlCard(silent, BUS_ID))
    with meter.running(images=10):
        pass
    assert meter.energy().joules_an_image == {}
    assert meter.energy().lacking == ("card: it does not tell its energy",)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError("libcuda.so.1: cannot open shared object file"), "there is no NVIDIA driver"),
        (BackendError("NVML does not tell of the card (x); y."), "NVML does not tell of the card (x); y"),
    ],
)
def test_no_card_is_no_error(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr("edge.bench.energy.find_nvml_card", refuse)
    assert find_card() == (None, why)
