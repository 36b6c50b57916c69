"""What is new is whole and on the disk before what it replaces goes."""

import os
import shutil
from pathlib import Path

import pytest

from build_engines.replacing import put_in_place


def test_a_folder_is_on_the_disk_before_the_one_that_it_replaces_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    new, folder = tmp_path / ".bundle-x", tmp_path / "bundle"
    for place, text in ((new, "new"), (folder, "old")):
        (place / "1").mkdir(parents=True)
        (place / "1" / "model").write_text(text)
    fsync, rename, rmtree = os.fsync, Path.rename, shutil.rmtree

    def name_of(path: str | Path) -> str:
        return str(Path(path).relative_to(tmp_path))

    def note_sync(handle: int) -> None:
        fsync(handle)
        done.append(("sync", name_of(Path(f"/proc/self/fd/{handle}").readlink())))

    def note_rename(path: Path, target: Path) -> Path:
        done.append(("rename", name_of(path)))
        return rename(path, target)

    def note_removal(path: Path, *, ignore_errors: bool) -> None:
        done.append(("remove", name_of(path)))
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(shutil, "rmtree", note_removal)
    put_in_place(new, folder)
    assert set(done[:3]) == {("sync", ".bundle-x/1/model"), ("sync", ".bundle-x/1"), ("sync", ".bundle-x")}
    assert done[3:] == [
        ("rename", "bundle"),
        ("rename", ".bundle-x"),
        ("sync", "."),
        ("remove", ".bundle-x.old"),
    ]
    assert (folder / "1" / "model").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    put_in_place(tmp_path / "new", tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
