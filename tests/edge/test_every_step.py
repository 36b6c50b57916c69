"""A death at every step of the start and of the work, and the refusal of every call.

A process that is killed leaves the folders as they are at that moment. So they are copied at every call of
`os`, `sqlite3` and open files that finds them changed, and a station starts on each copy. What a power cut
takes besides, and a kill within a call, are not tried here.
"""

import contextlib
import copy
import csv
import errno
import io
import itertools
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import CodeType, FrameType

import pytest
from PIL import Image

from edge.errors import EdgeError
from edge.images import ImageLimits
from edge.locks import OutputFullError
from edge.outputs import open_desk
from edge.tasks import Arrival
from tests.edge.pipeline_doubles import AsManyAsBright
from tests.edge.restore.bench import Station, damage, lose

Call = Callable[..., object]
Prepare = Callable[[Station], None]
Rows = Counter[tuple[str, ...]]
Site = tuple[str, tuple[tuple[CodeType, int], ...]]

OF_THE_SYSTEM = {"posix", "fcntl", "sqlite3", "_sqlite3", "_io", "io"}
NO_STEP = {"fspath", "getpid", "_path_normpath", "text_encoding", "urandom"}
NEVER_REFUSED = {"close", "__exit__"}
"""They let go of a file, or the test would run out of them."""
SQLITE_CODES = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EIO: sqlite3.SQLITE_IOERR,
    errno.EACCES: sqlite3.SQLITE_CANTOPEN,
    errno.EROFS: sqlite3.SQLITE_READONLY,
}
OF_THE_MOMENT = {"latency_ms", "finished_at"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where it can be had: thousands of fsyncs would take minutes, and prove nothing here."""
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="every-step-", dir=memory if in_memory else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of starts say thousands of things."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def add_images(station: Station) -> None:
    for number in (4, 5):
        Image.new("RGB", (8, 6), (number, 7, 7)).save(station.inbox / f"{number}.png")
    shutil.copy(station.inbox / "4.png", station.inbox / "5, again.png")


def edit(station: Station) -> None:
    """A hand changes both files, and the last committed row was not written yet."""
    results, images = station.out / "results.csv", station.out / "images.csv"
    results.write_text(results.read_text().replace("fp32", "fp16"))
    lines = images.read_text().replace("fp32", "fp16").splitlines(keepends=True)
    images.write_text("".join(lines[:-1]))


def fresh(station: Station) -> None:
    pass


def append(station: Station) -> None:
    station.run()
    add_images(station)


def edited(station: Station) -> None:
    station.run()
    edit(station)
    add_images(station)


def torn(station: Station) -> None:
    """A piece of a row behind the last one, and an end that is missing."""
    station.run()
    results, images = station.out / "results.csv", station.out / "images.csv"
    results.write_bytes(results.read_bytes() + b"half a row,0,")
    images.write_bytes(images.read_bytes()[:-5])
    add_images(station)


def lost(station: Station) -> None:
    station.run()
    lose(station)


def damaged(station: Station) -> None:
    station.run()
    damage(station)


def older(station: Station, between: Prepare = fresh) -> None:
    """The copy of a journal at work, with its log of changes."""
    backup = station.state.with_name("backup")
    station.run(lambda _: shutil.copytree(station.state, backup))
    between(station)
    add_images(station)
    station.run()
    lose(station)
    backup.rename(station.state)


def older_and_read(station: Station) -> None:
    older(station)


def older_with_parts(station: Station) -> None:
    older(station, edit)


def unfinished(station: Station) -> None:
    """The process ended between the two files and in the middle of a row, and the journal is lost, too."""
    station.run()
    old = (station.out / "images.csv").read_bytes()
    Image.new("RGB", (8, 6), (4, 7, 7)).save(station.inbox / "4.png")
    station.run()
    (station.out / "images.csv").write_bytes(old)
    results = station.out / "results.csv"
    results.write_bytes(results.read_bytes()[:-5])
    lose(station)


AT_WORK = (fresh, append, torn, edited)
WITHOUT_A_JOURNAL = (lost, damaged, older, older_and_read, older_with_parts, unfinished)


class Scene:
    """A station before its start, to be had as often as wanted, and how it ends when nothing happens."""

    def __init__(self, folder: Path, prepare: Prepare) -> None:
        folder.mkdir()
        self._copies = folder / "copies"
        self._count = 0
        self._station = Station(folder)
        self._prepare = prepare
        prepare(self._station)
        self._paths = [*sorted(self._station.inbox.rglob("*.png")), self._station.inbox / "gone.png"]
        self._csv = self._station.csv()
        undisturbed = self.copy()
        self.work(undisturbed)
        self._rows = all_rows(undisturbed)
        images = {(row["NAME"], row["sample"]) for output, row in rows(undisturbed) if output == "images"}
        assert len(images) == len(self._paths) == sum(row[0] == "images" for row in self._rows.elements())
        assert cells_of(undisturbed) == cells_told_of(undisturbed)
        assert self.fault_of(undisturbed) == ""

    def copy(self, of: Station | None = None) -> Station:
        """A station of the same inbox, with outputs and journal of its own."""
        self._count += 1
        station = copy.copy(of or self._station)
        folder = self._copies / str(self._count)
        folder.mkdir(parents=True)
        for name in ("out", "state"):
            if getattr(station, name).exists():
                shutil.copytree(getattr(station, name), folder / name)
            setattr(station, name, folder / name)
        return station

    def work(self, station: Station, paths: list[Path] | None = None) -> int:
        """Start, process files (None: all) in batches, wait for space; how many answers were new."""
        new = 0
        options = {"inbox": station.inbox, "limits": ImageLimits(max_bytes=4096)}
        with (
            looking_on(station) if self._prepare is older_and_read else contextlib.nullcontext(),
            open_desk(AsManyAsBright(), station.out, station.state, **options) as (desk, _),
        ):
            waiting = dict.fromkeys(self._paths if paths is None else paths)
            while waiting:
                try:
                    for result in desk.process_all([Arrival(path, station.sample(path)) for path in waiting]):
                        new += result.is_new
                        del waiting[result.path]
                except OutputFullError:
                    desk.recover()
        return new

    def steps(self) -> list[Site]:
        """All calls of the start and the work, in order."""
        station, sites = self.copy(), []
        at_every_call(lambda: self.work(station), lambda *call: sites.append(site_of(*call)))
        return sites

    def fault_of(self, station: Station, starts: int = 2) -> str:
        """What is wrong with a station that was disturbed, when it is started again; empty: nothing.

        All rows stand there, none twice, and of what stood in the CSV files before no byte is gone.
        """
        try:
            self.work(station)
            after = station.csv()
            again = self.work(station) if starts > 1 else 0
            wrong = [
                ("rows are missing: %s", self._rows - all_rows(station)),
                ("rows are there twice, or are none: %s", all_rows(station) - self._rows),
                ("one more start has new answers: %s", again),
                ("one more start changes a file: %s", station.csv() != after),
                ("bytes are gone from %s", [name for name in self._csv if self._is_less(station, name)]),
            ]
        except Exception as error:
            return f"it does not start again: {error!r}"
        shutil.rmtree(station.out.parent)
        return "; ".join(text % (found,) for text, found in wrong if found)

    def fault_after_refusal(self, step: int, site: Site, number: int) -> str:
        """What is wrong after the call at a step was refused; empty: nothing."""
        station = self.copy()
        steps = itertools.count()

        def refuse(called: Call, frame: FrameType) -> None:
            if next(steps) == step:
                assert site_of(called, frame) == site
                raise refusal(called, number)

        try:
            at_every_call(lambda: self.work(station), refuse)
        except EdgeError:
            pass
        except OSError as error:
            return f"it ends with {error!r}"
        assert next(steps) == step + 1
        return self.fault_of(station, starts=1)

    def _is_less(self, station: Station, name: str) -> bool:
        before, now = self._csv[name], bytes_of(station.out / name)
        cut = bytes_of(station.out / f"{name}.cut")
        places = range(len(before), -1, -1)
        return not any(now.startswith(before[:place]) and before[place:] in cut for place in places)


@contextlib.contextmanager
def looking_on(station: Station) -> Iterator[None]:
    """A reader of the journal, for whose sake SQLite keeps the log of changes when the station closes it."""
    with contextlib.closing(sqlite3.connect(station.journal)) as reader:
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield


def rows(station: Station) -> Iterator[tuple[str, dict[str, str]]]:
    """The output and the cells of each row, from all parts."""
    for name, data in station.csv().items():
        for row in csv.DictReader(io.StringIO(data.decode(), newline="")):
            yield name.split(".")[0], row


def image_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[column] for column in ("NAME", "sample", "image_sha256", "finished_at"))


def cells_of(station: Station) -> Rows:
    """How many rows each image has in results.csv."""
    return Counter(image_of(row) for output, row in rows(station) if output == "results")


def cells_told_of(station: Station) -> Rows:
    """How many images.csv says that each has."""
    told = [row for output, row in rows(station) if output == "images"]
    return Counter(image_of(row) for row in told for _ in range(int(row["leukocytes"])))


def all_rows(station: Station) -> Rows:
    """All rows without what is another at each run."""
    return Counter(
        (output, *(row[column] for column in row if column not in OF_THE_MOMENT))
        for output, row in rows(station)
    )


def bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def at_every_call(work: Callable[[], object], act: Callable[[Call, FrameType], None]) -> None:
    """Work, and act before each call that the system may see or refuse."""

    def look(frame: FrameType, event: str, called: Call) -> None:
        if event == "c_call" and is_step(called):
            act(called, frame)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(before)


def is_step(called: Call) -> bool:
    return (
        module_of(called) in OF_THE_SYSTEM
        and called.__name__ not in NO_STEP
        and not isinstance(getattr(called, "__self__", None), io.StringIO | io.BytesIO | io.TextIOWrapper)
    )


def module_of(called: Call) -> str:
    """Where a function of C, or the type that it is a method of, is at home."""
    return called.__module__ or type(getattr(called, "__self__", None)).__module__


def what_is_on_disk(station: Station) -> Hashable:
    """All names and bytes but those of the shared memory of SQLite, which dies with the process."""
    files = [path for folder in (station.out, station.state) for path in sorted(folder.rglob("*"))]
    return tuple(
        (path, path.read_bytes() if path.is_file() else b"") for path in files if path.suffix != "-shm"
    )


def deaths(scene: Scene) -> list[tuple[str, Station]]:
    """Where a station could die at the start and at work, and what it would leave there."""
    at_work, seen = scene.copy(), set()
    left: list[tuple[str, Station]] = []

    def remember(called: Call, frame: FrameType) -> None:
        found = what_is_on_disk(at_work)
        if found not in seen:
            seen.add(found)
            left.append((told(site_of(called, frame)), scene.copy(at_work)))

    at_every_call(lambda: scene.work(at_work), remember)
    assert len(left) >= 15
    return left


def assert_exactly_once(scene: Scene) -> None:
    faults = {where: scene.fault_of(left) for where, left in deaths(scene)}
    assert not any(faults.values()), "\n".join(
        f"{where}: {fault}" for where, fault in faults.items() if fault
    )


@pytest.mark.parametrize("prepare", AT_WORK)
def test_promise_01_a_death_at_any_call_loses_and_doubles_no_row(folder: Path, prepare: Prepare) -> None:
    assert_exactly_once(Scene(folder / "scene", prepare))


@pytest.mark.parametrize("prepare", WITHOUT_A_JOURNAL)
def test_promise_32_a_death_while_the_journal_is_made_anew_loses_and_doubles_no_row(
    folder: Path, prepare: Prepare
) -> None:
    assert_exactly_once(Scene(folder / "scene", prepare))


@pytest.mark.parametrize("prepare", [*AT_WORK, *WITHOUT_A_JOURNAL])
def test_promise_02_after_any_death_a_start_finds_all_rows_of_an_image_or_none(
    folder: Path, prepare: Prepare
) -> None:
    """Before any work: the start alone mends what the death tore."""
    scene = Scene(folder / "scene", prepare)
    for where, left in deaths(scene):
        scene.work(left, [])
        assert cells_of(left) == cells_told_of(left), where


def site_of(called: Call, frame: FrameType | None) -> Site:
    """The call and all lines that led to it."""
    lines = []
    while frame is not None and frame.f_code.co_filename != __file__:
        lines.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return called.__name__, tuple(lines)


def is_start(site: Site) -> bool:
    return any(code.co_name == "open_desk" for code, _ in site[1])


def told(site: Site) -> str:
    called, lines = site
    return " > ".join([*(f"{code.co_name}:{line}" for code, line in reversed(lines)), called])


def refusal(called: Call, number: int) -> Exception:
    if module_of(called) in ("sqlite3", "_sqlite3"):
        error = sqlite3.OperationalError("refused")
        error.sqlite_errorcode = SQLITE_CODES[number]
        return error
    return OSError(number, os.strerror(number))


def is_an_answer(site: Site, number: int) -> bool:
    """Whether a refusal has an answer that stays, or takes away what is needed to give one.

    An image that may not be read is `failed` (desk/test_unreadable_files.py). A CSV file that may not be read
    is left alone and stops no start: whether the last rows stand there cannot be told, and they are written
    again.
    """
    functions = [code.co_name for code, _ in site[1] if Path(code.co_filename).parent.name == "edge"]
    files = {Path(code.co_filename).name for code, _ in site[1]}
    is_of_image = "opening.py" in files and "journal.py" not in files
    is_of_csv = not {"_is_behind", "_missing"}.isdisjoint(functions)
    return (is_of_image and number in (errno.EACCES, errno.EROFS)) or (is_of_csv and number == errno.EACCES)


@pytest.mark.parametrize("number", SQLITE_CODES, ids=errno.errorcode.get)
def test_promise_01_any_call_may_be_refused(folder: Path, number: int) -> None:
    """Each call of each start; at work each call once with a journal of old and once with one made anew.

    Of calls by the same lines the first two.
    """
    done: set[tuple[Site, int, bool]] = set()
    faults = []
    for prepare in (*AT_WORK, damaged, older_with_parts, unfinished):  # the others make the same calls
        if prepare is torn and number == errno.EACCES:
            continue  # a file that may not be written is left alone, torn as it is
        scene = Scene(folder / prepare.__name__, prepare)
        done = {step for step in done if not is_start(step[0])}
        met: Counter[Site] = Counter()
        for step, site in enumerate(scene.steps()):
            met[site] += 1
            this = site, met[site], prepare in AT_WORK
            if site[0] in NEVER_REFUSED or met[site] > 2 or this in done or is_an_answer(site, number):
                continue
            done.add(this)
            if fault := scene.fault_after_refusal(step, site, number):
                faults.append(f"{prepare.__name__}, {told(site)}: {fault}")
    assert not faults, "\n".join(faults)
