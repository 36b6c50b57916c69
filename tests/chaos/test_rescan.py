"""Promise 7: a scan of a folder of many answered files takes seconds: it compares stamps, no bytes."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edge.inbox import Inbox
from edge.journal import Journal
from edge.oneshot import run_once
from tests.chaos.books import Answers
from tests.chaos.camera import Original
from tests.chaos.conftest import Report, say
from tests.chaos.daemon import Daemon
from tests.chaos.tiny import OneCell, tiny_image

pytestmark = pytest.mark.timeout(3600)

_LONGEST_SCAN_S = 5.0
_QUIET_S = 0.05


def test_promise_07_a_scan_of_many_answered_files_takes_seconds(
    home: Path, start: Callable[..., Daemon], report: Report, is_full: bool
) -> None:
    count = 100_000 if is_full else 10_000
    tiny = tiny_image()
    inbox = home / "inbox"
    for number in range(count):
        (inbox / f"{number:06}.png").write_bytes(tiny.copy(number))
    say(f"answering {count} files with a double of the pipeline")
    run_once([inbox], home / "out", OneCell())

    # Sub-folders are looked through last: a file there is found when all others have been compared.
    (inbox / "last").mkdir()
    # Before the daemon, which answers the new files: the journal must not know them here.
    opened_s, scans_s = _scans(home, tiny, count)
    daemon = start(home, watch="polling", quiet_period_s=_QUIET_S)
    ready_s = daemon.wait_ready()
    answers = Answers(home / "out")
    first_s = daemon.wait_for("all have their answer", lambda: len(answers.look()) >= count + 2)
    assert daemon.stop() == 0
    assert max(scans_s) < _LONGEST_SCAN_S, f"scans took {scans_s} s"
    report(
        f"{count} answered files: the journal opens in {opened_s:.2f} s, the first scan takes "
        f"{scans_s[0]:.1f} s, a later one {scans_s[1]:.1f} s; edge-watch is ready after {ready_s:.1f} s, and "
        f"has read a new file behind all others {first_s:.1f} s later",
        journal_opened_s=opened_s,
        journal_bytes=(home / "out" / ".edge" / "journal.sqlite3").stat().st_size,
        scans_s=scans_s,
        ready_s=ready_s,
        first_new_file_s=first_s,
    )


def _scans(home: Path, tiny: Original, count: int) -> tuple[float, list[float]]:
    """Seconds to open the journal, and of two scans, each until it gives a new file behind all others."""
    began_s = time.monotonic()
    with closing(Journal(home / "out" / ".edge")) as journal:
        opened_s = time.monotonic() - began_s
        inbox = Inbox(home / "inbox", journal.knows, quiet_period_s=_QUIET_S, watch="polling")
        inbox.start()
        scans_s = []
        for number in range(2):
            new = home / "inbox" / "last" / f"new {number}.png"
            new.write_bytes(tiny.copy(count + number))
            inbox.rescan()
            began_s = time.monotonic()
            while (ready := inbox.take()) is None or ready.path != new:
                inbox.wait(_QUIET_S)
            scans_s.append(time.monotonic() - began_s - _QUIET_S)
        inbox.close()
    return opened_s, scans_s
