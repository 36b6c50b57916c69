"""`make install-station` and `make uninstall-station`, into a folder that stands for /."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd.conftest import ROOT, make

CURRENT = "opt/cytologia-edge/current"


def files(tree: Path) -> set[str]:
    """What stands below a folder, releases left out."""
    return {
        path.relative_to(tree).as_posix()
        for path in tree.rglob("*")
        if "releases" not in path.parts and not path.is_dir()
    }


HOLDS_A_FILE = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
    print("mapped", flush=True)
    sys.stdin.read()
"""

INSTALLED = {
    "etc/systemd/system/cytologia-edge.service",
    "etc/systemd/system/cytologia-edge@.service",
    "etc/sysusers.d/cytologia-edge.conf",
    "etc/tmpfiles.d/cytologia-edge.conf",
    "etc/cytologia-edge/station.toml",
}


def releases(tree: Path) -> list[str]:
    return sorted(path.name for path in (tree / "opt/cytologia-edge/releases").iterdir())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with the station installed."""
    told = make("install-station", tmp_path)
    assert told.returncode == 0, told.stderr
    return tmp_path


def test_what_is_installed(tree: Path) -> None:
    assert files(tree) == INSTALLED
    release = tree / CURRENT
    assert release.resolve().name == releases(tree)[0]
    assert not (tree / CURRENT).readlink().is_absolute()
    given = (release / "pip-was-given").read_text().splitlines()
    assert given[:2] == ["install", "--quiet"]
    assert f"{ROOT}/constraints.txt" in given
    assert not any("torch" in word or "training" in word or "--editable" in word for word in given)


def test_nothing_in_a_staged_release_names_the_stage(tree: Path) -> None:
    release = (tree / CURRENT).resolve()
    final = f"/opt/cytologia-edge/releases/{release.name}"
    assert (release / "bin/edge-watch").read_text().startswith(f"#!{final}/bin/python\n")
    named = [
        path for path in release.rglob("*") if path.is_file() and str(tree).encode() in path.read_bytes()
    ]
    assert named == []
    assert list(release.rglob("*.pyc"))  # the service may not write them itself


def test_the_units_name_the_folder_that_they_were_installed_into(tmp_path: Path) -> None:
    assert make("install-station", tmp_path, PREFIX="/srv/software/edge").returncode == 0
    for unit in ("cytologia-edge.service", "cytologia-edge@.service"):
        text = (tmp_path / "etc/systemd/system" / unit).read_text()
        assert "ExecStart=/srv/software/edge/current/bin/edge-watch --settings /etc/cytologia-edge/" in text
        assert "/opt/cytologia-edge" not in text
    assert (tmp_path / "srv/software/edge/current/bin/edge-watch").exists()


def test_an_upgrade_keeps_the_settings_and_the_release_before(tree: Path) -> None:
    (tree / "etc/cytologia-edge/station.toml").write_text("mine")
    unit = tree / "etc/systemd/system/cytologia-edge.service"
    unit.write_text("old")
    first = (tree / CURRENT).resolve()
    for _ in range(2):
        before = (tree / CURRENT).resolve()
        assert make("install-station", tree).returncode == 0
    assert (tree / "etc/cytologia-edge/station.toml").read_text() == "mine"
    assert unit.read_text() != "old"
    assert releases(tree) == sorted([before.name, (tree / CURRENT).resolve().name])
    assert not first.exists()


def test_a_release_that_a_process_still_runs_from_is_kept(tree: Path) -> None:
    first = (tree / CURRENT).resolve()
    mapped = first / "mapped"
    mapped.write_bytes(b"x")
    command = [sys.executable, "-c", HOLDS_A_FILE, str(mapped)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        for _ in range(2):
            assert make("install-station", tree).returncode == 0
        assert first.exists()
        process.communicate()
    assert make("install-station", tree).returncode == 0
    assert not first.exists()


def test_an_upgrade_that_breaks_off_leaves_the_release_that_was(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(tree), releases(tree), (tree / CURRENT).resolve()
    monkeypatch.setenv("DOUBLE_PIP_FAILS", "yes")
    told = make("install-station", tree)
    assert told.returncode != 0
    assert "the install broke off; nothing was changed." in told.stderr
    assert (files(tree), releases(tree), (tree / CURRENT).resolve()) == before


def test_drop_ins_are_installed_when_asked_for_and_kept_up_to_date_after(tmp_path: Path) -> None:
    drop_ins = {
        f"etc/systemd/system/{unit}.d/{name}.conf"
        for unit in ("cytologia-edge.service", "cytologia-edge@.service")
        for name in ("gpu", "metrics")
    }
    assert make("install-station", tmp_path, GPU="yes", METRICS="yes").returncode == 0
    assert files(tmp_path) == INSTALLED | drop_ins | {"etc/modules-load.d/cytologia-edge.conf"}
    for path in drop_ins:
        (tmp_path / path).write_text("old")
    assert make("install-station", tmp_path).returncode == 0
    assert all((tmp_path / path).read_text() != "old" for path in drop_ins)


def test_extras_reach_pip(tmp_path: Path) -> None:
    assert make("install-station", tmp_path, EXTRAS="onnxruntime").returncode == 0
    assert (tmp_path / CURRENT / "pip-was-given").read_text().endswith("[onnxruntime]")


def test_an_uninstall_leaves_what_belongs_to_the_laboratory(tree: Path) -> None:
    assert make("install-station", tree, GPU="yes").returncode == 0
    mine = [
        *("etc/cytologia-edge/left.toml", "srv/cytologia-edge/results/results.csv"),
        "var/lib/cytologia-edge/journal.sqlite3",
        "etc/systemd/system/cytologia-edge.service.d/override.conf",
    ]
    for name in mine:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("mine")
    told = make("uninstall-station", tree)
    assert told.returncode == 0, told.stderr
    assert files(tree) == {*mine, "etc/cytologia-edge/station.toml"}
    assert not (tree / "opt/cytologia-edge").exists()
    for kept in (
        "/etc/cytologia-edge",
        "/var/lib/cytologia-edge",
        "/srv/cytologia-edge",
        "user cytologia-edge",
    ):
        assert kept in told.stdout
    assert make("uninstall-station", tree).returncode == 0  # nothing is left to do


def interpreter(folder: Path, version: str, path: str, base: str) -> Path:
    """A double that says this of itself."""
    double = folder / "python"
    double.write_text(f"#!/bin/sh\nprintf '%s\\n' '{version}' '{path}' '{base}'\n")
    double.chmod(0o755)
    return double


@pytest.mark.parametrize(
    ("version", "path", "base", "said"),
    [
        ("3.11", "/home/ada/bin/python3", "/home/ada", "'/home/ada/bin/python3' lies in a home"),
        ("3.11", "/opt/python", "/root/python", "'/opt/python' lies in a home"),
        ("3.10", "/usr/bin/python3", "/usr", "'/usr/bin/python3' is Python 3.10 and the station needs 3.11"),
    ],
)
def test_an_interpreter_that_will_not_do_is_refused_in_a_sentence(
    tmp_path: Path, version: str, path: str, base: str, said: str
) -> None:
    told = make("install-station", tmp_path / "tree", interpreter(tmp_path, version, path, base))
    first = told.stderr.splitlines()[0]
    assert told.returncode != 0
    assert said in first
    assert first.startswith("Error: ")
    assert "PYTHON=" in first
    assert not (tmp_path / "tree").exists()


def test_folders_that_will_not_do_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for destdir, prefix, said in (
        (tmp_path / "file", "/opt/x", "may not write to"),
        (tmp_path / "tree", "/home/x", "PREFIX is '/home/x'"),
        (tmp_path / "tree", "opt", "PREFIX is 'opt'"),
    ):
        told = make("install-station", destdir, PREFIX=prefix)
        assert told.returncode != 0
        assert said in told.stderr.splitlines()[0]
