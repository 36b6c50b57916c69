"""Starts of the daemon: that it is the real one is tested with the command, what can go wrong here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.bench import cold
from edge.bench.engines import EngineChoice
from edge.card_state import NvmlCard
from edge.child import watching
from edge.errors import BenchError, StationError
from tests.build_engines.fake_nvml import BUS_ID, FakeNvml


@dataclass
class AnsweringChild:
    """A double of the daemon: it answers every file of its inbox, or ends."""

    inbox: Path
    log: Path
    ends: bool
    ready_s: float = 1.5

    @property
    def is_running(self) -> bool:
        lines = [f'{{"latency_ms": {20 + n}}}' for n, _ in enumerate(self.inbox.glob("[0-9]*.png"))]
        self.log.write_text("\n".join(["starting", *lines, '{"latency'] if not self.ends else ["no engine"]))
        return not self.ends

    def memory_mb(self) -> tuple[float, float]:
        return 200.0, 300.0


def doubled(monkeypatch: pytest.MonkeyPatch, *, ends: bool = False) -> list[tuple[str, ...]]:
    """Put the double in the daemon's place; the flags that each start is given."""
    given: list[tuple[str, ...]] = []

    @contextmanager
    def start(inbox: Path, out: Path, log: Path, *flags: str, settings: object) -> Iterator[AnsweringChild]:
        given.append(flags)
        log.touch()
        yield AnsweringChild(inbox, log, ends)

    monkeypatch.setattr(cold, "watching", start)
    monkeypatch.setattr(cold, "_POLL_S", 0)
    return given


def images(folder: Path) -> list[Path]:
    paths = [folder / f"{name}.png" for name in "abc"]
    for path in paths:
        path.write_bytes(b"an image")
    return paths


def test_each_start_gets_one_image_and_the_last_one_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = doubled(monkeypatch)
    choice = EngineChoice(None, "openvino", "f32")
    card = NvmlCard(FakeNvml(leak_bytes=7_000_000), BUS_ID)
    found = cold.measure_starts(choice, images(tmp_path), 2, tmp_path, card)
    assert given == [("--backend", "openvino", "--precision", "f32")] * 2
    assert found.ready_s == (1.5, 1.5)
    assert found.first_ms == (20.0, 20.0)
    assert (found.started_mb, found.peak_mb, found.images) == ((200.0, 200.0), 300.0, 3)
    assert found.card_mb == 7
    assert len(list((tmp_path / "start-0/inbox").iterdir())) == 1
    assert len(list((tmp_path / "start-1/inbox").iterdir())) == 3


def test_a_daemon_that_ends_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubled(monkeypatch, ends=True)
    with pytest.raises(BenchError, match=r"answered 0 of 1 images and then none; .*'no engine'"):
        cold.measure_starts(EngineChoice(), images(tmp_path), 1, tmp_path)


def test_a_daemon_that_is_slow_and_not_hung_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer takes 200 s, and patience is 300 s."""

    class SlowChild(AnsweringChild):
        @property
        def is_running(self) -> bool:
            lines = self.log.read_text().splitlines()
            self.log.write_text("\n".join([*lines, '{"latency_ms": 200000}']))
            return True

    now_s = iter(range(0, 100_000, 200))
    clock = SimpleNamespace(monotonic=lambda: next(now_s), sleep=lambda _: None)
    monkeypatch.setattr(cold, "time", clock)
    log = tmp_path / "log"
    log.touch()
    assert len(cold._answered(SlowChild(tmp_path, log, ends=False), 10)) == 10  # type: ignore[arg-type]


def test_a_daemon_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    places = (tmp_path / "inbox", tmp_path / "out", tmp_path / "log")
    with (
        pytest.raises(StationError, match=r"edge-watch did not start; its log .* is no model bundle"),
        watching(*places, "--bundle", str(tmp_path / "nowhere")),
    ):
        pass
