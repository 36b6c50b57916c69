"""The daemon from its settings to its exit code: what it opens, the loop, the signals that end it."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edge.desk import Desk, Reader
from edge.errors import BackendError
from edge.exit_codes import ExitCode, log_and_code_of
from edge.inbox import Inbox
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.notify import Notifier, StatusLine
from edge.outputs import open_desk
from edge.records import State
from edge.signals import told_to_stop
from edge.station import FULL_PERIOD_S, FULL_WARNING_PERIOD_S, Station
from edge.tasks import ImageResult

if TYPE_CHECKING:
    from edge.metrics import Metrics
    from edge.settings import Settings

log = logging.getLogger(__name__)

_LONGEST_STEP_S = 300.0
"""Of a start, as in the unit file: a journal that is made anew is synced and looked through in the end."""


def run_station(
    settings: "Settings",
    pipeline: Reader,
    *,
    why: str = "",
    notifier: Notifier | None = None,
    on_result: Callable[[ImageResult], None] | None = None,
) -> ExitCode:
    """Run the daemon until a signal or a fault ends it, and say with which code the process should end.

    The pipeline has passed its self-test and stays open; the caller closes it. `why` that engine was
    chosen stands in the status line.
    """
    notifier = notifier or Notifier.from_environment()
    try:
        with contextlib.ExitStack() as closing:
            desk, journal = _desk_when_there_is_space(
                closing, settings, pipeline, notifier, keep_pixels=on_result is not None
            )
            inbox = Inbox(
                settings.inbox,
                journal.knows,
                quiet_period_s=settings.quiet_period_s,
                rescan_period_s=settings.rescan_period_s,
                watch=settings.watch,
            )
            for path in journal.pending_paths():
                inbox.expect(path)
            counts = journal.counts()
            engine = pipeline.engine_id + (why and f" ({why})")
            with _metrics(settings, pipeline, counts) as metrics:
                station = Station(
                    *(inbox, desk, notifier),
                    status=StatusLine(f"{engine}, bundle {pipeline.bundle_id}", counts),
                    on_result=[call for call in (on_result, metrics and metrics.on_result) if call],
                    on_turn=metrics.on_turn if metrics else None,
                )
                with told_to_stop(station.stop):
                    station.run()
        return ExitCode.STOPPED
    except BackendError as error:
        log.critical("%s", error)
        return ExitCode.ENGINE_FAULT
    except Exception as error:
        return log_and_code_of(error)
    finally:
        notifier.close()


def _desk_when_there_is_space(
    closing: contextlib.ExitStack,
    settings: "Settings",
    pipeline: Reader,
    notifier: Notifier,
    *,
    keep_pixels: bool,
) -> tuple[Desk, Journal]:
    warned_s = float("-inf")
    while True:
        try:
            return closing.enter_context(
                open_desk(
                    pipeline,
                    settings.out,
                    settings.state_folder,
                    inbox=settings.inbox,
                    limits=settings.limits.as_image_limits(),
                    duplicates=settings.duplicates,
                    detection_threshold=settings.detection_threshold,
                    keep_pixels=keep_pixels,
                    alive=functools.partial(notifier.starting, _LONGEST_STEP_S),
                )
            )
        except OutputFullError as error:
            if time.monotonic() - warned_s >= FULL_WARNING_PERIOD_S:
                warned_s = time.monotonic()
                log.warning("The start waits: %s", error)
            notifier.status(f"waiting to start: {error}")
            notifier.starting(longer_s=30)
            time.sleep(FULL_PERIOD_S)


@contextlib.contextmanager
def _metrics(settings: "Settings", pipeline: Reader, counts: dict[State, int]) -> Iterator["Metrics | None"]:
    if settings.metrics_port is None:
        yield None
        return
    from edge.metrics import Metrics, served

    metrics = Metrics(pipeline.engine_id, pipeline.bundle_id, counts)
    with served(metrics.registry, settings.metrics_address, settings.metrics_port):
        yield metrics
