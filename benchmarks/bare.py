"""The networks of a bundle on OpenVINO and nothing else: the limit of what a station could reach.

As OpenVINO's benchmark_app measures it: inputs lie ready in memory, shapes are fixed, and nobody looks at the
answers.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.backends import openvino  # before openvino itself, whose telemetry this switches off
from edge.bench.ways import Answer, Way
from edge.bundle import Bundle
from edge.geometry import crop, letterbox
from edge.images import decode
from edge.pipeline import Pipeline

import openvino as ov  # isort: skip

Pixels = NDArray[np.uint8]

_BATCHES = (1, 4, 16)
"""Tried for the best throughput; more only costs memory on the CPU."""


@dataclass(frozen=True, slots=True)
class NetworkInputs:
    """What the networks of a bundle are given for one image.

    Attributes:
        tile: uint8 [1, S, S, 3] RGB.
        crops: uint8 [n, S, S, 3] RGB of the n cells that the station found.
    """

    tile: Pixels
    crops: Pixels


def network_inputs(pipeline: Pipeline, image: Path) -> NetworkInputs:
    """What the station gives its own two networks for an image."""
    rgb = decode(image.read_bytes())
    detector, classifier = pipeline.bundle.detector, pipeline.bundle.classifier
    assert classifier is not None
    size = classifier.crop_size
    crops = [
        crop(rgb, np.array(finding.box_xyxy, np.float32), size, classifier.margin_px,
             classifier.margin_fraction, classifier.shape)
        for finding in pipeline.read(rgb)
    ]  # fmt: skip
    tile = letterbox(rgb, detector.tile_size, detector.anchor, detector.pad)[0][None]
    return NetworkInputs(tile, np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8))


class BareNetworks:
    """Compiles the two graphs of a bundle for fixed numbers of tiles and crops."""

    def __init__(self, bundle: Bundle, precision: str, hint: str) -> None:
        """Args:
        precision: as OpenVINO's backend names it, "bf16", "f16" or "f32".
        hint: OpenVINO's performance hint, "LATENCY" or "THROUGHPUT".
        """
        assert bundle.classifier is not None
        self._paths = [bundle.path / spec.graph.fp32 for spec in (bundle.detector, bundle.classifier)]
        self._config = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision}
        self._core = openvino._core()
        self._compiled: dict[tuple[int, tuple[int, ...]], Any] = {}

    def detector(self, tiles: Pixels) -> ov.CompiledModel:
        """The detector for as many tiles as there are in `tiles`."""
        return self._network(0, tiles.shape)

    def classifier(self, crops: Pixels) -> ov.CompiledModel:
        """The classifier for as many crops as there are in `crops`."""
        return self._network(1, crops.shape)

    def _network(self, index: int, shape: tuple[int, ...]) -> ov.CompiledModel:
        if (index, shape) not in self._compiled:
            model = self._core.read_model(self._paths[index])
            model.reshape(list(shape))
            self._compiled[index, shape] = self._core.compile_model(model, "CPU", self._config)
        return self._compiled[index, shape]


class BareWay(Way):
    """One infer request after the other: the least time of one image's two networks."""

    def __init__(self, name: str, pipeline: Pipeline, precision: str) -> None:
        self.name = name
        self._pipeline = pipeline
        self._networks = BareNetworks(pipeline.bundle, precision, "LATENCY")
        self._prepared: dict[Path, list[tuple[str, Any, ov.Tensor]]] = {}
        self._requests: dict[int, Any] = {}

    def prepare(self, image: Path) -> list[tuple[str, Any, ov.Tensor]]:
        """Infer requests with their inputs: the detector's, and the classifier's where there are cells."""
        if image not in self._prepared:
            inputs = network_inputs(self._pipeline, image)
            work = [("detect", self._networks.detector(inputs.tile), inputs.tile)]
            if len(inputs.crops):
                work.append(("classify", self._networks.classifier(inputs.crops), inputs.crops))
            self._prepared[image] = [
                (stage, self._request(network), ov.Tensor(np.ascontiguousarray(pixels), shared_memory=True))
                for stage, network, pixels in work
            ]
        return self._prepared[image]

    def _request(self, network: ov.CompiledModel) -> Any:
        if id(network) not in self._requests:
            self._requests[id(network)] = network.create_infer_request()
        return self._requests[id(network)]

    def answer(self, prepared: list[tuple[str, Any, ov.Tensor]]) -> Answer:
        """Has no findings: nobody looks at the outputs."""
        stage_ms = {}
        for stage, request, tensor in prepared:
            started_ns = time.perf_counter_ns()
            request.infer([tensor])
            stage_ms[stage] = (time.perf_counter_ns() - started_ns) / 1e6
        return Answer((), stage_ms)


class BareThroughput:
    """Several infer requests at once: the most images a second that the two networks can do.

    The networks run one after the other over all images, each in the batch that is best for it.
    """

    def __init__(self, bundle: Bundle, precision: str, inputs: Sequence[NetworkInputs]) -> None:
        """Args:
        inputs: of the images to run; at least one must have a cell.
        """
        networks = BareNetworks(bundle, precision, "THROUGHPUT")
        tiles = np.concatenate([one.tile for one in inputs])
        crops = np.concatenate([one.crops for one in inputs])
        self._image_count = len(inputs)
        self._work = [
            min((_Batches(compiled, pixels, size) for size in _BATCHES if size <= len(pixels)), key=_best_s)
            for compiled, pixels in ((networks.detector, tiles), (networks.classifier, crops))
        ]

    @property
    def batches(self) -> tuple[int, ...]:
        """Tiles and crops a request, as chosen."""
        return tuple(work.size for work in self._work)

    def images_per_second(self) -> float:
        """Run all images once."""
        return self._image_count / sum(work.seconds() for work in self._work)


class _Batches:
    """All inputs of one network, cut into batches; the last may be smaller."""

    def __init__(self, compiled: Any, pixels: Pixels, size: int) -> None:
        self.size = size
        self._parts = [np.ascontiguousarray(pixels[at : at + size]) for at in range(0, len(pixels), size)]
        self._requests: dict[int, list[Any]] = {}
        for part in self._parts:
            if len(part) not in self._requests:
                network = compiled(part)
                most = network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
                self._requests[len(part)] = [network.create_infer_request() for _ in range(most)]

    def seconds(self) -> float:
        """From the first start to the last answer."""
        started = time.perf_counter()
        for index, part in enumerate(self._parts):
            requests = self._requests[len(part)]
            request = requests[index % len(requests)]
            request.wait()
            request.start_async([ov.Tensor(part, shared_memory=True)])
        for requests in self._requests.values():
            for request in requests:
                request.wait()
        return time.perf_counter() - started


def _best_s(work: _Batches) -> float:
    return min(work.seconds() for _ in range(3))
