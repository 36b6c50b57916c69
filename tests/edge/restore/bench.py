"""A station with files of every fate, and what may befall its journal."""

import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from edge.desk import Desk
from edge.images import ImageLimits
from edge.outputs import open_desk
from tests.edge.pipeline_doubles import AsManyAsBright


class Station:
    """An inbox with files of every fate, and what stands beside it."""

    def __init__(self, folder: Path) -> None:
        self.inbox, self.out, self.state = (folder / name for name in ("in", "out", "state"))
        (self.inbox / "sample, 1").mkdir(parents=True)
        for n in (0, 1, 3):
            Image.new("RGB", (8, 6), (n, 7, 7)).save(self.inbox / f"{n}.png")
        shutil.copy(self.inbox / "3.png", self.inbox / "sample, 1" / "=copy \udcff\n.png")
        Image.new("RGB", (8, 6), (2, 7, 7)).save(self.inbox / "sample, 1" / "2.png")
        (self.inbox / "text.png").write_text("no image")
        (self.inbox / "large.png").write_bytes(bytes(5000))
        (self.inbox / "empty.png").touch()

    def run(self, more: Callable[[Desk], object] = lambda _: None, state: Path | None = None) -> int:
        """Process all files once; how many new answers there were."""
        new = 0
        options = {"inbox": self.inbox, "limits": ImageLimits(max_bytes=4096)}
        with open_desk(AsManyAsBright(), self.out, state or self.state, **options) as (desk, _):
            for path in [*sorted(self.inbox.rglob("*.png")), self.inbox / "gone.png"]:
                new += desk.process(path, self.sample(path)).is_new
            more(desk)
        return new

    def sample(self, path: Path) -> str:
        return "" if path.parent == self.inbox else path.parent.name

    @property
    def journal(self) -> Path:
        return self.state / "journal.sqlite3"

    def csv(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.out.glob("*.csv"))}

    def kept(self) -> list[str]:
        return sorted(path.name.split("-")[0] for path in self.state.glob("journal.*-*.sqlite3"))


def damage(station: Station) -> None:
    with station.journal.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 20_000)


def blank(station: Station) -> None:
    station.journal.write_bytes(b"")


def nonsense(station: Station) -> None:
    station.journal.write_bytes(b"damaged" * 1000)


def lose(station: Station) -> None:
    shutil.rmtree(station.state)
