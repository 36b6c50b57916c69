"""How busy the machine was with other things, so that a reader can judge the figures."""

import os
import time
from pathlib import Path


class Load:
    """Begins when it is made.

    Attributes:
        before: the machine's mean number of running processes over the last minute, before the run.
    """

    def __init__(self) -> None:
        self.before = os.getloadavg()[0]
        self._began_s, self._machine_s, self._own_s = time.monotonic(), _machine_busy_s(), _own_busy_s()

    def others(self) -> float:
        """Mean number of cores that other processes, or other guests of the host, kept busy until now."""
        elapsed_s = time.monotonic() - self._began_s
        return max(_machine_busy_s() - self._machine_s - (_own_busy_s() - self._own_s), 0.0) / elapsed_s


def _machine_busy_s() -> float:
    user, nice, system, _idle, _wait, *interrupts_and_steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")


def _own_busy_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
