"""Where the time of one image goes."""

import time


class Stopwatch:
    """Laps of one piece of work, by stage, in milliseconds of a monotonic clock.

    A stage that is lapped several times adds up.
    """

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._start_ns = self._last_ns = time.perf_counter_ns()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap (or the start) on a stage."""
        now_ns = time.perf_counter_ns()
        self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + (now_ns - self._last_ns) / 1e6
        self._last_ns = now_ns

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter_ns() - self._start_ns) / 1e6
