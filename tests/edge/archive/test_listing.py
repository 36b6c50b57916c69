"""What is read, and which files come to the same worker."""

import csv
import os
from pathlib import Path

import pytest

from edge.archive.listing import IMAGES_PER_PARTITION, list_files, partition_count, place_of, plan
from edge.archive.store import PartName, version_key
from edge.errors import StationError
from edge.oneshot import run_once
from edge.results import escape
from tests.edge.archive.folders import EngineDouble, write_archive


def test_equal_files_are_in_one_part_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.bin").write_bytes(b"x" * 20_000 + name.upper().encode() * 20_000)
        (tmp_path / f"{name}-copy.bin").write_bytes(b"x" * 20_000 + name.upper().encode() * 20_000)
    parts = plan(list_files([tmp_path], tmp_path.parent / "out"), 1000, set(), [])
    names = [[os.path.basename(path) for path, _ in part.files] for part in parts]  # noqa: PTH119
    assert sorted(names) == [[f"{n}-copy.bin".encode(), f"{n}.bin".encode()] for n in "abcdefgh"]


def test_a_later_part_of_a_partition_has_the_next_number(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (part,) = plan([(os.fsencode(tmp_path / "a.png"), b"")], 1, set(), [PartName(0, 0), PartName(0, 3)])
    assert part.name == PartName(0, 4)


def test_a_file_with_an_answer_is_planned_again_only_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"a")
    status = path.stat()
    settled = {version_key(str(path), status.st_size, status.st_mtime_ns)}
    assert place_of(os.fsencode(path), settled) is None
    os.utime(path, ns=(0, 1))
    assert place_of(os.fsencode(path), settled) is not None


@pytest.mark.parametrize("name", ["gone.png", "folder", "pipe"])
def test_what_cannot_be_read_has_a_place_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert len(place_of(os.fsencode(tmp_path / name), set()) or b"") == 8


def test_an_output_folder_within_the_archive_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "images")
    with pytest.raises(StationError, match="lies within"):
        list_files([tmp_path / "images"], tmp_path / "images/out")


def test_samples_of_several_folders_are_those_of_edge_run(tmp_path: Path) -> None:
    for laboratory in ("lab1", "lab2"):
        write_archive(tmp_path / laboratory)
    folders = [tmp_path / "lab1", tmp_path / "lab2"]
    files = list_files(folders, tmp_path / "out")
    run_once(folders, tmp_path / "one", EngineDouble())
    with (tmp_path / "one/images.csv").open(newline="", encoding="utf-8") as file:
        assert [escape(sample) for _, sample in files] == [row["sample"] for row in csv.DictReader(file)]
    assert {b"lab1/smear-1", b"lab2/smear-1"} < {sample for _, sample in files}


def test_files_that_nothing_would_tell_apart_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "north/images", tmp_path / "south/images"]
    for folder in folders:
        write_archive(folder)
    with pytest.raises(
        StationError, match="would have the same NAME and sample; give a folder that holds both"
    ):
        list_files(folders, tmp_path / "out")


def test_small_archives_have_parts_for_all_workers_and_large_ones_parts_of_a_thousand() -> None:
    """Also one that is begun with a few files: the number stays when it grows."""
    assert [partition_count(files) for files in (1, 10, 600, 10_000_000)] == [
        *(64, 64, 64),
        10_000_000 // IMAGES_PER_PARTITION,
    ]
