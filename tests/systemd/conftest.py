"""What these tests share: the station installed into a folder, and a machine that boots with it."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.systemd.machine import CannotBootError, Machine

ROOT = Path(__file__).parents[2]
DOUBLE = Path(__file__).with_name("python_double.py")


def make(
    target: str, destdir: Path, python: Path = DOUBLE, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """A target of the Makefile with a folder that stands for /, and with a double for the interpreter."""
    given = {"DESTDIR": str(destdir), "PYTHON": str(python), **variables}
    # The double's first line asks the path for an interpreter.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["make", "--no-print-directory", target, *(f"{name}={value}" for name, value in given.items())]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@contextlib.contextmanager
def booted(tree: Path, seen_at: dict[Path, str]) -> Iterator[Machine]:
    """A machine with the station's user and folders. Skips with the reason where none can be booted."""
    try:
        machine = Machine(tree, seen_at)
    except CannotBootError as error:
        pytest.skip(f"cannot boot a systemd: {error}")
    try:
        machine.run("systemd-sysusers", "cytologia-edge.conf")
        machine.run("systemd-tmpfiles", "--create", "cytologia-edge.conf")
        yield machine
    finally:
        machine.close()


@contextlib.contextmanager
def with_this_station(tree: Path) -> Iterator[Machine]:
    """A machine with the shipped units and the daemon of this working copy."""
    assert (told := make("install-station", tree)).returncode == 0, told.stderr
    _show_python(tree / "opt/cytologia-edge/current")
    seen_at = {
        Path(sys.base_prefix): "/opt/python",
        Path(click.__file__).parents[1]: "/opt/packages",
        ROOT / "edge": "/opt/source/edge",
        ROOT / "systemd": "/opt/source/systemd",
    }
    with booted(tree, seen_at) as machine:
        # An interpreter that was moved would take the library of another one.
        machine.run("systemctl", "set-environment", "LD_LIBRARY_PATH=/opt/python/lib")
        yield machine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for all tests; most take an instance of the template each."""
    with with_this_station(tmp_path_factory.mktemp("tree")) as machine:
        yield machine


def _show_python(release: Path) -> None:
    """Let the release run the daemon of this working copy with the packages that the tests use.

    Their interpreter, packages and sources may lie in a home folder, which ProtectHome=yes keeps from a
    service: in the machine they are seen below /opt.
    """
    version = f"python3.{sys.version_info[1]}"
    for name in ("python", "python3", version):
        (release / "bin" / name).unlink(missing_ok=True)
        (release / "bin" / name).symlink_to(f"/opt/python/bin/{version}")
    (release / "pyvenv.cfg").write_text("home = /opt/python/bin\ninclude-system-site-packages = false\n")
    site = release / "lib" / version / "site-packages"
    shutil.rmtree(site / "pip")
    (site / "station.pth").write_text("/opt/source\n/opt/packages\n")
