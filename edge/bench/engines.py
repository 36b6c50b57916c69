"""The engines that are measured side by side, opened as a station opens its own."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.bundle import Bundle, embedded_bundle
from edge.errors import BenchError
from edge.pipeline import Pipeline, open_pipeline

REFERENCE = "onnxruntime:f32"
"""The engine whose findings the others are held against, where it is among them."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """A bundle on an engine, as a user asks for it; None: the embedded bundle, what the engine chooses."""

    bundle: Path | None = None
    backend: str | None = None
    precision: str | None = None
    server_url: str | None = None

    @property
    def flags(self) -> list[str]:
        """The same for `edge-watch`."""
        given = {
            "--bundle": self.bundle,
            "--backend": self.backend,
            "--precision": self.precision,
            "--server-url": self.server_url,
        }
        return [str(word) for flag, value in given.items() if value is not None for word in (flag, value)]


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """An engine at work.

    Attributes:
        name: of the engine, and of its bundle where there are several.
    """

    name: str
    pipeline: Pipeline


@contextlib.contextmanager
def open_engines(choices: Sequence[EngineChoice]) -> Iterator[list[OpenEngine]]:
    """All of them at once, each with the known answers.

    Raises:
        BackendError, BundleError: one cannot be opened.
    """
    with contextlib.ExitStack() as closing:
        engines: list[OpenEngine] = []
        several = len({choice.bundle for choice in choices}) > 1
        for choice in choices:
            bundle = Bundle.load(choice.bundle or embedded_bundle())
            pipeline = closing.enter_context(
                open_pipeline(
                    *(bundle, choice.backend or "auto", choice.precision or "auto"),
                    server_url=choice.server_url,
                )
            )
            name = _short(pipeline.engine_id)
            if several:
                name = f"{bundle.manifest.name} on {name}"
            again = sum(one.name.split(" (")[0] == name for one in engines)
            engines.append(OpenEngine(f"{name} ({again + 1})" if again else name, pipeline))
        yield engines


def parse_engine(text: str) -> tuple[str, str]:
    """Backend and precision of "openvino:bf16"; without a precision, "auto".

    Raises:
        BenchError: it is nothing of the kind.
    """
    backend, colon, precision = text.partition(":")
    if not backend or (colon and not precision) or ":" in precision:
        raise BenchError(f"{text!r} is no engine; give BACKEND or BACKEND:PRECISION, like openvino:bf16.")
    return backend, precision or "auto"


def reference_of(engines: Sequence[OpenEngine]) -> OpenEngine:
    """ONNX Runtime in f32 where it is among them, or the first."""
    return next((one for one in engines if one.pipeline.engine_id == REFERENCE), engines[0])


def _short(engine_id: str) -> str:
    """Backend and precision, without the hash of what was built ahead."""
    return ":".join(engine_id.split(":")[:2])
