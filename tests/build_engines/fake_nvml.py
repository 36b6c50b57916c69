"""A test double of NVML's Python module: what `edge/card_state.py` asks it, and no more."""

from types import SimpleNamespace
from typing import Any

import pynvml

BUS_ID = "0000:01:00.0"


class FakeNvml:
    """A card at work.

    Args:
        silent: names of functions that this card does not support.
        slowed_by: reasons for low clocks, as the bits of NVML.
        leak_bytes: how much more is taken each time that the memory is asked for.
    """

    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM
    NVML_CLOCK_MEM = pynvml.NVML_CLOCK_MEM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, silent: tuple[str, ...] = (), slowed_by: int = 0, leak_bytes: int = 0) -> None:
        self.silent = silent
        self.slowed_by = slowed_by
        self.leak_bytes = leak_bytes
        self.used_bytes = 500_000_000
        self.energy_mj = 0
        for name in dir(pynvml):
            if name.startswith("nvmlClocksEventReason"):
                setattr(self, name, getattr(pynvml, name))

    def _answer(self, function: str, value: Any) -> Any:
        if function in self.silent:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def nvmlInit(self) -> None:  # noqa: N802
        self._answer("nvmlInit", None)

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: str) -> str:  # noqa: N802
        if bus_id != BUS_ID:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return bus_id

    def nvmlSystemGetDriverVersion(self) -> Any:  # noqa: N802
        return self._answer("nvmlSystemGetDriverVersion", "580.65.06")

    def nvmlSystemGetCudaDriverVersion_v2(self) -> Any:  # noqa: N802
        return self._answer("nvmlSystemGetCudaDriverVersion_v2", 13000)

    def nvmlDeviceGetMemoryInfo(self, card: str) -> Any:  # noqa: N802
        self.used_bytes += self.leak_bytes
        total_bytes = 12_000_000_000
        return self._answer(
            "nvmlDeviceGetMemoryInfo", SimpleNamespace(used=self.used_bytes, total=total_bytes)
        )

    def nvmlDeviceGetTotalEnergyConsumption(self, card: str) -> Any:  # noqa: N802
        self.energy_mj += 5000
        return self._answer("nvmlDeviceGetTotalEnergyConsumption", self.energy_mj)

    def nvmlDeviceGetCurrentClocksEventReasons(self, card: str) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetCurrentClocksEventReasons", self.slowed_by)

    def nvmlDeviceGetPowerUsage(self, card: str) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetPowerUsage", 61_500)

    def nvmlDeviceGetEnforcedPowerLimit(self, card: str) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetEnforcedPowerLimit", 170_000)

    def nvmlDeviceGetPersistenceMode(self, card: str) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetPersistenceMode", 1)

    def nvmlDeviceGetPerformanceState(self, card: str) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetPerformanceState", 2)

    def nvmlDeviceGetClockInfo(self, card: str, kind: int) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetClockInfo", 1800 if kind == self.NVML_CLOCK_SM else 7300)

    def nvmlDeviceGetMaxClockInfo(self, card: str, kind: int) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetMaxClockInfo", 2100 if kind == self.NVML_CLOCK_SM else 7500)

    def nvmlDeviceGetTemperature(self, card: str, sensor: int) -> Any:  # noqa: N802
        return self._answer("nvmlDeviceGetTemperature", 56)
