"""Parts are read exactly once, with the rows of a run on one machine, whatever happens to the worker."""

import csv
import errno
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edge.archive import worker
from edge.archive.listing import list_files, plan
from edge.archive.store import ArchiveStore
from edge.archive.worker import Order, PartReader, as_row, count_start, read_part
from edge.backends.base import CPU_THREADS_VARIABLE
from edge.errors import ArchiveError
from edge.results import escape, unescape
from tests.edge.archive.folders import (
    EngineDouble,
    fault_at,
    png,
    read_all,
    rows_of_archive,
    rows_of_one_run,
    write_archive,
)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the code under test catches it."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "images")


@pytest.mark.parametrize("partitions", [1, 2, 7, 1000])
def test_the_rows_are_those_of_one_machine_in_any_number_of_partitions(
    images: Path, tmp_path: Path, partitions: int
) -> None:
    assert read_all(EngineDouble(), images, tmp_path / "out", tmp_path / "scratch", partitions) == 0
    rows = rows_of_archive(tmp_path / "out")
    assert rows == rows_of_one_run(images, tmp_path / "one")
    assert rows[1].total() == 13


def test_a_second_run_reads_nothing_and_adds_nothing(images: Path, tmp_path: Path) -> None:
    read_all(EngineDouble(), images, tmp_path / "out", tmp_path / "scratch")
    before = sorted(path.name for path in (tmp_path / "out/parts").iterdir())
    store = ArchiveStore(tmp_path / "out")
    assert plan(list_files([images], tmp_path / "out"), 3, store.settled(), store.parts()) == []
    assert sorted(path.name for path in (tmp_path / "out/parts").iterdir()) == before
    assert not list((tmp_path / "scratch").iterdir())


def test_a_part_knows_the_earlier_ones_of_its_partition_without_a_list_of_all_parts(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are ten thousand parts of ten million images, and each would look at a list of them all."""
    out = tmp_path / "out"
    read_all(EngineDouble(), images, out, tmp_path / "scratch")
    (images / "z.png").write_bytes(png(2))
    store = ArchiveStore(out)
    (part,) = plan(list_files([images], out), 3, store.settled(), store.parts())
    monkeypatch.delattr(ArchiveStore, "parts")
    read_part(EngineDouble(), store, part, tmp_path / "scratch")  # type: ignore[arg-type]
    assert store.images(part.name)["status"].to_pylist() == ["duplicate"]


def test_a_worker_killed_at_any_image_goes_on_behind_the_last_answer(images: Path, tmp_path: Path) -> None:
    expected = rows_of_one_run(images, tmp_path / "one")
    for number in range(5):
        folder = tmp_path / str(number)
        engine = EngineDouble()

        def kill(grey: int, engine: EngineDouble = engine, number: int = number) -> None:
            if len(engine.shown) == number + 1:
                raise KilledError

        engine.on_read = kill
        with pytest.raises(KilledError):
            read_all(engine, images, folder / "out", folder / "scratch")
        read_all(engine, images, folder / "out", folder / "scratch")
        assert rows_of_archive(folder / "out") == expected
        assert len(engine.shown) == 5 + 1, "only the image at which it died is read twice"


def test_a_worker_killed_at_any_step_of_publishing_neither_loses_nor_doubles_a_row(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of_one_run(images, tmp_path / "one")
    fsync = os.fsync
    for number in range(1000):
        steps, folder = iter(range(1000)), tmp_path / str(number)

        def fsync_or_die(handle: int, steps: object = steps, number: int = number) -> None:
            if next(steps) == number:  # type: ignore[call-overload]
                raise KilledError
            fsync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync_or_die)
            try:
                read_all(EngineDouble(), images, folder / "out", folder / "scratch", 2)
                break
            except KilledError:
                pass
        read_all(EngineDouble(), images, folder / "out", folder / "scratch", 2)
        assert rows_of_archive(folder / "out") == expected, f"killed at fsync {number}"
    assert number > 20


def test_an_image_that_came_while_no_worker_ran_does_not_take_the_row_of_the_one_that_was_begun(
    images: Path, tmp_path: Path
) -> None:
    engine, out = EngineDouble(), tmp_path / "out"

    def kill(grey: int) -> None:
        if grey == 3:
            raise KilledError

    engine.on_read = kill
    with pytest.raises(KilledError):
        read_all(engine, images, out, tmp_path / "scratch", 1)
    (images / "a.png").write_bytes(png(7))  # before all others by name
    read_all(EngineDouble(), images, out, tmp_path / "scratch", 1)
    assert rows_of_archive(out) == rows_of_one_run(images, tmp_path / "one")
    for name in ("images", "results"):
        table = pq.read_table(out / f"parts/00000-0/{name}.parquet").to_pylist()
        with (out / f"parts/00000-0/{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        told = [(row["NAME"], row["sample"], row["image_sha256"] or None) for row in rows]
        assert [(row["name"], row["sample"], row["image_sha256"]) for row in table] == told
        own = [escape(os.path.basename(unescape(row["path"]))) for row in table]  # noqa: PTH119
        assert [row["name"] for row in table] == own


def test_a_machine_that_is_lost_with_its_scratch_folder_loses_no_row(images: Path, tmp_path: Path) -> None:
    engine = EngineDouble()

    def kill(grey: int) -> None:
        if len(engine.shown) == 4:
            raise KilledError

    engine.on_read = kill
    with pytest.raises(KilledError):
        read_all(engine, images, tmp_path / "out", tmp_path / "scratch")
    shutil.rmtree(tmp_path / "scratch")
    read_all(EngineDouble(), images, tmp_path / "out", tmp_path / "another")
    assert rows_of_archive(tmp_path / "out") == rows_of_one_run(images, tmp_path / "one")


def test_of_two_workers_with_the_same_part_one_is_too_late(images: Path, tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path / "out")
    store.manifest("demo-1a2b3c4d5e6f", 1, samples_have_folders=False)
    (part,) = plan(list_files([images], tmp_path / "out"), 1, set(), [])
    written = []
    for scratch in ("one-machine", "another"):
        assert read_part(EngineDouble(), store, part, tmp_path / scratch) == 0  # type: ignore[arg-type]
        written.append((tmp_path / "out/parts/00000-0/images.csv").read_bytes())
    assert written[0] == written[1], "they tell different times of answering"
    assert [str(name) for name in store.parts()] == ["00000-0"]
    assert rows_of_archive(tmp_path / "out") == rows_of_one_run(images, tmp_path / "one")
    assert not list((tmp_path / "out/.unfinished").iterdir())


def test_an_image_that_ends_the_worker_three_times_is_failed_and_the_others_are_read(
    images: Path, tmp_path: Path
) -> None:
    engine = EngineDouble()

    def kill(grey: int) -> None:
        if grey == 3:
            raise KilledError

    engine.on_read = kill
    for _ in range(3):
        with pytest.raises(KilledError):
            read_all(engine, images, tmp_path / "out", tmp_path / "scratch")
    read_all(engine, images, tmp_path / "out", tmp_path / "scratch")
    rows = rows_of_archive(tmp_path / "out")[1]
    failed = [row for row in rows if row[1] == "failed"]
    assert [row[:3] for row in failed] == [
        ("'=b,\n.png", "failed", "the station ended while it read the image (3 times)")
    ]
    assert rows.total() == 13


def test_an_engine_that_fails_is_opened_anew_and_its_image_failed_at_the_third_try(
    images: Path, tmp_path: Path
) -> None:
    engine = EngineDouble()
    engine.on_read = fault_at(3)
    assert read_all(engine, images, tmp_path / "out", tmp_path / "scratch") == 0
    rows = rows_of_archive(tmp_path / "out")[1]
    assert [row[:3] for row in rows if row[1] == "failed"] == [("'=b,\n.png", "failed", "engine fault")]
    assert (rows.total(), engine.shown.count(3), engine.opened) == (13, 3, 4)


def test_images_that_came_later_know_those_that_were_there(images: Path, tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    read_all(EngineDouble(), images, out, scratch)
    (images / "a-copy.png").write_bytes(png(2))  # before the first of its kind by name, but later in time
    (images / "new.png").write_bytes(png(6))
    engine = EngineDouble()
    read_all(engine, images, out, scratch)
    rows = rows_of_archive(out)
    assert engine.shown == [6]
    duplicate = next(row for row in rows[1] if row[0] == "a-copy.png")
    assert duplicate[1:3] == ("duplicate", str(images / "smear-1/a.png"))
    assert rows[1].total() == 15
    assert max(rows[1].values()) == 1


def test_the_parquet_files_say_what_the_csv_files_say_and_more(images: Path, tmp_path: Path) -> None:
    read_all(EngineDouble(), images, tmp_path / "out", tmp_path / "scratch")
    (part,) = [
        path for path in (tmp_path / "out/parts").iterdir() if b"\\xe9" in (path / "images.csv").read_bytes()
    ]
    row = next(row for row in pq.read_table(part / "images.parquet").to_pylist() if "\\xe9" in row["name"])
    assert (row["name"], row["sample"], row["status"], row["leukocytes"]) == (
        "latin-\\xe9.png",
        "smear-1",
        "done",
        4,
    )
    assert row["path"] == f"{images}/smear-1/latin-\\xe9.png"
    table = pq.read_table(part / "results.parquet")
    assert table.schema.metadata[b"classes"] == b'["EO", "PNN"]'
    cell = next(cell for cell in table.to_pylist() if cell["name"] == "latin-\\xe9.png")
    assert (cell["x1"], cell["class"], cell["runner_up"]) == (0.25, "PNN", "EO")
    assert cell["probabilities"] == pytest.approx([0.2, 0.8])
    total = sum(
        pq.read_metadata(path).num_rows for path in (tmp_path / "out").glob("parts/*/results.parquet")
    )
    assert total == rows_of_archive(tmp_path / "out")[0].total()


def test_workers_that_always_die_end_the_run_and_another_may_be_started(tmp_path: Path) -> None:
    counter = tmp_path / "00042-0.starts"
    for _ in range(100):
        count_start(counter)
    with pytest.raises(ArchiveError, match="ended 100 times in the part 00042-0; try the engine"):
        count_start(counter)
    count_start(counter)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.ENOSPC,
            "there is no space for '/dev/shm/x'; free some: ",
        ),
        (errno.EEXIST, "'/dev/shm/x' cannot be read or written (File exists); mend the disk"),
    ],
)
def test_a_scratch_folder_that_cannot_be_made_ends_the_run_in_a_sentence(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refused(_: str) -> Path:
        raise OSError(number, os.strerror(number), "/dev/shm/x")

    monkeypatch.setattr(worker, "scratch_of", refused)
    monkeypatch.setenv(CPU_THREADS_VARIABLE, "1")  # a worker sets its threads for good
    monkeypatch.setattr("cv2.setNumThreads", lambda _: None)
    (part, *_) = plan(list_files([images], tmp_path / "out"), 1, set(), [])
    order = Order(tmp_path / "out", "1a2b", None, "demo-1a2b3c4d5e6f", "auto", "auto", None, 1)
    told = PartReader(order)(as_row(part))
    assert told["error"].startswith(said)
