"""The daemon: a thin loop that takes whole files from the inbox to the desk until it is told to stop.

Every turn of the loop feeds the watchdog of systemd, so a hung inference does not. What ends the process
with a code other than 0 is listed in `ExitCode`, which the unit file refers to.
"""

import contextlib
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from edge.desk import Desk, ImageResult, Reader
from edge.errors import BackendError, EdgeError, JournalError
from edge.images import ImageLimits
from edge.inbox import Inbox, ReadyFile
from edge.journal import Journal
from edge.locks import FolderLockedError, OutputFullError, OutputUnwritableError
from edge.notify import Notifier
from edge.records import State
from edge.results import Results

if TYPE_CHECKING:
    from edge.settings import Settings

log = logging.getLogger(__name__)

_LONGEST_TURN_S = 10.0
_STATUS_PERIOD_S = 1.0
_FULL_PERIOD_S = 1.0
_FULL_WARNING_PERIOD_S = 60.0
_FIRST_BACK_OFF_S = 1.0


class ExitCode(IntEnum):
    """How the process ends; numbers of sysexits.h where one fits."""

    STOPPED = 0
    """As asked, by SIGTERM or SIGINT."""
    ENGINE_FAULT = 70
    """The inference engine failed or gave non-finite numbers: start again, the image is tried again."""
    OUTPUT = 74
    """The journal or a CSV file cannot be written or read, and waiting does not help."""
    LOCKED = 75
    """Another process holds the state or the output folder."""
    CONFIGURATION = 78
    """Settings, bundle, engine or the inbox are wrong: starting again without a change does not help."""


def exit_code_of(error: EdgeError) -> ExitCode:
    """The code with which a process ends that met an error."""
    if isinstance(error, FolderLockedError):
        return ExitCode.LOCKED
    if isinstance(error, OutputUnwritableError | OutputFullError | JournalError):
        return ExitCode.OUTPUT
    return ExitCode.CONFIGURATION


class Station:
    """The loop.

    Args:
        describe: one phrase on the engine for the status line.
        counts: images by state so far, as the journal has them.
        on_result: called after each new answer, for what is no promise (overlays); its errors are logged.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        inbox: Inbox,
        desk: Desk,
        notifier: Notifier,
        *,
        describe: str = "",
        counts: dict[State, int] | None = None,
        on_result: Callable[[ImageResult], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = inbox
        self._desk = desk
        self._notifier = notifier
        self._describe = describe
        self._counts = Counter(counts or {})
        self._on_result = on_result
        self._clock = clock
        self._is_stopping = False
        self._last = "none"
        self._back_off_s: dict[Path, float] = {}
        self._is_full = False
        self._full_warned_s = float("-inf")
        self._paused_until_s = float("-inf")
        self._status_due_s = clock()
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
            while not self._is_stopping:
                self._notifier.alive()
                self._tell_status()
                pause_s = self._paused_until_s - self._clock()
                if pause_s > 0:
                    self._inbox.wait_for_wake(min(pause_s, self._turn_s))
                    continue
                try:
                    self._turn()
                except OutputFullError as error:
                    self._pause(error)
        finally:
            self._notifier.stopping()
            self._inbox.close()

    def _turn(self) -> None:
        if self._is_full:
            self._desk.recover()
        ready = self._inbox.take()
        if ready is not None:
            self._process(ready)
            return
        if self._is_full and not len(self._inbox):
            self._go_on()  # the answer that met the full disk was in the journal, and now stands in the files
        if not self._is_stopping:  # `take` may have read the wake of a signal
            self._inbox.wait(self._turn_s)

    def _process(self, ready: ReadyFile) -> None:
        try:
            result = self._desk.process(ready.path, ready.sample)
        except OutputFullError:
            self._inbox.put_back(ready.path)
            raise
        if result.status is State.PENDING:
            self._put_back(result)
            return
        self._back_off_s.pop(ready.path, None)
        if not result.is_new:
            return
        if self._is_full:
            self._go_on()
        self._counts[result.status] += 1
        self._last = f"{ready.path.name!r} {result.status}"
        log.info("%r: %s, %d leukocytes.", str(ready.path), result.status, len(result.findings))
        if self._on_result is not None:
            try:
                self._on_result(result)
            except Exception:
                log.exception("What follows the result of %r failed.", str(ready.path))

    def _put_back(self, result: ImageResult) -> None:
        if result.reason == "still changing":
            self._inbox.put_back(result.path)
        elif result.reason != "not a regular file":
            delay_s = self._back_off_s.get(result.path, _FIRST_BACK_OFF_S)
            self._back_off_s[result.path] = 4 * delay_s
            self._inbox.put_back(result.path, delay_s)

    def _pause(self, error: OutputFullError) -> None:
        now_s = self._clock()
        self._is_full, self._paused_until_s = True, now_s + _FULL_PERIOD_S
        if now_s - self._full_warned_s >= _FULL_WARNING_PERIOD_S:
            self._full_warned_s = now_s
            log.warning("Intake is paused: %s", error)

    def _go_on(self) -> None:
        """Intake is paused until an image was recorded: that the outputs agree needs no space."""
        self._is_full = False
        log.warning("There is space again; going on.")

    def _tell_status(self) -> None:
        if self._clock() < self._status_due_s:
            return
        self._status_due_s = self._clock() + _STATUS_PERIOD_S
        counts = ", ".join(f"{state} {self._counts[state]}" for state in State if self._counts[state])
        trouble = "paused: disk full; " if self._is_full else ""
        if self._inbox.fault is not None:
            trouble += f"degraded: the inbox cannot be read ({self._inbox.fault}); "
        done = f"queue {len(self._inbox)}; last {self._last}; {counts or 'no images yet'}"
        self._notifier.status(f"{trouble}{self._describe}; {done}")


@contextlib.contextmanager
def open_desk(
    pipeline: Reader,
    out: Path,
    state: Path | None = None,
    *,
    limits: ImageLimits | None = None,
    duplicates: Literal["skip", "again"] = "skip",
    detection_threshold: float | None = None,
) -> Iterator[tuple[Desk, Journal]]:
    """A desk, its journal and its CSV files, locked and whole again; for the daemon and for a single run.

    Args:
        out: the folder of the CSV files.
        state: the folder of the journal; None: `.edge` in `out`.
        limits, duplicates, detection_threshold: as `Desk` takes them.

    Raises:
        EdgeError: they cannot be used; `exit_code_of` tells the exit code.
    """
    with contextlib.ExitStack() as closing:
        journal = closing.enter_context(contextlib.closing(Journal(state or out / ".edge")))
        results = closing.enter_context(contextlib.closing(Results(out, journal)))
        desk = Desk(
            pipeline,
            journal,
            results,
            limits=limits,
            duplicates=duplicates,
            detection_threshold=detection_threshold,
        )
        desk.recover()
        yield desk, journal


def run_station(
    settings: "Settings",
    pipeline: Reader,
    *,
    notifier: Notifier | None = None,
    on_result: Callable[[ImageResult], None] | None = None,
) -> ExitCode:
    """Run the daemon until a signal or a fault ends it, and say with which code the process should end.

    The pipeline has passed its self-test and stays open; the caller closes it.
    """
    notifier = notifier or Notifier.from_environment()
    try:
        with open_desk(
            pipeline,
            settings.out,
            settings.state_folder,
            limits=settings.limits.as_image_limits(),
            duplicates=settings.duplicates,
            detection_threshold=settings.detection_threshold,
        ) as (desk, journal):
            inbox = Inbox(
                settings.inbox,
                journal.knows,
                quiet_period_s=settings.quiet_period_s,
                rescan_period_s=settings.rescan_period_s,
                watch=settings.watch,
            )
            for path in journal.pending_paths():
                inbox.put_back(path)
            describe = f"{pipeline.engine_id}, bundle {pipeline.bundle_id}"
            station = Station(
                inbox, desk, notifier, describe=describe, counts=journal.counts(), on_result=on_result
            )
            with _stopped_by_signals(station):
                station.run()
        return ExitCode.STOPPED
    except BackendError as error:
        log.critical("%s", error)
        return ExitCode.ENGINE_FAULT
    except EdgeError as error:
        log.critical("%s", error)
        return exit_code_of(error)
    finally:
        notifier.close()


@contextlib.contextmanager
def _stopped_by_signals(station: Station) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        station.stop()

    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
