"""Graphs on another machine: a server that speaks the KServe v2 protocol, like NVIDIA's Triton.

So stations without a card share one that has it. The server must serve the very bundle that the station has
(`build_engines/triton_repository.py` writes it), which gives the known answers by which the station tests it.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.backends.base import Backend, Outputs, Session
from edge.backends.kserve_http import Address, HttpConnection
from edge.backends.kserve_models import (
    BATCHES,
    BUNDLE_ID,
    DATATYPES,
    DETECTOR,
    PRECISION,
    SERVE,
    Model,
    ServedGraph,
    compared,
    model_name,
    parameters_of,
    served_graphs,
)
from edge.backends.kserve_server import Connection, Server
from edge.bundle import Bundle
from edge.errors import BackendError
from edge.manifest import NetworkSpec
from edge.selftest import TOLERANCES

log = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:8000"

_START_PATIENCE_S = 90.0
"""How long a station that starts waits for its server. systemd gives up after five starts in 300 s: whoever
waits for more than 60 s at each outlasts a server that is away for a day."""
_WORK_PATIENCE_S = 15.0
"""The same in the middle of the work, for a server that is restarted. With the timeout of an answer, and for
detector and classifier one after the other, it is less than the 60 s of systemd's watchdog."""
_LARGE_BATCH = 16
"""The largest that the repository's models take; of a server that takes more, what is tried at the start."""
_RECHECK_S = 1.0
"""A server that told longer ago what it serves is asked again: another one may have taken its place."""


class KServeBackend(Backend):
    """One server.

    Args:
        url: its address. Nothing else is ever opened.
        connect: makes a connection to it, which is opened when it is first used.
        clock: monotonic seconds.
        pause: sleeps for some seconds.
    """

    name = "kserve"

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        connect: Callable[[Address], Connection] = HttpConnection,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = Address.parse(url)
        self._connect = connect
        self._clock = clock
        self._pause = pause
        if self._address.is_exposed:
            log.warning("Images go to %s unencrypted; use https, or a tunnel.", self._address.url)

    def precisions(self) -> Sequence[str]:
        """The one in which the server computes; "f16" if it does not tell.

        Raises:
            EngineAway: it does not answer.
            BackendError: it has no detector, or computes in something else.
        """
        server = self._server()
        try:
            told = server.ask(lambda: parameters_of(server.model(DETECTOR)), _START_PATIENCE_S)
        finally:
            server.connection.close()
        precision = told.get(PRECISION, "f16")
        if precision not in TOLERANCES:
            raise BackendError(
                f"The server at {server.url} computes in {precision}, but this station knows "
                f"{', '.join(TOLERANCES)}; {SERVE}."
            )
        return [precision]

    def open(
        self, bundle_path: Path, spec: NetworkSpec, precision: str, *, in_lanes: bool = False
    ) -> Session:
        """Compare the graph with the server's model (see `Backend.open`).

        Raises:
            EngineAway: the server does not answer.
        """
        bundle = Bundle.load(bundle_path)
        served = next(one for one in served_graphs(bundle) if one.files == spec.graph)
        server = self._server()
        try:
            session = _KServeSession(server, served, spec.side_px, bundle.id, precision)
            session.try_largest()
        except BaseException:
            server.connection.close()
            raise
        self.why = session.served_by
        return session

    def _server(self) -> Server:
        return Server(self._address.url, self._connect(self._address), self._clock, self._pause)


class _KServeSession(Session):
    """A graph on a server: one model for all batches, or a model for each of several static ones.

    Attributes:
        build: sha256 of all that the server told of itself and of the models, among it their hashes.
        served_by: the server's name, version and address.
    """

    def __init__(
        self, server: Server, graph: ServedGraph, side_px: int, bundle_id: str, precision: str
    ) -> None:
        super().__init__(f"{graph.name} on {server.url} in {precision}", side_px)
        self._server = server
        self._graph = graph
        self._bundle_id = bundle_id
        self._precision = precision
        self._looked_s = float("-inf")
        self._models, self.build, self.served_by = server.ask(self._look, _START_PATIENCE_S)
        self._looked_s = server.clock()
        self.built_for = [model.largest for model in self._models if model.is_static and model.largest]

    def _look(self) -> tuple[list[Model], str, str]:
        """The models, the smallest first; a hash of all that is told; the server in words."""
        about = self._server.connection.server()
        answers = [self._server.model(self._graph.name)]
        told = parameters_of(answers[0])
        self._require_ours(told)
        batches = [int(word) for word in told.get(BATCHES, "").split()]
        answers += [self._server.model(model_name(self._graph.name, batch, False)) for batch in batches[1:]]
        models = [compared(answer, self._graph, self._server.url) for answer in answers]
        identity = json.dumps([about, *answers], sort_keys=True)
        name = " ".join(str(about[key]) for key in ("name", "version") if about.get(key))
        return models, hashlib.sha256(identity.encode()).hexdigest(), f"{name} at {self._server.url}"

    def _require_ours(self, told: Mapping[str, str]) -> None:
        """Compare bundle and precision."""
        theirs = told.get(BUNDLE_ID)
        if theirs is None and self._looked_s < 0:
            log.warning(
                "The server at %s does not tell which bundle it serves; the self-test alone shows that it is "
                "this one.", self._server.url,
            )  # fmt: skip
        if theirs not in (None, self._bundle_id):
            raise BackendError(
                f"The server at {self._server.url} serves the bundle {theirs}, but this station has "
                f"{self._bundle_id}; {SERVE}, or give the station that bundle."
            )
        if (computes := told.get(PRECISION, self._precision)) != self._precision:
            raise BackendError(
                f"The server at {self._server.url} computes the {self._graph.name} in {computes}, but "
                f"{self._precision} is wanted; {SERVE}."
            )

    def try_largest(self) -> None:
        """Have a large batch computed: a proxy before the server may take the known inputs and refuse the
        crops of a field with many cells.

        Raises:
            BackendError: it is refused.
        """
        largest = min(self._models[-1].largest or _LARGE_BATCH, _LARGE_BATCH)
        self.run(np.zeros((largest, self.side_px, self.side_px, 3), np.uint8))

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        answers: list[Outputs] = []
        done = 0
        while done < len(batch):
            left = len(batch) - done
            model = next(
                (m for m in self._models if m.largest is None or m.largest >= left), self._models[-1]
            )
            part = batch[done : done + (model.largest or left)]
            answers.append(self._server.ask(lambda m=model, p=part: self._infer(m, p), _WORK_PATIENCE_S))  # type: ignore[misc]
            done += len(part)
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def _infer(self, model: Model, images: NDArray[np.uint8]) -> Outputs:
        """The answer to at most the largest batch of a model."""
        looked_s, server = self._looked_s, self._server
        if looked_s <= server.away_s or server.clock() - looked_s > _RECHECK_S:
            self._require_unchanged()
        padded = images
        if model.is_static and model.largest is not None:
            padded = np.zeros((model.largest, *images.shape[1:]), np.uint8)
            padded[: len(images)] = images
        outputs = [tensor.name for tensor in self._graph.outputs]
        answer = server.connection.infer(
            model.name, self._graph.input.name, np.ascontiguousarray(padded), outputs
        )
        for tensor in self._graph.outputs:
            values, shape = answer[tensor.name], (len(padded), *tensor.shape)
            if values.shape != shape or DATATYPES.get(values.dtype.name) != tensor.datatype:
                raise BackendError(
                    f"The server at {server.url} gave {tensor.name!r} as {values.dtype} {list(values.shape)} "
                    f"in place of {tensor.datatype} {list(shape)}; look into its log."
                )
        return {name: answer[name][: len(images)] for name in outputs}

    def _require_unchanged(self) -> None:
        began_s = self._server.clock()
        _, build, served_by = self._look()
        if build != self.build:
            raise BackendError(
                f"The server does not serve what was tested ({served_by}, {build[:12]}… in place of "
                f"{self.served_by}, {self.build[:12]}…); restart the station, which tests it again."
            )
        self._looked_s = began_s

    def close(self) -> None:
        """Hang up."""
        self._server.connection.close()
