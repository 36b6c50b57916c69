"""What the steps of an acceptance run share: the card under test, the images, how much, what they found."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import DTypeLike
from rich.console import Console

from build_engines.acceptance_images import KnownImages
from build_engines.engines_build import build_untried
from build_engines.errors import EngineError
from build_engines.job import Job
from build_engines.preflight import Preflight
from edge.backends.base import Session
from edge.backends.cuda import Buffer, CudaMemory, DeviceMemory
from edge.backends.tensorrt import TensorRtBackend
from edge.bundle import Bundle
from edge.card_state import CardState, NvmlCard, find_nvml_card
from edge.engine_files import EngineFile, Target
from edge.errors import BackendError
from edge.pipeline import Pipeline

PRECISION = "f16"
"""Of all engines that are built for a card."""

Figure = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step.

    Attributes:
        said: in a few words.
        why: why it did not pass; "" if it did.
        figures: what was measured, by a name with its unit.
        rows: a table of the same columns in each row.
        notes: what a reader should know although it is no failure.
        blocks: whether the steps that need this one cannot be run.
    """

    said: str = ""
    why: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Figure]] = ()
    notes: Sequence[str] = ()
    blocks: bool = True


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of everything is done."""

    gate_images: int = 48
    cold_starts: int = 3
    steady_images: int = 300
    graph_images: int = 100
    pauses: int = 5
    idle_s: float = 60.0
    memory_images: int = 10_000


@dataclass(frozen=True, slots=True)
class Means:
    """What a run does its work with; tests put doubles here.

    Attributes:
        build: makes all engines of a job, and puts them into the folder of its bundle.
        make_memory: of a session on the card.
        find_nvml: NVML's view of the card.
        cold_command: starts a process that answers once; see `build_engines.cold_start`.
        sleep: waits for seconds.
    """

    build: Callable[[Job, Console], Sequence[EngineFile]] = build_untried
    make_memory: Callable[[], DeviceMemory] = CudaMemory
    find_nvml: Callable[[], NvmlCard] = find_nvml_card
    cold_command: tuple[str, ...] = (sys.executable, "-m", "build_engines.cold_start")
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class Run:
    """One acceptance run.

    Attributes:
        bundle: whose engines are built.
        found: what this machine has.
        target: what is built.
        make_images: the images; they are made when the card was found.
        scratch: a folder of its own, with room for a copy of the bundle.
        console: for progress.
        images, nvml, built: what PREFLIGHT and BUILD leave to later steps; `built` is the bundle's copy.
        states: of the card, by when it was read.
    """

    bundle: Bundle
    found: Preflight
    target: Target
    make_images: Callable[[], KnownImages]
    amounts: Amounts
    means: Means
    scratch: Path
    console: Console
    _images: KnownImages | None = None
    nvml: NvmlCard | None = None
    _built: Bundle | None = None
    states: dict[str, CardState] = field(default_factory=dict)

    @property
    def images(self) -> KnownImages:
        """The images, made when they are first asked for."""
        if self._images is None:
            self._images = self.make_images()
        return self._images

    @property
    def built(self) -> Bundle:
        """The copy of the bundle that has the engines of this run."""
        assert self._built is not None
        return self._built

    @built.setter
    def built(self, bundle: Bundle) -> None:
        self._built = bundle

    @property
    def threshold(self) -> float:
        """Least score of a finding."""
        return self.bundle.manifest.thresholds.detection

    def note_state(self, when: str) -> None:
        """Read the card's state, if NVML tells it."""
        if self.nvml is not None:
            self.states[when] = self.nvml.read()

    def backend(self, graphs: "Graphs | None" = None) -> TensorRtBackend:
        """The backend on the card under test."""
        machine = self.found.machine
        assert machine is not None
        chosen = graphs or Graphs()
        return TensorRtBackend(
            self.found.libraries[self.target].module,
            self.target,
            machine,
            lambda: ChosenGraphs(self.means.make_memory(), chosen),
        )


@dataclass(slots=True)
class Graphs:
    """Whether sessions shall record CUDA graphs, and what came of it.

    Attributes:
        recorded: how many were.
        fault: why one was not.
    """

    wanted: bool = True
    recorded: int = 0
    fault: str = ""


class ChosenGraphs:
    """A card's memory, with CUDA graphs counted, or without them; as `edge.backends.cuda.DeviceMemory`."""

    def __init__(self, memory: DeviceMemory, graphs: Graphs) -> None:
        self._memory = memory
        self._graphs = graphs

    @property
    def stream(self) -> int:
        return self._memory.stream

    @property
    def stage_ms(self) -> Mapping[str, float]:
        return self._memory.stage_ms

    def buffer(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        return self._memory.buffer(shape, dtype)

    def run(self, inputs: Sequence[Buffer], launch: Callable[[], None], outputs: Sequence[Buffer]) -> None:
        self._memory.run(inputs, launch, outputs)

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        if not self._graphs.wanted:
            return launch
        try:
            again = self._memory.capture(launch)
        except BackendError as error:
            self._graphs.fault = str(error)
            raise
        self._graphs.recorded += 1
        return again

    def close(self) -> None:
        self._memory.close()


@dataclass(frozen=True, slots=True)
class OnCard:
    """A bundle on the card: the pipeline, and the sessions that it drives."""

    pipeline: Pipeline
    networks: tuple[Session, ...]

    def sessions(self) -> dict[str, Session]:
        """By the stage that each computes; of several networks of a stage, numbered."""
        detectors = len(self.pipeline.bundle.manifest.detectors)
        named = {}
        for index, session in enumerate(self.networks):
            stage, number = ("detect", index) if index < detectors else ("classify", index - detectors)
            named[f"{stage} {number + 1}" if number else stage] = session
        return named


@contextmanager
def on_card(run: Run, graphs: Graphs | None = None) -> Iterator[OnCard]:
    """The engines of this run, opened as a station opens them, but for its self-test.

    Raises:
        BackendError: an engine does not load.
    """
    bundle, backend = run.built, run.backend(graphs)
    with ExitStack() as opened:
        sessions = []
        for spec in bundle.manifest.networks:
            sessions.append(backend.open(bundle.path, spec, PRECISION))
            opened.callback(sessions[-1].close)
        yield OnCard(Pipeline(bundle, f"{run.target}:{PRECISION}", sessions), tuple(sessions))


def job_of(run: Run, out: Path) -> Job:
    """All engines of the bundle for this machine's card.

    Raises:
        EngineError: this machine has none.
    """
    if run.found.machine is None:
        raise EngineError(
            f"No engine is built without a card ({run.found.no_card}); run it where there is one."
        )
    module = run.found.libraries[run.target].module
    return Job(trt=module, bundle=run.bundle, out=out, machine=run.found.machine, rebuild=True)
