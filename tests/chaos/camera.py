"""Smear images with known findings, any number of distinct files of each, and the ways they arrive in."""

import csv
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edge.demo.renderer import draw_tile
from edge.overlay import encode_jpeg

_COMMAND = Path(sys.executable).with_name("edge-run")
_DATA = Path(os.environ.get("CYTOLOGIA_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
_FOLDERS = ("pool/images", "smears/images")

FINDING_COLUMNS = (
    *("x1", "y1", "x2", "y2", "class"),
    *("detection_score", "class_score", "runner_up", "runner_up_score"),
)
"""What `results.csv` says of a leukocyte that depends on the pixels alone."""

Finding = tuple[str, ...]
"""The cells of `FINDING_COLUMNS`."""


@dataclass(frozen=True, slots=True)
class Original:
    """An image and what the station finds in it.

    Attributes:
        findings: as `edge-run` gave them once.
    """

    data: bytes
    suffix: str
    findings: tuple[Finding, ...]

    def copy(self, number: int) -> bytes:
        """The same pixels in other bytes."""
        text = f"copy {number}".encode()
        if self.suffix == ".png":
            end = self.data[-12:]
            return self.data[:-12] + _png_chunk(b"tEXt", b"Comment\0" + text) + end
        return self.data[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + self.data[2:]


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def real_or_drawn(count: int) -> tuple[str, list[bytes]]:
    """JPEG images: real ones of the data folder, drawn ones where there is none; and which."""
    files: list[Path] = []
    for folder in _FOLDERS:
        found = sorted((_DATA / folder).glob("*.jpg"))
        wanted = count // len(_FOLDERS)
        files += found[:: max(1, len(found) // wanted)][:wanted]
    if len(files) == count:
        return "real smear images", [file.read_bytes() for file in files]
    return "drawn smears", [encode_jpeg(draw_tile(seed).rgb) for seed in range(count)]


def with_truth(images: Sequence[bytes], suffix: str, folder: Path) -> list[Original]:
    """Ask `edge-run` once what is in the images."""
    inbox, out = folder / "originals", folder / "truth"
    inbox.mkdir(parents=True)
    for number, data in enumerate(images):
        (inbox / f"{number:05}{suffix}").write_bytes(data)
    command = [str(_COMMAND), str(inbox), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    findings: dict[str, list[Finding]] = {}
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            findings.setdefault(row["image_sha256"], []).append(tuple(row[key] for key in FINDING_COLUMNS))
    with (out / "images.csv").open(newline="", encoding="utf-8") as file:
        assert {row["status"] for row in csv.DictReader(file)} <= {"done", "empty"}
    return [Original(data, suffix, tuple(findings.get(sha256(data).hexdigest(), ()))) for data in images]


@dataclass(frozen=True, slots=True)
class Dropped:
    """An image that the camera has put into the inbox.

    Attributes:
        name, sample: as the CSV files have them.
    """

    name: str
    sample: str
    sha256: str
    findings: tuple[Finding, ...]


class Camera:
    """Puts distinct copies of the originals into the inbox and remembers what it put. For one thread.

    Args:
        outside: a folder of the same file system, from which files are moved and linked.
        pause: waits for a time in seconds.

    Attributes:
        dropped: all images that the inbox holds or held, each to be answered once.
        partial: sha256 of what a file that was written in place held on the way.
    """

    def __init__(
        self,
        inbox: Path,
        outside: Path,
        originals: Sequence[Original],
        rng: random.Random,
        pause: Callable[[float], object],
    ) -> None:
        self._inbox = inbox
        self.outside = outside
        self._originals = originals
        self.rng = rng
        self.pause = pause
        self.dropped: list[Dropped] = []
        self.partial: set[str] = set()
        self._count = 0
        outside.mkdir(exist_ok=True)

    def drop(self, sample: str = "", write: "Way | None" = None) -> Dropped:
        """A new file, in the way given, else in any."""
        original, data = self._next()
        name = f"{self._count:06}{original.suffix}"
        way = write or self.rng.choice(NEW_FILE_WAYS)
        (self._inbox / sample).mkdir(parents=True, exist_ok=True)
        way(self, self._inbox / sample / name, data)
        return self._remember(name, sample, original, data)

    def overwrite(self, old: Dropped) -> Dropped:
        """New bytes in the place of an image that has its answer."""
        original, data = self._next()
        way = self.rng.choice((write_in_place, write_part_and_rename))
        way(self, self._inbox / old.sample / old.name, data)
        return self._remember(old.name, old.sample, original, data)

    def _next(self) -> tuple[Original, bytes]:
        self._count += 1
        original = self.rng.choice(self._originals)
        return original, original.copy(self._count)

    def _remember(self, name: str, sample: str, original: Original, data: bytes) -> Dropped:
        dropped = Dropped(name, sample, sha256(data).hexdigest(), original.findings)
        self.dropped.append(dropped)
        return dropped


Way = Callable[[Camera, Path, bytes], None]


def write_in_place(camera: Camera, path: Path, data: bytes) -> None:
    """Slowly, in pieces, as a careless program does."""
    pieces = camera.rng.randint(1, 4)
    camera.partial.add(sha256(b"").hexdigest())
    with path.open("wb", buffering=0) as file:
        for number in range(pieces):
            if number:
                camera.pause(camera.rng.uniform(0, 0.08))
            begin, end = (len(data) * part // pieces for part in (number, number + 1))
            file.write(data[begin:end])
            camera.partial.add(sha256(data[:end]).hexdigest())
    camera.partial.discard(sha256(data).hexdigest())


def write_at_once(camera: Camera, path: Path, data: bytes) -> None:
    """One write under the final name."""
    path.write_bytes(data)


def write_part_and_rename(camera: Camera, path: Path, data: bytes) -> None:
    """Under a name that the station ignores, then renamed."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.rename(path)


def move_in(camera: Camera, path: Path, data: bytes) -> None:
    """From a folder beside the inbox."""
    source = camera.outside / path.name
    source.write_bytes(data)
    source.rename(path)


def link_in(camera: Camera, path: Path, data: bytes) -> None:
    """A second name of a file beside the inbox."""
    source = camera.outside / f"linked-{path.name}"
    source.write_bytes(data)
    path.hardlink_to(source)


NEW_FILE_WAYS: tuple[Way, ...] = (write_in_place, write_part_and_rename, move_in, link_in)
