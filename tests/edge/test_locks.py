"""One process at a time in a folder."""

from pathlib import Path

import pytest

from edge.errors import StationError
from edge.locks import FolderLockedError, OutputUnwritableError, locked_folder


def test_promise_28_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for it"
    with (
        locked_folder(folder, "lock"),
        pytest.raises(FolderLockedError, match=r"another process of the station works in .*for it"),
        locked_folder(folder, "lock"),
    ):
        raise AssertionError("both are in")
    with locked_folder(folder, "lock"):
        pass


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with locked_folder(tmp_path, "lock"):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StationError, match="file/state' cannot be read or written"),
        locked_folder(tmp_path / "file" / "state", "lock"),
    ):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputUnwritableError), locked_folder(tmp_path, "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()
