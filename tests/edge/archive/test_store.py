"""The output folder belongs to one bundle, and tells when it is not understood."""

from pathlib import Path

import pytest

from edge.archive.store import ArchiveStore, PartName
from edge.errors import StationError


def test_a_folder_keeps_its_number_of_partitions(tmp_path: Path) -> None:
    first = ArchiveStore(tmp_path).manifest("demo-1", 7)
    assert ArchiveStore(tmp_path).manifest("demo-1", 9) == first
    assert first.partitions == 7


def test_another_bundle_is_refused_by_the_names_of_both(tmp_path: Path) -> None:
    ArchiveStore(tmp_path).manifest("demo-1", 7)
    with pytest.raises(StationError, match=r"demo-1, not of demo-2; give another --out"):
        ArchiveStore(tmp_path).manifest("demo-2", 7)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive.json").write_text('{"schema_version": 2}')
    with pytest.raises(StationError, match="not of this version"):
        ArchiveStore(tmp_path).manifest("demo-1", 7)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path)
    store.manifest("demo-1", 7)
    (tmp_path / "parts/00003-0").mkdir()
    (tmp_path / "parts/00003-0/images.parquet").write_bytes(b"PAR1")
    (tmp_path / "parts/lost+found").mkdir()
    assert store.parts() == [PartName(3, 0)]
    with pytest.raises(StationError, match=r"00003-0/images\.parquet' cannot be read"):
        store.settled()
