"""The shipped units under a real systemd, with the real daemon and the embedded bundle."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.demo.renderer import draw_tile
from edge.demo.show import encode_jpeg
from tests.systemd.conftest import ROOT, booted, make, with_this_station
from tests.systemd.machine import Machine

IMAGES = [encode_jpeg(draw_tile(seed, "PNN").rgb) for seed in range(8)]


@dataclass
class Service:
    """A station in the machine: its unit, and where its files are seen from here."""

    machine: Machine
    unit: str
    inbox: Path
    out: Path

    def start(self) -> None:
        self.machine.run("systemctl", "start", self.unit)

    def stop(self) -> None:
        self.machine.run("systemctl", "stop", self.unit)

    def show(self, name: str) -> str:
        return self.machine.show(self.unit, name)

    def until(self, **properties: str) -> None:
        """Wait until `systemctl show` has these values."""
        what = f"{self.unit} has {properties}"
        self.machine.until(what, lambda: {name: self.show(name) for name in properties} == properties)

    def drop(self, name: str, image: bytes) -> None:
        """As a camera should: under another name first."""
        path = self.inbox / name
        path.with_name(f"{name}.part").write_bytes(image)
        path.with_name(f"{name}.part").rename(path)

    def names(self) -> list[str]:
        """Of the images that have their row, in order."""
        if not (self.out / "images.csv").exists():
            return []
        with (self.out / "images.csv").open(newline="") as file:
            return [row["NAME"] for row in csv.DictReader(file)]

    def until_answered(self, *names: str) -> None:
        self.machine.until(f"{names} have rows", lambda: set(names) <= set(self.names()))

    def signal(self, number: signal.Signals) -> None:
        self.machine.run("systemctl", "kill", f"--signal={number.name}", "--kill-who=main", self.unit)

    def drop_in(self, text: str) -> None:
        """What `systemctl edit` would add to the unit."""
        folder = self.machine.path(f"/etc/systemd/system/{self.unit}.d")
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.machine.run("systemctl", "daemon-reload")


@pytest.fixture
def station(machine: Machine) -> Iterator[Service]:
    """The station of the example settings."""
    service = Service(
        machine,
        "cytologia-edge.service",
        machine.path("/srv/cytologia-edge/inbox"),
        machine.path("/srv/cytologia-edge/results"),
    )
    yield service
    machine.run("systemctl", "stop", service.unit)
    machine.run("systemctl", "reset-failed", service.unit, ok=False)


def instance(machine: Machine, name: str, **settings: str | int) -> Service:
    """A station of the template, with its folders and settings as docs/station.md tells to make them."""
    home = f"/srv/cytologia-edge/{name}"
    owner = ("install", "-d", "-o", "cytologia-edge")
    machine.run(*owner, "-g", "cytologia-inbox", "-m", "2770", f"{home}/inbox")
    machine.run(*owner, "-g", "cytologia-edge", "-m", "2750", f"{home}/results")
    values = {"inbox": f"{home}/inbox", "out": f"{home}/results", **settings}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    machine.path(f"/etc/cytologia-edge/{name}.toml").write_text(text)
    inside = machine.path(home)
    return Service(machine, f"cytologia-edge@{name}.service", inside / "inbox", inside / "results")


def test_promise_34_the_status_tells_engine_queue_last_file_and_failures(station: Service) -> None:
    station.drop("smear.jpg", IMAGES[0])
    station.drop("notes.txt", b"no image")
    station.start()
    assert station.show("ActiveState") == "active"  # `start` returns at READY
    station.until_answered("smear.jpg", "notes.txt")
    station.machine.until("the status has both", lambda: "rejected 1" in station.show("StatusText"))
    status = station.machine.run("systemctl", "status", "--no-pager", "--full", station.unit)
    line = next(line for line in status.splitlines() if line.strip().startswith("Status:"))
    for told in ("openvino:", "bundle demo-", "queue 0", "last '", "failures 1"):
        assert told in line


def test_the_camera_puts_images_and_the_laboratory_reads_results(station: Service) -> None:
    run = station.machine.run
    run("useradd", "--groups", "cytologia-inbox", "camera")
    run("useradd", "--groups", "cytologia-edge", "laboratory")
    station.start()
    station.machine.path("/tmp/shot.jpg").write_bytes(IMAGES[1])
    inbox, out = "/srv/cytologia-edge/inbox", "/srv/cytologia-edge/results"
    shoot = f"umask 027 && mkdir '{inbox}/sample 7' && cp /tmp/shot.jpg '{inbox}/sample 7/'"
    run("sh", "-c", shoot, user="camera")  # readable for the group alone
    station.until_answered("shot.jpg")
    assert "sample 7" in run("cat", f"{out}/results.csv", user="laboratory")
    refused = (("laboratory", f"{out}/results.csv"), ("laboratory", f"{inbox}/x"), ("camera", f"{out}/x"))
    for user, path in refused:
        with pytest.raises(AssertionError, match="Permission denied"):
            run("dd", "if=/dev/null", f"of={path}", "conv=notrunc", user=user)


def test_images_cannot_be_changed_by_the_station(station: Service) -> None:
    station.start()
    inside = ("nsenter", f"--target={station.show('MainPID')}", "--mount")
    station.machine.run(*inside, "touch", "/srv/cytologia-edge/results/probe")
    for path in ("/srv/cytologia-edge/inbox", "/etc", "/opt/cytologia-edge", "/usr"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            station.machine.run(*inside, "touch", f"{path}/probe")


def test_promise_33_a_killed_station_is_started_again_and_goes_on(station: Service) -> None:
    station.start()
    station.drop("before.jpg", IMAGES[2])
    station.until_answered("before.jpg")
    station.signal(signal.SIGKILL)
    station.drop("while-dead.jpg", IMAGES[3])
    station.until(NRestarts="1", ActiveState="active")
    station.until_answered("while-dead.jpg")
    assert len(station.names()) == len(set(station.names()))


def test_promise_13_a_station_that_hangs_is_restarted_within_two_watchdog_periods(machine: Machine) -> None:
    hangs = instance(machine, "hangs")
    hangs.drop_in("[Service]\nWatchdogSec=3\nRestartSec=100ms\n")
    hangs.start()
    hangs.drop("a.jpg", IMAGES[0])
    hangs.until_answered("a.jpg")
    pid = int(hangs.show("MainPID"))
    hangs.signal(signal.SIGSTOP)
    seconds = machine.until("it is killed", lambda: hangs.show("MainPID") != str(pid))
    assert seconds <= 2 * 3
    hangs.until(NRestarts="1", ActiveState="active")
    machine.until("systemd says why", lambda: machine.has_logged(f"{hangs.unit}: Watchdog timeout"))
    hangs.drop("b.jpg", IMAGES[1])
    hangs.until_answered("b.jpg")
    hangs.stop()


def test_promise_14_a_stop_in_the_middle_ends_with_0_and_loses_nothing(machine: Machine) -> None:
    busy = instance(machine, "busy")
    names = [f"{n}.jpg" for n in range(100)]
    for n, name in enumerate(names):
        busy.drop(name, IMAGES[n % len(IMAGES)] + bytes([n]))  # what follows a JPEG's end is not looked at
    busy.start()
    machine.until("it has begun", lambda: len(busy.names()) > 0)
    busy.stop()
    assert len(busy.names()) < len(names), "too fast for this test"
    ended = [busy.show(name) for name in ("ActiveState", "Result", "ExecMainStatus")]
    assert ended == ["inactive", "success", "0"]
    busy.start()
    busy.until_answered(*names)
    assert sorted(busy.names()) == sorted(names)
    busy.stop()


def test_promise_33_wrong_settings_are_not_tried_again(machine: Machine) -> None:
    wrong = instance(machine, "wrong", inbix="/srv")
    machine.run("systemctl", "start", wrong.unit, ok=False)
    wrong.until(ActiveState="failed", Result="exit-code", ExecMainStatus="78", NRestarts="0")
    machine.until("its sentence is in the log", lambda: machine.has_logged("did you mean 'inbox'"))


def test_promise_33_five_failures_in_five_minutes_put_the_unit_into_failed(machine: Machine) -> None:
    fails = instance(machine, "fails")
    fails.drop_in("[Service]\nRestartSec=100ms\n")
    machine.run("chown", "root:root", "/srv/cytologia-edge/fails/results")
    machine.run("systemctl", "start", fails.unit, ok=False)
    fails.until(ActiveState="failed", NRestarts="5")
    assert fails.show("ExecMainStatus") == "74"
    given_up = f"{fails.unit}: Start request repeated too quickly"
    machine.until("systemd says why", lambda: machine.has_logged(given_up))


def test_two_stations_on_one_machine_know_nothing_of_each_other(machine: Machine) -> None:
    left, right = instance(machine, "left"), instance(machine, "right")
    machine.run("systemctl", "start", left.unit, right.unit)
    left.drop("left.jpg", IMAGES[4])
    right.drop("right.jpg", IMAGES[4])
    left.until_answered("left.jpg")
    right.until_answered("right.jpg")
    assert (left.names(), right.names()) == (["left.jpg"], ["right.jpg"])
    journals = machine.run("sh", "-c", "cd /var/lib/cytologia-edge && ls */journal.sqlite3").split()
    assert {"left/journal.sqlite3", "right/journal.sqlite3"} <= set(journals)
    left.stop()
    right.stop()


def test_promise_16_a_share_that_is_mounted_while_the_service_runs_is_seen_and_so_is_its_end(
    machine: Machine,
) -> None:
    shared = instance(machine, "shared")
    shared.drop_in("[Service]\nWatchdogSec=6\n")  # the station looks around three times as often
    shared.start()
    shared.drop("local.jpg", IMAGES[0])
    shared.until_answered("local.jpg")
    machine.run("mount", "-t", "tmpfs", "tmpfs", "/srv/cytologia-edge/shared/inbox")
    shared.drop("share.jpg", IMAGES[1])
    shared.until_answered("share.jpg")
    machine.run("umount", "/srv/cytologia-edge/shared/inbox")
    shared.drop("local-again.jpg", IMAGES[2])
    shared.until_answered("local-again.jpg")
    assert shared.show("NRestarts") == "0"
    shared.stop()


def test_metrics_are_read_on_loopback_with_their_drop_in_and_not_without(machine: Machine) -> None:
    if shutil.which("ip") is None:
        pytest.skip("there is no ip, to give the machine a second address")
    measured = instance(machine, "measured", metrics_port=9464, metrics_address="0.0.0.0")
    address = "192.0.2.1"
    machine.run("ip", "address", "add", f"{address}/32", "dev", "lo")

    def read(host: str) -> str:
        ask = f"exec 3<>/dev/tcp/{host}/9464; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        return machine.run("timeout", "1", "bash", "-c", ask, ok=False)

    machine.run("systemctl", "start", measured.unit, ok=False)
    assert measured.show("ExecMainStatus") == "78"
    measured.drop_in((ROOT / "systemd/metrics.conf").read_text())
    measured.start()
    assert "200 OK" in read("127.0.0.1")
    assert read(address) == ""
    measured.stop()


def test_an_uninstall_ends_all_stations_and_keeps_their_files(tmp_path: Path) -> None:
    with with_this_station(tmp_path) as machine:
        left = instance(machine, "left")
        station = "cytologia-edge.service"
        machine.run("systemctl", "enable", "--now", left.unit, station)
        left.drop("a.jpg", IMAGES[0])
        left.until_answered("a.jpg")
        machine.run("systemctl", "stop", station)  # enabled and not running is taken back, too
        machine.run("/opt/source/systemd/uninstall-station")
        for unit in (left.unit, station):
            assert machine.show(unit, "LoadState") == "not-found"
            assert machine.show(unit, "ActiveState") == "inactive"
        assert list(machine.path("/etc/systemd/system").rglob("cytologia-edge*")) == []
        assert not machine.path("/opt/cytologia-edge").exists()
        assert left.names() == ["a.jpg"]
        assert machine.path("/var/lib/cytologia-edge/left/journal.sqlite3").exists()
        machine.run("id", "cytologia-edge")


@pytest.mark.skipif(
    not os.environ.get("CHAOS"), reason="needs the package index and half a minute: set CHAOS"
)
@pytest.mark.timeout(600)
def test_the_real_install_runs_where_its_stage_was_moved_to(tmp_path: Path) -> None:
    stage, tree = tmp_path / "stage", tmp_path / "tree"
    told = make("install-station", stage, Path("/usr/bin/python3"))
    assert told.returncode == 0, told.stderr
    tree.mkdir()
    (stage / "etc").rename(tree / "etc")
    with booted(tree, {stage / "opt/cytologia-edge": "/opt/cytologia-edge"}) as machine:
        real = instance(machine, "real")
        real.start()
        real.drop("a.jpg", IMAGES[0])
        real.until_answered("a.jpg")
        assert machine.run("/opt/cytologia-edge/current/bin/edge-watch", "--help").startswith("Usage")


def test_the_exposure_that_systemd_sees_in_the_loaded_unit(station: Service) -> None:
    told = station.machine.run("systemd-analyze", "security", "--no-pager", station.unit)
    assert float(told.rstrip().splitlines()[-1].split(":")[1].split()[0]) <= 1.0
