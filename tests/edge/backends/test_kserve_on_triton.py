"""A station on a real Triton Inference Server over loopback, which serves the repository as it is written.

Not run: Triton's own ONNX and TensorRT backends, and a card; see onnxruntime_in_triton.py.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from build_engines.triton_repository import write_triton_repository
from edge.backends.kserve_models import served_graphs
from edge.bundle import MANIFEST, Bundle
from edge.demo.renderer import draw_field, draw_tile
from edge.engine_files import engines_of
from edge.images import decode
from edge.pipeline import Pipeline, open_pipeline
from tests.edge.backends.engines import with_engines
from tests.edge.backends.triton_server import TritonServer
from tests.real_files import data_path

READER = Path(__file__).with_name("kserve_reader.py")
REPOSITORY = Path(__file__).parents[3]


class Reader:
    """`kserve_reader.py`, path by path."""

    def __init__(self, url: str, bundle: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, READER, url, bundle],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def ask(self, path: Path) -> None:
        assert self._process.stdin is not None
        print(path, file=self._process.stdin, flush=True)

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.end()
        return json.loads(line)

    def end(self) -> str:
        """What it wrote to its log."""
        _, log = self._process.communicate()
        return log


@pytest.fixture(scope="module")
def triton(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("triton")
    write_triton_repository(bundle, folder / "models", precision="f32")
    with TritonServer(folder / "models", folder / "backends") as server:
        yield server


@pytest.fixture
def reader() -> Iterator[Callable[[str, Path], Reader]]:
    made: list[Reader] = []

    def make(url: str, bundle: Path) -> Reader:
        made.append(Reader(url, bundle))
        return made[-1]

    yield make
    for one in made:
        one._process.kill()
        one._process.communicate()


@pytest.fixture(scope="module")
def local(bundle: Bundle) -> Iterator[Pipeline]:
    with open_pipeline(bundle, "onnxruntime", "f32") as opened:
        yield opened


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tiles with one cell, and a field with more than a batch of the classifier holds."""
    folder = tmp_path_factory.mktemp("drawn")
    images = [*(draw_tile(seed).rgb for seed in range(4)), draw_field(2, cells=20, size_wh=(1200, 900)).rgb]
    for index, rgb in enumerate(images):
        Image.fromarray(rgb).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


def findings_of(local: Pipeline, path: Path) -> Any:
    """As JSON gives them back."""
    return json.loads(json.dumps([astuple(finding) for finding in local.read(decode(path.read_bytes()))]))


def test_same_findings_as_onnx_runtime_on_drawn_images(
    bundle: Bundle, triton: TritonServer, local: Pipeline, drawn: list[Path], reader: Any
) -> None:
    station = reader(triton.url, bundle.path)
    engine_id, why = station.answer()
    assert re.fullmatch(r"kserve:f32:[0-9a-f]{8}", engine_id)
    assert re.fullmatch(rf"triton [\d.]+ at {triton.url}", why)
    found = 0
    for path in drawn:
        station.ask(path)
        expected = findings_of(local, path)
        assert station.answer() == expected
        found += len(expected)
    assert found > len(drawn)
    assert station.end() == ""


def test_same_findings_as_onnx_runtime_on_real_images(
    bundle: Bundle, triton: TritonServer, local: Pipeline, reader: Any
) -> None:
    paths = sorted(data_path("pool/images").iterdir())[::500]
    station = reader(triton.url, bundle.path)
    station.answer()
    for path in paths:
        station.ask(path)
        assert station.answer() == findings_of(local, path)


def test_a_server_that_is_killed_and_started_again(
    bundle: Bundle, triton: TritonServer, local: Pipeline, drawn: list[Path], reader: Any
) -> None:
    station = reader(triton.url, bundle.path)
    station.answer()
    for path in drawn[:3]:
        triton.kill()
        station.ask(path)
        triton.start()
        assert station.answer() == findings_of(local, path)
    log = station.end().splitlines()
    assert log.count(f"The server at {triton.url} answers again.") == 3


def test_a_server_with_another_bundle_is_refused(
    bundle: Bundle, triton: TritonServer, tmp_path: Path, reader: Any
) -> None:
    for file in bundle.path.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).write_text(bundle.manifest.model_copy(update={"name": "mine"}).model_dump_json())
    log = reader(triton.url, tmp_path).end()
    mine = Bundle.load(tmp_path).id
    assert f"{triton.url} serves the bundle {bundle.id}, but this station has {mine}; serve what" in log


def test_plans_of_static_batches(
    bundle: Bundle, local: Pipeline, drawn: list[Path], tmp_path: Path, reader: Any
) -> None:
    """The real server takes the layout, with ONNX in place of plans and a processor in place of the card."""
    equipped = with_engines(bundle, tmp_path / "bundle")
    models = tmp_path / "models"
    write_triton_repository(equipped, models, plans=engines_of(equipped.path, "tensorrt"))
    graphs = {graph.name: graph.files.fp32 for graph in served_graphs(bundle)}
    for config in models.glob("*/config.pbtxt"):
        config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
        graph = graphs[config.parent.name.split("-")[0]]
        (config.parent / "1/model.plan").write_bytes((bundle.path / graph).read_bytes())
    with TritonServer(models, tmp_path / "backends") as server:
        station = reader(server.url, equipped.path)
        assert station.answer()[0].startswith("kserve:f16:")
        for path in drawn:
            station.ask(path)
            expected, found = findings_of(local, path), station.answer()
            assert [one[1] for one in found] == [one[1] for one in expected]
