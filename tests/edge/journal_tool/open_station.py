"""A station that is at work, whose desk stays open, and the command that looks at its journal."""

import csv
import io
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from edge.cells import Finding
from edge.journal_file import JOURNAL_NAME
from edge.journal_tool.command import journal
from edge.outputs import open_desk
from edge.tasks import ImageResult
from tests.edge.pipeline_doubles import OneCell, neutrophil


class TwoCells(OneCell):
    """A double of the pipeline: a neutrophil and an eosinophil in every image that is not black."""

    def cells(self, rgb: NDArray[np.uint8]) -> list[Finding]:
        eosinophil = Finding((4, 0, 8, 4), "EO", 0.7, 0.6, {"EO": 0.6, "PNN": 0.3, "BA": 0.1})
        return [neutrophil(), eosinophil] if rgb.any() else []


@dataclass
class Station:
    """A desk that stays open, as that of a daemon does, and the command that looks at its journal."""

    folder: Path
    pipeline: TwoCells = field(default_factory=TwoCells)
    closing: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        (self.folder / "in").mkdir()
        self.open()

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def open(self) -> None:
        self.desk, self.journal = self.closing.enter_context(open_desk(self.pipeline, self.out))

    def put(self, name: str | bytes, colour: int) -> Path:
        data = io.BytesIO()
        Image.new("RGB", (8, 6), (colour, colour, colour)).save(data, "PNG")
        path = self.folder / "in" / os.fsdecode(name)
        path.write_bytes(data.getvalue())
        return path

    def read(self, name: str | bytes, colour: int) -> ImageResult:
        return self.desk.process(self.put(name, colour))

    def text(self, name: str) -> ImageResult:
        path = self.folder / "in" / name
        path.write_text(f"dear hospital, this is {name}")
        return self.desk.process(path)

    def ask(self, *args: object) -> Result:
        result = CliRunner().invoke(journal, ["--out", str(self.out), *map(str, args)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def asked(self, *args: object) -> list[dict[str, object]]:
        result = self.ask(*args, "--json")
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    def statuses(self, *args: object) -> list[tuple[object, object]]:
        return [(Path(str(one["path"])).name, one["status"]) for one in self.asked("list", *args)]

    def rows(self, file: str, folder: Path | None = None) -> list[list[str]]:
        with ((folder or self.out) / file).open(newline="", encoding="utf-8") as opened:
            return list(csv.reader(opened))[1:]

    def differences(self, *args: object) -> list[str]:
        """The sentences of `verify`, whose end must agree with them."""
        result = self.ask("verify", *args)
        sentences = result.stdout.splitlines()
        sentences = sentences[: sentences.index(f"{self.out / '.edge' / JOURNAL_NAME} and {self.out}")]
        assert result.exit_code == (1 if sentences else 0), result.output
        assert ("All agree." in result.stdout) is not bool(sentences)
        return sentences
