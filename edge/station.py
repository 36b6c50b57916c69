"""The daemon's loop: thin, it takes whole files from the inbox to the desk until it is told to stop.

Every turn of the loop feeds the watchdog of systemd, so a hung inference does not.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from edge.desk import Desk
from edge.drift import Drift
from edge.inbox import Inbox, ReadyFile
from edge.locks import OutputFullError
from edge.notify import Notifier, StatusLine
from edge.opening import CHANGING, GONE, NOT_REGULAR
from edge.records import NAMES_OF_PASSING_FAULTS, State
from edge.tasks import Arrival, ImageResult

log = logging.getLogger(__name__)

_LONGEST_TURN_S = 10.0
_STATUS_PERIOD_S = 1.0
FULL_PERIOD_S = 1.0
"""So often it is tried whether a full disk has space again,"""
FULL_WARNING_PERIOD_S = 60.0
"""and so often the journal of systemd hears of one."""
_FIRST_BACK_OFF_S, _LONGEST_BACK_OFF_S = 1.0, 60.0


class Station:
    """The loop.

    Args:
        status: what it tells of itself.
        on_result: called after each new answer, for what is no promise (overlays, metrics).
        on_turn: called in each turn of the loop with the length of the queue and the reasons why intake is
            paused, "disk_full" and "inbox". What these calls raise is logged.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        inbox: Inbox,
        desk: Desk,
        notifier: Notifier,
        *,
        status: StatusLine | None = None,
        on_result: Sequence[Callable[[ImageResult], None]] = (),
        on_turn: Callable[[int, Collection[str]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = inbox
        self._desk = desk
        self._notifier = notifier
        self._status = status or StatusLine()
        self._on_result = on_result
        self._on_turn = on_turn
        self._clock = clock
        self._is_stopping = False
        self._back_off_s: dict[Path, float] = {}
        self._in_hand: dict[Path, ReadyFile] = {}
        """What the desk has and has not given back."""
        self._drift = Drift()
        self._is_full = False
        self._full_warned_s = float("-inf")
        self._paused_until_s = float("-inf")
        self._told, self._status_due_s = "", clock()
        watchdog_s = notifier.watchdog_period_s
        self._turn_s = min(_LONGEST_TURN_S, watchdog_s / 3) if watchdog_s else _LONGEST_TURN_S

    def stop(self) -> None:
        """Let `run` end after the image in hand; safe in a signal handler and in any thread."""
        self._is_stopping = True
        self._inbox.wake()

    def run(self) -> None:
        """Work until `stop`. The outputs agree with the journal already (`Desk.recover`).

        Raises:
            BackendError: the engine failed; the process must end.
            EdgeError: the outputs or the inbox cannot be used.
        """
        self._inbox.start()
        try:
            self._notifier.ready()
            self._tell()
            while not self._is_stopping:
                self._notifier.alive()
                pause_s = self._paused_until_s - self._clock()
                is_idle = pause_s > 0 or not self._work()
                longest_s = self._tell()
                if is_idle and not self._is_stopping:  # the work may have read the wake of `stop`
                    if pause_s > 0:
                        self._inbox.wait_for_wake(min(pause_s, longest_s))
                    else:
                        self._inbox.wait(longest_s)
        finally:
            self._notifier.stopping()
            self._inbox.close()

    def _work(self) -> bool:
        """Process the files that are ready; False if there were none."""
        count = 0
        try:
            if self._is_full:
                self._desk.recover()
            for result in self._desk.process_all(self._arrivals(), self._notifier.alive):
                count += 1
                self._take_back(result)
                self._tell()
                self._notifier.alive()
            if not count:
                self._desk.settle()
                if self._is_full and not len(self._inbox):
                    self._go_on()  # the answer that met the full disk stands in the files now
        except OutputFullError as error:
            for path in self._in_hand:
                self._inbox.put_back(path)
            self._in_hand.clear()
            self._pause(error)
            return True
        return count > 0

    def _arrivals(self) -> Iterator[Arrival]:
        """Files that are ready now; one alone while it is not known whether there is space."""
        while not self._is_stopping and (ready := self._inbox.take()) is not None:
            self._in_hand[ready.path] = ready
            yield Arrival(ready.path, ready.sample, was_there=ready.stamp is not None)
            if self._is_full:
                return

    def _take_back(self, result: ImageResult) -> None:
        ready = self._in_hand.pop(result.path, None)
        if result.status is State.PENDING:
            if ready is not None:
                self._put_back(ready, result)
            return
        self._back_off_s.pop(result.path, None)
        if ready is not None and result.status is State.FAILED and result.reason in NAMES_OF_PASSING_FAULTS:
            self._inbox.rest(ready, _LONGEST_BACK_OFF_S)  # each try may take the disk seconds
        if not result.is_new:
            return
        if self._is_full:
            self._go_on()
        self._status.count(result.path.name, result.status)
        self._note_drift(result)
        fields = {
            "image": str(result.path),
            "status": result.status,
            "reason": result.reason,
            "leukocytes": len(result.findings),
            "latency_ms": round(sum(result.stage_ms.values()), 3),
        }
        if (unlike := result.unlikeness) is not None:
            fields |= {"unlike_training": round(unlike.ratio, 3), "unlike_because": unlike.because}
        log.info("%(image)r: %(status)s, %(leukocytes)d leukocytes.", fields, extra=fields)
        for follow in self._on_result:
            _follow(follow, result)

    def _note_drift(self, result: ImageResult) -> None:
        """Say once that most images are unlike the training images, and once that they are not any more."""
        if result.unlikeness is None or not self._drift.note(result.unlikeness):
            return
        if self._drift.is_on:
            log.warning(
                "%s: stain or camera changed? See unlike_because in images.csv, and docs/drift.md.",
                str(self._drift),
            )
        else:
            log.warning("The images are like the training images again: %s.", str(self._drift))

    def _put_back(self, ready: ReadyFile, result: ImageResult) -> None:
        if result.reason == GONE:
            self._inbox.missed(ready)
        elif result.reason == CHANGING:
            self._inbox.put_back(result.path)
        elif result.reason != NOT_REGULAR:
            delay_s = self._back_off_s.get(result.path, _FIRST_BACK_OFF_S)
            self._back_off_s[result.path] = min(4 * delay_s, _LONGEST_BACK_OFF_S)
            self._inbox.put_back(result.path, delay_s)

    def _pause(self, error: OutputFullError) -> None:
        now_s = self._clock()
        self._is_full, self._paused_until_s = True, now_s + FULL_PERIOD_S
        if now_s - self._full_warned_s >= FULL_WARNING_PERIOD_S:
            self._full_warned_s = now_s
            log.warning("Intake is paused: %s", error)

    def _go_on(self) -> None:
        """Intake is paused until an image was recorded: that the outputs agree needs no space."""
        self._is_full = False
        log.warning("There is space again; going on.")

    def _tell(self) -> float:
        """Tell systemd and the metrics how things stand.

        Returns:
            How long the next turn may wait, in seconds; less than usual when there is more to tell by then.
        """
        queue, pauses = len(self._inbox), {}
        if self._is_full:
            pauses["disk_full"] = "paused: disk full"
        if self._inbox.fault is not None:
            pauses["inbox"] = f"degraded: the inbox cannot be read ({self._inbox.fault})"
        if self._on_turn is not None:
            _follow(self._on_turn, queue, pauses)
        troubles = (*pauses.values(), *([f"attention: {self._drift}"] if self._drift.is_on else []))
        text, now_s = self._status.text(queue, troubles), self._clock()
        if now_s >= self._status_due_s:
            self._told, self._status_due_s = text, now_s + _STATUS_PERIOD_S
            self._notifier.status(text)
        return self._turn_s if text == self._told else min(self._turn_s, _STATUS_PERIOD_S)


def _follow(call: Callable[..., None], *args: object) -> None:
    try:
        call(*args)
    except Exception:
        log.exception("What follows the work failed; the work goes on.")
