"""What an image costs in joules, where the machine tells: RAPL of the processor, NVML of a card."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.card_state import NvmlCard, find_nvml_card
from edge.errors import BackendError

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy while a backlog was read, all of it: also what the machine takes when it has nothing to do.

    Attributes:
        joules_an_image: by what told it, like "package-0" or "card".
        lacking: why a figure is not there, a phrase each.
    """

    joules_an_image: dict[str, float]
    lacking: tuple[str, ...]


class RaplZone:
    """A counter of the kernel (Documentation/power/powercap), which begins again from 0 at its range."""

    def __init__(self, folder: Path) -> None:
        self.name = (folder / "name").read_text().strip()
        self._counter = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self.read_uj()  # it may be there and not be readable

    def read_uj(self) -> int:
        """Microjoules since some moment."""
        return int(self._counter.read_text())

    def since_uj(self, before_uj: int) -> int:
        """Microjoules since `read_uj` gave `before_uj`, if the counter began again at most once."""
        return (self.read_uj() - before_uj) % (self._range_uj + 1)


def find_rapl(powercap: Path = _POWERCAP) -> tuple[list[RaplZone], str]:
    """The packages of this machine; or none, and why."""
    folders = sorted(powercap.glob("intel-rapl:[0-9]*"))
    zones = []
    for folder in folders:
        if folder.name.count(":") > 1:  # a part of a package
            continue
        try:
            zones.append(RaplZone(folder))
        except PermissionError:
            return [], f"only root may read {folder / 'energy_uj'}"
        except (OSError, ValueError) as error:
            return [], f"{folder} does not tell ({error})"
    return zones, "" if zones else f"{powercap}/intel-rapl is absent, as in most virtual machines"


def find_card() -> tuple[NvmlCard | None, str]:
    """The card of this machine; or none, and why."""
    try:
        return find_nvml_card(), ""
    except BackendError as error:
        return None, str(error).removesuffix(".")
    except OSError:
        return None, "there is no NVIDIA driver"


class EnergyMeter:
    """Adds up what is used inside of `running`.

    Args:
        rapl, card: what tells it.
        lacking: why some do not.
    """

    def __init__(
        self,
        rapl: list[RaplZone],
        card: NvmlCard | None,
        lacking: tuple[str, ...] = (),
    ) -> None:
        self._rapl = rapl
        self._card = card
        self._lacking = lacking
        self._joules: dict[str, float] = {}
        self._images = 0

    @contextmanager
    def running(self, images: int) -> Iterator[None]:
        """While so many images are read, in less time than a counter takes to begin again (a minute)."""
        before_uj = [zone.read_uj() for zone in self._rapl]
        before_mj = self._card.energy_mj() if self._card else None
        yield
        after_mj = self._card.energy_mj() if self._card else None
        self._images += images
        for zone, uj in zip(self._rapl, before_uj, strict=True):
            self._add(zone.name, zone.since_uj(uj) / 1e6)
        if before_mj is not None and after_mj is not None:
            self._add("card", (after_mj - before_mj) / 1e3)

    def energy(self) -> Energy:
        """All so far."""
        lacking = self._lacking
        if self._card is not None and self._images and "card" not in self._joules:
            lacking = (*lacking, "card: it does not tell its energy")
        return Energy({name: joules / self._images for name, joules in self._joules.items()}, lacking)

    def _add(self, name: str, joules: float) -> None:
        self._joules[name] = self._joules.get(name, 0.0) + joules


def meter_of_this_machine(card: NvmlCard | None, no_card: str) -> EnergyMeter:
    """All that tells.

    Args:
        card, no_card: as `find_card` gives them.
    """
    rapl, no_rapl = find_rapl()
    lacking = [f"processor: {no_rapl}"] if no_rapl else []
    lacking += [f"card: {no_card}"] if no_card else []
    return EnergyMeter(rapl, card, tuple(lacking))
