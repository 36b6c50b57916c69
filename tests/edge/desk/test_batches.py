"""Many files at once: the same answers as one by one, each once, whatever happens to one of them."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge import desk as desk_module
from edge import opening, stopwatch
from edge.cells import Finding
from edge.errors import BackendError
from edge.images import ImageLimits
from edge.journal import Journal
from edge.locks import OutputFullError
from edge.outputs import open_desk
from edge.records import LARGEST_BATCH, FileStamp, State
from edge.results import Results
from edge.stopwatch import Stopwatch
from edge.tasks import Arrival, ImageResult


class TwoLanes:
    """A double of a pipeline: a cell in every image that is not black, an engine fault where it is white."""

    bundle_id = "demo-1a2b3c4d5e6f"
    engine_id = "double:fp32"
    likeness = None
    lanes = 2

    def __init__(self, *, has_crowd: bool = True) -> None:
        self.crowd = self if has_crowd else None
        self.most_at_once = 0
        self.seen: list[int] = []
        self._at_once = 0
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(2)

    def read(
        self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, detection_threshold: float | None = None
    ) -> list[Finding]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.seen.append(int(rgb[0, 0, 0]))
        try:
            if (rgb == 99).all():  # two of these must be in the lanes at the same time to get on
                self._meeting.wait(20)
            if (rgb == 255).all():
                raise BackendError("The double fails; restart.")
        finally:
            with self._lock:
                self._at_once -= 1
        return [Finding((0, 0, 4, 4), "PNN", 0.9, 0.8, {"PNN": 0.8, "EO": 0.2})] if rgb.any() else []


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, int], Path]:
    (tmp_path / "in").mkdir()
    widths = itertools.count(8)

    def put_image(name: str, grey: int) -> Path:
        """Each of another width, so that no two have the same bytes."""
        path = tmp_path / "in" / name
        Image.new("RGB", (next(widths), 6), (grey,) * 3).save(path, "PNG")
        return path

    return put_image


def all_at_once(
    out: Path, paths: list[Path], pipeline: TwoLanes | None = None, **options: object
) -> list[ImageResult]:
    options.setdefault("limits", ImageLimits(max_bytes=4096))
    with open_desk(pipeline or TwoLanes(), out, **options) as (desk, _):  # type: ignore[arg-type]
        return list(desk.process_all(Arrival(path) for path in paths))


def answers(out: Path, file: str = "images.csv") -> list[tuple[str, ...]]:
    """Rows but for time, latency and place, sorted."""
    lines = (out / file).read_text("utf-8", "surrogateescape").splitlines()[1:]
    cells = [line.split(",") for line in lines]
    return sorted(tuple(row[:3] if file == "images.csv" else row[:8]) for row in cells)


@pytest.mark.parametrize("has_crowd", [True, False])
def test_many_files_get_the_answers_that_they_get_one_by_one(
    tmp_path: Path, put: Callable[[str, int], Path], has_crowd: bool
) -> None:
    paths = [put(f"{number:02}.png", number % 5) for number in range(40)]
    (tmp_path / "in" / "text.png").write_text("no image")
    (tmp_path / "in" / "large.png").write_bytes(bytes(5000))
    (tmp_path / "in" / "link.png").symlink_to(paths[0])
    paths += [tmp_path / "in" / name for name in ("text.png", "large.png", "link.png", "gone.png")]
    together = all_at_once(tmp_path / "together", paths, TwoLanes(has_crowd=has_crowd))
    alone = [all_at_once(tmp_path / "alone", [path])[0] for path in paths]
    assert {(r.path, r.status, r.reason, len(r.findings)) for r in together} == {
        (r.path, r.status, r.reason, len(r.findings)) for r in alone
    }
    for file in ("images.csv", "results.csv"):
        assert answers(tmp_path / "together", file) == answers(tmp_path / "alone", file)
    assert not any(result.is_new for result in all_at_once(tmp_path / "together", paths[:40]))


def test_few_images_lie_decoded_where_one_is_read_after_the_other(
    tmp_path: Path, put: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[None] = []
    ahead: list[int] = []

    class Decoders(ThreadPoolExecutor):
        def submit(self, *args: Any) -> Any:  # type: ignore[override]
            begun.append(None)
            return super().submit(*args)

    class Looking(TwoLanes):
        def read(self, *args: Any) -> list[Finding]:
            ahead.append(len(begun) - len(self.seen))
            return super().read(*args)

    monkeypatch.setattr(desk_module, "ThreadPoolExecutor", Decoders)
    all_at_once(tmp_path / "out", [put(f"{n}.png", n) for n in range(20)], Looking(has_crowd=False))
    assert ahead == [2] * 19 + [1]


def test_the_lanes_work_at_the_same_time(tmp_path: Path, put: Callable[[str, int], Path]) -> None:
    pipeline = TwoLanes()
    all_at_once(tmp_path / "out", [put("a.png", 99), put("b.png", 99)], pipeline)
    assert pipeline.most_at_once == 2


def test_one_file_alone_does_not_go_through_a_lane(tmp_path: Path, put: Callable[[str, int], Path]) -> None:
    class NeverInALane(TwoLanes):
        def __init__(self) -> None:
            super().__init__()
            self.threads: set[str] = set()

        def read(self, *args: object) -> list[Finding]:  # type: ignore[override]
            self.threads.add(threading.current_thread().name)
            return super().read(*args)  # type: ignore[arg-type]

    pipeline = NeverInALane()
    all_at_once(tmp_path / "out", [put("a.png", 1)], pipeline)
    assert pipeline.threads == {threading.current_thread().name}


@pytest.mark.parametrize("duplicates", ["skip", "again"])
def test_promise_17_twins_that_wait_together_are_treated_as_one_after_the_other(
    tmp_path: Path, put: Callable[[str, int], Path], duplicates: str
) -> None:
    first = put("a.png", 7)
    paths = [first, *(put(f"{number}.png", 3) for number in range(12))]
    for name in ("b.png", "z.png"):
        paths.insert(1, tmp_path / "in" / name)
        paths[1].write_bytes(first.read_bytes())
    results = all_at_once(tmp_path / "out", paths, duplicates=duplicates)
    twins = [r for r in results if r.path.name in ("a.png", "b.png", "z.png")]
    assert len(results) == len(answers(tmp_path / "out")) == 15
    expected = [State.DONE] + [State.DUPLICATE if duplicates == "skip" else State.DONE] * 2
    assert [result.status for result in twins] == expected


def test_a_path_that_comes_again_while_it_is_in_hand_is_recorded_once(
    tmp_path: Path, put: Callable[[str, int], Path]
) -> None:
    path = put("a.png", 7)
    results = all_at_once(tmp_path / "out", [path, put("b.png", 7), path, path], duplicates="again")
    assert sorted(result.is_new for result in results) == [False, False, True, True]
    assert [name for name, *_ in answers(tmp_path / "out")] == ["a.png", "b.png"]


def test_promise_10_an_image_that_stops_the_engine_costs_those_beside_it_no_answer(
    tmp_path: Path, put: Callable[[str, int], Path]
) -> None:
    """It is tried three times, alone from the second time on; each fault ends the process."""
    paths = [put(f"{number:02}.png", 255 if number == 5 else 1) for number in range(20)]
    for answered in (0, 5, 6):
        with pytest.raises(BackendError):
            all_at_once(tmp_path / "out", paths)
        assert len(answers(tmp_path / "out")) == answered
    all_at_once(tmp_path / "out", paths)
    states = [state for _, state, _ in answers(tmp_path / "out")]
    assert states == ["done"] * 5 + ["failed"] + ["done"] * 14


def test_nothing_is_published_beside_an_engine_fault(tmp_path: Path, put: Callable[[str, int], Path]) -> None:
    paths = [put(f"{number}.png", 255 if number == 3 else 1) for number in range(LARGEST_BATCH)]
    with pytest.raises(BackendError):
        all_at_once(tmp_path / "out", paths)
    assert answers(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("place", "in_hand"), [("claim", 0), ("commit of the claims", 0), ("answer", 16), ("CSV file", 16)]
)
def test_promise_15_a_full_disk_takes_no_try_of_those_in_hand(
    tmp_path: Path, put: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch, place: str, in_hand: int
) -> None:
    paths = [put(f"{number:02}.png", 1) for number in range(30)]
    together = Journal.together

    def full(*args: object, **kwargs: object) -> None:
        raise OutputFullError("there is no space; free some.")

    @contextlib.contextmanager
    def full_at_the_end(journal: Journal, durable: bool = True) -> Iterator[None]:
        with together(journal, durable):
            yield
            if not durable:
                full()

    with open_desk(TwoLanes(), tmp_path / "out") as (desk, journal):
        for _ in range(5):  # more often than an image may be tried
            with monkeypatch.context() as patch:
                if place == "commit of the claims":
                    patch.setattr(Journal, "together", full_at_the_end)
                elif place == "CSV file":
                    patch.setattr(Results, "look", full)
                else:
                    patch.setattr(Journal, "claim" if place == "claim" else "finish", full)
                with pytest.raises(OutputFullError):
                    list(desk.process_all(Arrival(path) for path in paths))
            desk.recover()
        assert [one.tries for one in map(journal.latest, paths) if one is not None] == [0] * in_hand
        results = list(desk.process_all(Arrival(path) for path in paths))
    assert [result.status for result in results] == [State.DONE] * 30


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (Results, "look", OutputFullError("there is no space; free some.")),
        (Journal, "finish", OutputFullError("there is no space; free some.")),
        (TwoLanes, "read", KeyboardInterrupt()),
    ],
    ids=["full disk", "full disk of the journal", "key"],
)
def test_promise_15_a_run_that_ends_on_a_full_disk_or_at_a_key_takes_no_try(
    tmp_path: Path,
    put: Callable[[str, int], Path],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    error: BaseException,
) -> None:
    paths = [put(f"{number:02}.png", 1) for number in range(20)]

    def end(*_: object) -> None:
        raise error

    for _ in range(5):  # more often than an image may be tried
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, end)
            with pytest.raises(type(error)):
                all_at_once(tmp_path / "out", paths, TwoLanes(has_crowd=False))
    assert {result.status for result in all_at_once(tmp_path / "out", paths)} == {State.DONE}


@pytest.mark.parametrize(("keep_pixels", "most"), [(False, LARGEST_BATCH), (True, 2)])
def test_the_next_files_are_asked_for_while_earlier_ones_are_read(
    tmp_path: Path, put: Callable[[str, int], Path], keep_pixels: bool, most: int
) -> None:
    """And not more of them than two batches, which are small where their pixels are kept."""
    paths = [put(f"{number:02}.png", 1) for number in range(50)]
    asked = itertools.count()

    def arrivals() -> Iterator[Arrival]:
        for path in paths:
            next(asked)
            yield Arrival(path)

    fed: list[None] = []
    with open_desk(TwoLanes(), tmp_path / "out", keep_pixels=keep_pixels) as (desk, _):
        results = desk.process_all(arrivals(), lambda: fed.append(None))
        next(results)
        assert next(asked) == 2 * most
        assert len(fed) == 3 * most  # systemd's watchdog is fed for each file and each image
        assert len(list(results)) == 49
    assert len(fed) == 2 * 50


def test_a_batch_of_large_files_has_fewer_of_them(
    tmp_path: Path, put: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "_BATCH_BYTES", 1000)
    paths = [put(f"{number:02}.png", 1) for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(path.read_bytes().ljust(600 if number else 100, b" "))
    waiting = iter(paths)
    with open_desk(TwoLanes(), tmp_path / "out") as (desk, _):
        results = desk.process_all(map(Arrival, waiting))
        next(results)
        assert len(list(waiting)) == 20 - 3 - 2


def test_the_time_in_which_others_of_a_batch_are_read_is_waiting(
    tmp_path: Path, put: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = 0

    class OneSecond(TwoLanes):
        def read(self, rgb: NDArray[np.uint8], watch: Stopwatch | None = None, *_: object) -> list[Finding]:
            nonlocal now_ms
            now_ms += 1000
            assert watch is not None
            watch.lap("detect")
            return []

    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter_ns=lambda: now_ms * 10**6))
    paths = [put(f"{number}.png", number) for number in range(LARGEST_BATCH)]
    results = all_at_once(tmp_path / "out", paths, OneSecond(has_crowd=False))
    stages = [result.stage_ms for result in results]
    assert [ms["commit"] for ms in stages] == [0] * LARGEST_BATCH
    assert [ms["detect"] for ms in stages] == [1000] * LARGEST_BATCH
    assert stages[0]["wait"] == 1000 * (LARGEST_BATCH - 1)


def test_promise_13_a_share_on_which_each_file_takes_long_feeds_the_watchdog(
    tmp_path: Path, put: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    real = opening._read_regular

    def read(path: Path, max_bytes: int, alive: Callable[[], None]) -> tuple[bytes | None, FileStamp]:
        happened.append("read")
        return real(path, max_bytes, alive)

    monkeypatch.setattr(opening, "_read_regular", read)
    paths = [put(f"{number}.png", number) for number in range(2 * LARGEST_BATCH)]
    with open_desk(TwoLanes(), tmp_path / "out") as (desk, _):
        list(desk.process_all(map(Arrival, paths), lambda: happened.append("fed")))
    assert happened.count("read") == len(paths)
    assert ("read", "read") not in itertools.pairwise(happened)


def test_promise_13_a_large_file_on_a_slow_share_feeds_the_watchdog_while_it_is_read(
    tmp_path: Path, put: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put("large.png", 1)
    monkeypatch.setattr(opening, "_PIECE_BYTES", path.stat().st_size // 5)
    fed: list[None] = []
    with open_desk(TwoLanes(), tmp_path / "out") as (desk, _):
        (result,) = desk.process_all([Arrival(path)], lambda: fed.append(None))
    assert result.status is State.DONE
    assert len(fed) >= 5 + 2  # for each piece, for the file, and for the image


def test_pixels_are_given_only_where_they_are_asked_for(
    tmp_path: Path, put: Callable[[str, int], Path]
) -> None:
    paths = [put(f"{number}.png", 1) for number in range(6)]
    kept = all_at_once(tmp_path / "kept", paths, keep_pixels=True)
    assert all(result.rgb is not None for result in kept)
    assert all(result.rgb is None for result in all_at_once(tmp_path / "out", paths))
