"""What the driver tells of a card: power state, clocks, temperature, memory and energy, through NVML.

Not run on a GPU: only on a double of NVML's Python module.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from edge.errors import BackendError

_SLOWED = {
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonHwThermalSlowdown": "heat (hardware)",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake",
    "nvmlClocksEventReasonSwThermalSlowdown": "heat (driver)",
}
"""What holds the clocks down and should not: NVML's name, and ours."""
_HELD = {
    "nvmlClocksEventReasonSwPowerCap": "power limit",
    "nvmlClocksEventReasonGpuIdle": "idle",
    "nvmlClocksEventReasonApplicationsClocksSetting": "clocks set by hand",
    "nvmlClocksEventReasonSyncBoost": "other cards",
    "nvmlClocksEventReasonDisplayClockSetting": "display",
}
"""What holds them down and may."""


@dataclass(frozen=True, slots=True)
class CardState:
    """A card at one moment; None is what it does not tell.

    Attributes:
        driver: its version, like "580.65.06".
        cuda: newest CUDA that the driver knows, like "13.0".
        pstate: performance state, from 0 (fastest) to 15.
        sm_mhz, memory_mhz: clocks now; `…_most_mhz`: the highest.
        persistence: whether the driver stays awake while nobody uses the card.
        held_by: what holds the clocks down: may be; `slowed_by`: should not be.
    """

    driver: str | None
    cuda: str | None
    pstate: int | None
    sm_mhz: int | None
    sm_most_mhz: int | None
    memory_mhz: int | None
    memory_most_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    persistence: bool | None
    memory_used_mb: float | None
    memory_total_mb: float | None
    held_by: tuple[str, ...]
    slowed_by: tuple[str, ...]


class NvmlCard:
    """The card that CUDA calls the first, as NVML sees it.

    Args:
        nvml: the module `pynvml`, of the package nvidia-ml-py.
        bus_id: of the card: NVML counts in another order, and sees cards that CUDA_VISIBLE_DEVICES hides.

    Raises:
        BackendError: NVML does not start, or does not know the card.
    """

    def __init__(self, nvml: Any, bus_id: str) -> None:
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._card = nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        except nvml.NVMLError as error:
            raise BackendError(
                f"NVML does not tell of the card ({error}); install the libnvidia-ml of the driver's own "
                "version, and restart the machine after a change of the driver."
            ) from error

    def memory_used_bytes(self) -> int:
        """Memory of the card that is taken, by all programs.

        Raises:
            BackendError: it is not told.
        """
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._card).used)
        except self._nvml.NVMLError as error:
            raise BackendError(
                f"NVML does not tell how much of the card's memory is taken ({error}); update the driver."
            ) from error

    def energy_mj(self) -> int | None:
        """Millijoules that the card has used since the driver was loaded; None: it does not tell."""
        found: int | None = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._card)
        return found

    def read(self) -> CardState:
        """The state now."""
        nvml, card = self._nvml, self._card
        cuda = self._ask(nvml.nvmlSystemGetCudaDriverVersion_v2)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, card)
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, card) or 0
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage, card)
        limit_mw = self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, card)
        persistence = self._ask(nvml.nvmlDeviceGetPersistenceMode, card)
        return CardState(
            driver=self._ask(nvml.nvmlSystemGetDriverVersion),
            cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            pstate=self._ask(nvml.nvmlDeviceGetPerformanceState, card),
            sm_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, card, nvml.NVML_CLOCK_SM),
            sm_most_mhz=self._ask(nvml.nvmlDeviceGetMaxClockInfo, card, nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, card, nvml.NVML_CLOCK_MEM),
            memory_most_mhz=self._ask(nvml.nvmlDeviceGetMaxClockInfo, card, nvml.NVML_CLOCK_MEM),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, card, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            persistence=None if persistence is None else bool(persistence),
            memory_used_mb=None if memory is None else memory.used / 1e6,
            memory_total_mb=None if memory is None else memory.total / 1e6,
            held_by=tuple(name for bit, name in _HELD.items() if reasons & getattr(nvml, bit)),
            slowed_by=tuple(name for bit, name in _SLOWED.items() if reasons & getattr(nvml, bit)),
        )

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except self._nvml.NVMLError:  # many cards for desks and laptops do not tell everything
            return None


def find_nvml_card() -> NvmlCard:
    """The card of `edge.backends.cuda.probe`, which must have found one.

    Raises:
        BackendError: nvidia-ml-py is not installed, or NVML does not know the card.
    """
    try:
        nvml = import_module("pynvml")
    except ImportError as error:
        raise BackendError(f"nvidia-ml-py is not installed ({error}); `pip install nvidia-ml-py`.") from error
    return NvmlCard(nvml, _bus_id())


def _bus_id() -> str:
    """PCI address of the first card of CUDA, like "0000:01:00.0"."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, text = ctypes.c_int(), ctypes.create_string_buffer(32)
    for function, *args in (
        (driver.cuInit, 0),
        (driver.cuDeviceGet, ctypes.byref(device), 0),
        (driver.cuDeviceGetPCIBusId, text, len(text), device),
    ):
        code = function(*args)
        if code:
            raise BackendError(
                f"{function.__name__} of the NVIDIA driver failed with {code}; restart the machine."
            )
    return text.value.decode()
