"""A desk with its outputs, that can be opened anew as after a crash."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from edge.desk import Desk
from edge.journal import Journal
from edge.results import Results
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell


@dataclass
class Bench:
    """A desk with its outputs in a folder; `restart` opens it anew, as after a crash."""

    folder: Path
    pipeline: OneCell = field(default_factory=OneCell)
    options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("in", "state", "out"):
            (self.folder / name).mkdir()
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.folder / "state")
        self.results = Results(self.folder / "out", self.journal)
        self.desk = Desk(self.pipeline, self.journal, self.results, **self.options)  # type: ignore[arg-type]
        self.desk.recover()

    def close(self) -> None:
        self.journal.close()

    def restart(self, **options: object) -> None:
        self.close()
        self.options = options
        self.open()

    def path(self, name: str) -> Path:
        return self.folder / "in" / name

    def put(self, name: str, colour: int = 200) -> Path:
        image = Image.new("RGB", (8, 6), (colour, colour, colour))
        data = io.BytesIO()
        image.save(data, "PNG")
        self.path(name).write_bytes(data.getvalue())
        return self.path(name)

    def process(self, name: str) -> ImageResult:
        return self.desk.process(self.path(name))

    def rows(self, file: str = "images.csv") -> list[dict[str, str]]:
        with (self.folder / "out" / file).open(newline="", encoding="utf-8") as opened:
            return list(csv.DictReader(opened))

    def answers(self) -> list[tuple[str, str, str]]:
        return [(row["NAME"], row["status"], row["reason"]) for row in self.rows()]
