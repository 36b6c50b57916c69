"""A double of a connection to a KServe v2 server: it computes with ONNX Runtime and goes away on demand."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Session
from edge.backends.kserve_models import BATCHES, BUNDLE_ID, PRECISION, ServedGraph, model_name, served_graphs
from edge.backends.kserve_server import NotAnswering, Refused
from edge.backends.onnxruntime import OnnxRuntimeBackend
from edge.bundle import Bundle


class FakeClock:
    """Seconds that pass only while somebody waits; `after` are calls that then happen at their time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.after: dict[float, Callable[[], None]] = {}

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for due_s in [due_s for due_s in self.after if due_s <= self.now_s]:
            self.after.pop(due_s)()


class ServerDouble:
    """A server and every connection to it.

    Args:
        bundle: what it serves.
        limits: the largest batch of a model, by graph.
        static: batches of static models, by graph.

    Attributes:
        parameters: what it tells of its models.
        metadata: changes of a model's metadata, by model.
        is_away: whether nothing is answered.
        refusal: what it says to every batch in place of an answer.
        most_bytes: of a batch, that a proxy before it takes.
        questions: all that it was asked.
        batches: shape of every batch, with its model.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "f32",
        limits: dict[str, int] | None = None,
        static: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.parameters = {BUNDLE_ID: bundle.id, PRECISION: precision}
        self.about: dict[str, Any] = {"name": "double", "version": "1"}
        self.metadata: dict[str, dict[str, Any]] = {}
        self.change: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]] = lambda answer: answer
        self.is_away = False
        self.refusal = ""
        self.most_bytes: int | None = None
        self.questions: list[str] = []
        self.batches: list[tuple[str, tuple[int, ...]]] = []
        self._limits = limits or {}
        self._models: dict[str, tuple[ServedGraph, int | None, str]] = {}
        self._sessions: dict[str, Session] = {}
        for graph in served_graphs(bundle):
            sizes = (static or {}).get(graph.name, ())
            told = " ".join(map(str, sizes))
            for size in sizes or (None,):
                name = graph.name if size is None else model_name(graph.name, size, size == sizes[0])
                self._models[name] = (graph, size, told)
            spec = next(spec for spec in bundle.manifest.networks if spec.graph == graph.files)
            self._sessions[graph.name] = OnnxRuntimeBackend().open(bundle.path, spec, "f32")

    def server(self) -> dict[str, Any]:
        self._ask("server")
        return self.about

    def model(self, name: str) -> dict[str, Any]:
        self._ask(name)
        if name not in self._models:
            raise Refused(f"unknown model: '{name}'", is_unknown=True)
        graph, size, told = self._models[name]

        def tensors(ours: Sequence[Any]) -> list[dict[str, Any]]:
            return [
                {"name": one.name, "datatype": one.datatype, "shape": [size or -1, *one.shape]}
                for one in ours
            ]

        parameters = self.parameters | ({BATCHES: told} if told else {})
        config = {
            "max_batch_size": self._limits.get(graph.name, 0),
            "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        }
        answer = {"name": name, "inputs": tensors([graph.input]), "outputs": tensors(graph.outputs)}
        return answer | {"config": config} | self.metadata.get(name, {})

    def infer(
        self, model: str, name: str, batch: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        self._ask("infer")
        if self.refusal:
            raise Refused(self.refusal, is_unknown=False)
        if self.most_bytes is not None and batch.nbytes > self.most_bytes:
            raise Refused("413 Request Entity Too Large", is_unknown=False)
        graph, size, _ = self._models[model]
        limit = size or self._limits.get(graph.name)
        assert name == graph.input.name
        assert batch.shape[1:] == graph.input.shape
        assert limit is None or len(batch) <= limit
        assert size is None or len(batch) == size
        self.batches.append((model, batch.shape))
        answer = {key: values.copy() for key, values in self._sessions[graph.name].run(batch).items()}
        return self.change({key: answer[key] for key in outputs})

    def close(self) -> None:
        """Nothing: it is every connection."""

    def _ask(self, question: str) -> None:
        self.questions.append(question)
        if self.is_away:
            raise NotAnswering("Connection refused")


def other_id(bundle: Bundle) -> str:
    """Id of a bundle that is not this one."""
    return f"demo-{hashlib.sha256(bundle.id.encode()).hexdigest()[:12]}"
