"""It stops, dies and starts again, and each image is answered once."""

import csv
import shutil
import signal
import subprocess
import sys

import pytest

from edge.daemon import run_station
from edge.errors import BackendError
from edge.notify import Notifier
from edge.outputs import open_desk
from edge.records import State
from edge.settings import Settings
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell
from tests.edge.station.at_work import Listener, names, put, signal_after

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_restart_neither_repeats_nor_forgets(settings: Settings) -> None:
    for n in range(30):
        put(settings.inbox, f"{n:02}.png", n)
    for count in (1, 2, None):
        results = signal_after(count or 30 - len(names(settings.out)), signal.SIGTERM)
        run_station(settings, OneCell(), notifier=Notifier(), on_result=results.append)
    assert sorted(names(settings.out)) == [f"{n:02}.png" for n in range(30)]


def test_a_single_run_over_a_list_of_files_takes_up_where_the_last_one_ended(settings: Settings) -> None:
    for n in range(4):
        put(settings.inbox, f"{n}.png", n)
    files = sorted(settings.inbox.iterdir())
    told = []
    for some in (files[:2], files):
        with open_desk(OneCell(), settings.out) as (desk, _):
            told.append([desk.process(path).is_new for path in some])
    assert told == [[True, True], [False, False, True, True]]
    assert names(settings.out) == [path.name for path in files]


def test_promise_18_an_image_whose_file_went_away_between_two_runs_is_vanished(settings: Settings) -> None:
    put(settings.inbox, "gone.png", 1)
    pipeline = OneCell()
    pipeline.error = BackendError("x")
    run_station(settings, pipeline, notifier=Notifier())
    (settings.inbox / "gone.png").unlink()
    put(settings.inbox, "other.png", 2)
    results = signal_after(2, signal.SIGTERM)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=results.append)
    ends = {result.path.name: result.status for result in results}
    assert ends == {"gone.png": State.VANISHED, "other.png": State.DONE}


def test_promise_32_a_lost_journal_beside_rows_is_made_anew_and_nothing_is_read_twice(
    settings: Settings,
) -> None:
    put(settings.inbox, "a.png", 1)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=signal_after(1, signal.SIGTERM).append)
    shutil.rmtree(settings.state_folder)
    put(settings.inbox, "b.png", 2)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=signal_after(1, signal.SIGTERM).append)
    assert names(settings.out) == names(settings.out, "results.csv") == ["a.png", "b.png"]


def test_systemd_gives_a_start_more_time_while_a_journal_is_made_anew(
    settings: Settings, systemd: Listener
) -> None:
    for n in range(20):
        put(settings.inbox, f"{n}.png", n)
    run_station(settings, OneCell(), notifier=Notifier(), on_result=signal_after(20, signal.SIGTERM).append)
    put(settings.inbox, "new.png", 30)
    results = signal_after(1, signal.SIGTERM)
    run_station(settings, OneCell(), notifier=systemd.notifier(), on_result=results.append)
    assert not any("EXTEND" in told for told in systemd.heard())
    shutil.rmtree(settings.state_folder)
    put(settings.inbox, "newer.png", 31)
    results = signal_after(1, signal.SIGTERM)
    run_station(settings, OneCell(), notifier=systemd.notifier(), on_result=results.append)
    told = systemd.heard()
    assert told.index("EXTEND_TIMEOUT_USEC=300000000") < told.index("READY=1")
    assert sum("EXTEND" in one for one in told) < 5  # not for each image


RUNNER = """
import sys, threading
from pathlib import Path
import numpy as np
from edge.cells import Finding
from edge.settings import load_settings
import pytest

from edge.daemon import run_station

class Crowd:
    bundle_id, engine_id, crowd, likeness = "double", "double:fp32", None, None
    def read(self, rgb, watch=None, detection_threshold=None):
        cell = Finding((0, 0, 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})
        return [cell] * (1 + int(rgb[0, 0, 0]) % 5)

done = 0
def tell(result):
    global done
    done += 1
    print(done, flush=True)

inbox, out = sys.argv[1:]
settings = load_settings(inbox=inbox, out=out, quiet_period_s=0.05)
raise SystemExit(run_station(settings, Crowd(), on_result=tell))
"""


def test_promise_1_every_image_has_its_rows_exactly_once_after_a_dozen_kills(settings: Settings) -> None:
    count = 300
    for n in range(count):
        put(settings.inbox, f"{n}.png", n)
    command = [sys.executable, "-c", RUNNER, str(settings.inbox), str(settings.out)]
    for kill_after in (1, 2, 3, 5, 8, 13, 17, 19, 23, 29, 31, 37):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == kill_after:
                    process.kill()
                    break
    results = signal_after(10**9, signal.SIGTERM)

    def stop_when_all_are_there(result: ImageResult) -> None:
        results.append(result)
        if len(set(names(settings.out))) == count:
            signal.raise_signal(signal.SIGTERM)

    assert run_station(settings, OneCell(), notifier=Notifier(), on_result=stop_when_all_are_there) == 0
    assert sorted(names(settings.out)) == sorted(f"{n}.png" for n in range(count))
    with (settings.out / "images.csv").open(newline="") as file:
        leukocytes = {row["NAME"]: int(row["leukocytes"]) for row in csv.DictReader(file)}
    cells = names(settings.out, "results.csv")
    assert {name: cells.count(name) for name in leukocytes} == leukocytes
