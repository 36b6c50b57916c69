"""The output folder belongs to one bundle, and tells when it is not understood."""

import contextlib
import shutil
from pathlib import Path

import pytest

from edge.archive.store import ArchiveStore, PartName
from edge.errors import StationError


def test_a_folder_keeps_its_number_of_partitions(tmp_path: Path) -> None:
    first = ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=False)
    assert ArchiveStore(tmp_path).manifest("demo-1", 9, samples_have_folders=False) == first
    assert first.partitions == 7


def test_another_bundle_is_refused_by_the_names_of_both(tmp_path: Path) -> None:
    ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=False)
    with pytest.raises(StationError, match=r"demo-1, not of demo-2; give another --out"):
        ArchiveStore(tmp_path).manifest("demo-2", 7, samples_have_folders=False)


@pytest.mark.parametrize("had", [False, True])
def test_samples_that_are_named_otherwise_are_refused(tmp_path: Path, had: bool) -> None:
    ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=had)
    assert ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=had).samples_have_folders is had
    with pytest.raises(StationError) as refused:
        ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=not had)
    have, would, give = (
        ("begin", "would not", "all folders at once")
        if had
        else ("do not begin", "would", "one folder alone")
    )
    assert str(refused.value) == (
        f"the samples in '{tmp_path}' {have} with the names of the folders given, those of this run {would}; "
        f"give {give}, or another --out."
    )


def test_the_manifest_of_an_older_version_tells_of_samples_without_folders(tmp_path: Path) -> None:
    older = '{"schema_version": 1, "archive_id": "1a2b", "bundle": "demo-1", "partitions": 7}'
    (tmp_path / "archive.json").write_text(older)
    assert ArchiveStore(tmp_path).manifest("demo-1", 9, samples_have_folders=False).partitions == 7
    with pytest.raises(StationError, match="do not begin with the names"):
        ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=True)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive.json").write_text('{"schema_version": 2}')
    with pytest.raises(StationError, match="not of this version"):
        ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=False)


def test_a_manifest_of_a_later_version_is_refused_though_it_looks_the_same(tmp_path: Path) -> None:
    ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=False)
    path = tmp_path / "archive.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(StationError, match="not of this version"):
        ArchiveStore(tmp_path).manifest("demo-1", 7, samples_have_folders=False)


def test_a_worker_that_outlives_its_driver_publishes_no_part_that_is_half_swept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArchiveStore(tmp_path)
    store.manifest("demo-1", 7, samples_have_folders=False)
    building = tmp_path / ".unfinished" / "00003-0.1a2b"
    building.mkdir()
    (building / "images.parquet").touch()
    rmtree = shutil.rmtree

    def rmtree_in_two_steps(path: Path, **options: bool) -> None:
        for file in path.glob("*/*"):
            file.unlink()
            with contextlib.suppress(FileNotFoundError):
                building.rename(tmp_path / "parts" / "00003-0")
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree_in_two_steps)
    store.sweep()
    assert store.parts() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.json", "parts"]


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path)
    store.manifest("demo-1", 7, samples_have_folders=False)
    (tmp_path / "parts/00003-0").mkdir()
    (tmp_path / "parts/00003-0/images.parquet").write_bytes(b"PAR1")
    (tmp_path / "parts/lost+found").mkdir()
    assert store.parts() == [PartName(3, 0)]
    with pytest.raises(StationError, match=r"00003-0/images\.parquet' cannot be read"):
        store.settled()
