"""The long proofs: `make chaos` runs them at full size, `make chaos-quick` at a tenth or less; a plain run
of pytest leaves them out. Their figures go to runs/chaos/*.json and, all together, to summary.md there.
"""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos.camera import Original, real_or_drawn, with_truth
from tests.chaos.daemon import Daemon

SCALE = os.environ.get("CHAOS", "")
"""full, quick, or nothing: do not collect."""

RUNS = Path(__file__).parents[2] / "runs" / ("chaos" if SCALE == "full" else "chaos-quick")

if SCALE not in ("full", "quick"):
    collect_ignore_glob = ["*"]

Report = Callable[..., None]


@pytest.fixture(scope="session")
def is_full() -> bool:
    return SCALE == "full"


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    """Sixty images with what `edge-run` finds in them."""
    kind, images = real_or_drawn(60)
    say(f"asking edge-run once about 60 {kind}")
    return with_truth(images, ".jpg", tmp_path_factory.mktemp("truth"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A station's folder with an empty inbox."""
    folder = tmp_path / "station"
    (folder / "inbox").mkdir(parents=True)
    return folder


@pytest.fixture
def start() -> Iterator[Callable[..., Daemon]]:
    """`Daemon`, ended with the test."""
    daemons = []

    def started(home: Path, **settings: object) -> Daemon:
        daemons.append(Daemon(home, **settings))
        return daemons[-1]

    yield started
    for daemon in daemons:
        daemon.close()


class Mounts:
    """Mounts that end with the test."""

    def __init__(self) -> None:
        self._folders: list[Path] = []

    def tmpfs(self, folder: Path, size: str) -> None:
        """A small disk on a folder."""
        self._mount(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def bind(self, folder: Path, source: Path) -> None:
        """What is in another folder, on a folder."""
        self._mount(folder, "--bind", str(source))

    def unmount(self, folder: Path) -> None:
        """Take the last mount off a folder."""
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        self._folders.remove(folder)

    def close(self) -> None:
        """Take all off."""
        for folder in reversed(self._folders[:]):
            self.unmount(folder)

    def _mount(self, folder: Path, *what: str) -> None:
        done = subprocess.run(["mount", *what, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount (root, or `unshare -rm`): {done.stderr.splitlines()[0]}")
        self._folders.append(folder)


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    opened = Mounts()
    yield opened
    opened.close()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Keep a sentence and the figures of a test; one that fails leaves none."""
    began_s = time.monotonic()
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    path = RUNS / f"{name}.json"
    path.unlink(missing_ok=True)

    def keep(sentence: str, **figures: object) -> None:
        target = "chaos" if SCALE == "full" else "chaos-quick"
        about = {
            "sentence": sentence,
            "command": f"make {target} ONLY={request.path.stem.removeprefix('test_')}",
            "seconds": round(time.monotonic() - began_s, 1),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} processors, Linux {platform.release()}",
        }
        RUNS.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**about, **figures}, indent=2) + "\n")
        say(sentence)

    return keep


def say(text: str) -> None:
    """Progress, for who waits (pytest runs with -s)."""
    print(f"\n  {datetime.now():%H:%M:%S} {text}", end="", flush=True)


def pytest_sessionfinish() -> None:
    """All figures of this and earlier runs as a table for the documentation."""
    if not SCALE:
        return
    figures = [json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))]
    if not figures:
        return
    lines = ["| what was seen | command | took |", "|---|---|---:|"]
    lines += [f"| {it['sentence']} | `{it['command']}` | {it['seconds']:.0f} s |" for it in figures]
    (RUNS / "summary.md").write_text("\n".join(lines) + "\n")
    print(f"\nThe figures: {RUNS / 'summary.md'}")
