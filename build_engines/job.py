"""What is built from a bundle: one engine for each graph, size of batch, and kind of card."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from build_engines.engine import known_capabilities, target_of
from build_engines.engine_network import WORKSPACE_BYTES, Order
from build_engines.engine_store import gpu_slug
from build_engines.errors import EngineError
from edge.bundle import Bundle
from edge.engine_files import ENGINES_FOLDER, Machine, Target
from edge.manifest import DetectorSpec

DETECTOR_BATCHES = (1, 4)
"""One image as it comes, and four where images have piled up."""
CLASSIFIER_BATCHES = (1, 4, 16)
"""The cells of one image: one in most tiles, many in a field."""
_TURING = "7.5"


class _Graph(NamedTuple):
    file: str
    input_name: str
    outputs: Iterable[str]
    side_px: int
    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What is built from a bundle.

    Attributes:
        trt: TensorRT's module.
        out: the folder that gets `engines/`; a bundle's own for a station.
        machine: the card; None to build without one.
        capabilities: for which cards, like "8.6"; none: this machine's.
        batches: sizes in place of the usual ones.
        rebuild: also what has not changed.
    """

    trt: Any
    bundle: Bundle
    out: Path
    machine: Machine | None
    capabilities: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    rebuild: bool = False

    @property
    def target(self) -> Target:
        """Which of the two products builds."""
        return target_of(self.trt)

    def orders(self) -> list[Order]:
        """One for each graph, batch and group of cards."""
        workspace = min(WORKSPACE_BYTES, self.machine.memory_bytes // 4) if self.machine else WORKSPACE_BYTES
        return [
            Order(
                self.bundle.path / graph.file,
                graph.input_name,
                frozenset(graph.outputs),
                graph.side_px,
                batch,
                capabilities,
                workspace_bytes=workspace,
                timing_cache=self.timing_cache,
            )
            for capabilities in self._groups()
            for graph in self._graphs()
            for batch in self.batches or graph.batches
        ]

    def _groups(self) -> list[tuple[str, ...]]:
        """Cards that share a plan. Turing has its own: in a common one it would slow the others down."""
        if not self.capabilities:
            if self.machine is None:
                raise EngineError(
                    f"{self.target} must know for which cards it builds where there is none; give "
                    f"--compute-capability, one or more of {', '.join(known_capabilities(self.trt))}."
                )
            return [(self.machine.compute_capability,)]
        newer = tuple(
            sorted(
                set(self.capabilities) - {_TURING}, key=lambda text: [int(part) for part in text.split(".")]
            )
        )
        return [group for group in (newer, (_TURING,) if _TURING in self.capabilities else ()) if group]

    @property
    def timing_cache(self) -> Path | None:
        """What TensorRT measured, for each of its versions and each card; TensorRT-RTX measures nothing."""
        if self.target != "tensorrt" or self.machine is None:
            return None
        name = f"timing-{self.trt.__version__}-{gpu_slug(self.machine.gpu)}.cache"
        return self.out / ENGINES_FOLDER / self.target / name

    def _graphs(self) -> list[_Graph]:
        return [
            _Graph(
                spec.graph.fp16,
                spec.input_name,
                known.outputs,
                spec.side_px,
                DETECTOR_BATCHES if isinstance(spec, DetectorSpec) else CLASSIFIER_BATCHES,
            )
            for spec, known in zip(self.bundle.manifest.networks, self.bundle.golden().networks, strict=True)
        ]
