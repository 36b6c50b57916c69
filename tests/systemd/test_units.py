"""The units as files: what systemd says of them without running them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.exit_codes import ExitCode
from tests.systemd.conftest import ROOT

SHIPPED = ROOT / "systemd"
STATION, INSTANCE = "cytologia-edge.service", "cytologia-edge@.service"
pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def settings_of(*files: str) -> dict[str, list[str]]:
    """All values of each key, in the order in which systemd reads them."""
    values: dict[str, list[str]] = {}
    for file in files:
        for line in (SHIPPED / file).read_text().splitlines():
            if "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                values.setdefault(key, []).append(value)
    return values


def staged(folder: Path, unit: str, *drop_ins: str) -> Path:
    """The unit in a folder, with a command that this machine has."""
    text = (SHIPPED / unit).read_text().replace("/opt/cytologia-edge/current/bin/edge-watch", sys.executable)
    (folder / unit).write_text(text)
    (folder / f"{unit}.d").mkdir()
    for drop_in in drop_ins:
        shutil.copy(SHIPPED / drop_in, folder / f"{unit}.d")
    return folder / unit


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


def exposure(unit: Path) -> float:
    """The score of `systemd-analyze security`, 0 (best) to 10."""
    told = analyze("security", "--offline=true", "--no-pager", unit)
    return float(told.stdout.rstrip().splitlines()[-1].split(":")[1].split()[0])


@pytest.mark.parametrize("drop_ins", [(), ("gpu.conf",), ("metrics.conf",), ("gpu.conf", "metrics.conf")])
@pytest.mark.parametrize("unit", [STATION, INSTANCE])
def test_systemd_understands_every_line(tmp_path: Path, unit: str, drop_ins: tuple[str, ...]) -> None:
    told = analyze("verify", "--recursive-errors=no", staged(tmp_path, unit, *drop_ins))
    assert (told.returncode, told.stderr) == (0, "")


def test_a_misspelt_key_would_be_seen(tmp_path: Path) -> None:
    unit = staged(tmp_path, STATION)
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in analyze("verify", "--recursive-errors=no", unit).stderr


@pytest.mark.parametrize("unit", [STATION, INSTANCE])
@pytest.mark.parametrize(("drop_ins", "most"), [((), 1.0), (("gpu.conf",), 1.3), (("metrics.conf",), 1.5)])
def test_how_exposed_a_unit_may_be(tmp_path: Path, unit: str, drop_ins: tuple[str, ...], most: float) -> None:
    assert exposure(staged(tmp_path, unit, *drop_ins)) <= most


@pytest.mark.parametrize("unit", [STATION, INSTANCE])
def test_promise_33_a_failing_station_is_started_again_and_given_up_after_five_in_five_minutes(
    unit: str,
) -> None:
    values = settings_of(unit)
    promised = {
        "Type": "notify",
        "NotifyAccess": "main",
        "Restart": "on-failure",
        "RestartPreventExitStatus": f"{ExitCode.USAGE} {ExitCode.CONFIGURATION}",
        "StartLimitIntervalSec": "300",
        "StartLimitBurst": "5",
        "WatchdogSec": "60",
        "TimeoutStopSec": "30",
    }
    assert {key: values[key] for key in promised} == {key: [value] for key, value in promised.items()}


def test_both_units_differ_in_nothing_but_names_and_places() -> None:
    def lines(unit: str) -> list[str]:
        return [line for line in (SHIPPED / unit).read_text().splitlines() if not line.startswith("#")]

    expected = [
        line.replace("Edge: reads", "Edge: %i: reads")
        .replace("/station.toml", "/%i.toml")
        .replace("StateDirectory=cytologia-edge", "StateDirectory=cytologia-edge/%i")
        .replace("/srv/cytologia-edge/results", "/srv/cytologia-edge/%i/results")
        for line in lines(STATION)
    ]
    assert lines(INSTANCE) == expected


def test_what_engines_cannot_bear_is_not_set() -> None:
    values = settings_of(STATION)
    assert "MemoryDenyWriteExecute" not in values  # OpenVINO's CPU plugin compiles kernels
    assert values["SystemCallErrorNumber"] == ["EPERM"]  # refused, it goes on; killed, it does not


def test_the_gpu_drop_in_opens_the_cards_devices_and_no_more() -> None:
    values = settings_of("gpu.conf")
    assert settings_of(STATION)["DevicePolicy"] == ["closed"]
    assert set(values) == {"After", "PrivateDevices", "DeviceAllow", "ProcSubset"}
    devices = {value.split()[0] for value in values["DeviceAllow"]}
    assert devices == {
        *("char-nvidia", "char-nvidia-frontend", "char-nvidia-uvm", "char-nvidia-caps"),
        "/dev/nvidiactl",
    }
    assert (SHIPPED / "gpu.modules-load.conf").read_text().splitlines()[-1] == "nvidia-uvm"


def test_the_metrics_drop_in_opens_loopback_and_no_more() -> None:
    assert settings_of(STATION)["IPAddressDeny"] == ["any"]
    assert settings_of("metrics.conf") == {
        "PrivateNetwork": ["no"],
        "RestrictAddressFamilies": ["AF_INET AF_INET6"],
        "IPAddressAllow": ["localhost"],
    }


def test_every_code_that_ends_the_station_is_explained() -> None:
    page = (ROOT / "docs/station.md").read_text()
    for code in ExitCode:
        assert f"\n| {code.value} |" in page, code


def test_the_station_is_in_the_group_of_the_inbox(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("there is no systemd-sysusers")
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    subprocess.run(["systemd-sysusers", root, SHIPPED / "cytologia-edge.sysusers.conf"], check=True)
    groups = [line.split(":") for line in (tmp_path / "etc/group").read_text().splitlines()]
    members = {name: member for name, _, _, member in groups}
    assert members == {"cytologia-edge": "", "cytologia-inbox": "cytologia-edge"}
    assert (tmp_path / "etc/passwd").read_text().startswith("cytologia-edge:x:")


def test_the_folders_hold_a_shared_group_and_keep_what_a_machine_changes(tmp_path: Path) -> None:
    if shutil.which("systemd-tmpfiles") is None:
        pytest.skip("there is no systemd-tmpfiles")
    # Who may not give files away still sees the modes: the owners become those that run the test.
    mine = (SHIPPED / "cytologia-edge.tmpfiles.conf").read_text()
    for name in (":root", ":cytologia-edge", ":cytologia-inbox"):
        mine = mine.replace(f" {name}", " -")
    (tmp_path / "mine.conf").write_text(mine)
    command = ["systemd-tmpfiles", "--create", f"--root={tmp_path}", str(tmp_path / "mine.conf")]
    subprocess.run(command, check=True)

    def modes() -> dict[str, str]:
        folders = sorted((tmp_path / "srv").rglob("*"))
        return {folder.name: f"{folder.stat().st_mode & 0o7777:04o}" for folder in folders}

    assert modes() == {"cytologia-edge": "0755", "inbox": "2770", "results": "2750"}
    (tmp_path / "srv/cytologia-edge/results").chmod(0o2770)
    subprocess.run(command, check=True)
    assert modes()["results"] == "2770"
