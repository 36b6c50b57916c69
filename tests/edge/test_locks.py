"""One process at a time in a folder."""

import errno
import fcntl
import os
import re
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
    with (
        pytest.raises(OutputUnwritableError, match="/lock' cannot be read or written"),
        locked_folder(tmp_path, "lock"),
    ):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_share_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(
            OutputUnwritableError, match=r"/lock' cannot be read or written \(No locks available\)"
        ),
        locked_folder(tmp_path, "lock"),
    ):
        pass


@pytest.mark.parametrize("is_there", [True, False])
def test_what_may_not_be_written_is_named_the_lock_or_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """As where root has made the lock, in a folder of the station; root itself may write all."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    if is_there:
        (tmp_path / "lock").touch()
    monkeypatch.setattr(os, "open", refuse)
    named = tmp_path / "lock" if is_there else tmp_path
    with (
        pytest.raises(OutputUnwritableError, match=rf"^{re.escape(repr(str(named)))} cannot be read"),
        locked_folder(tmp_path, "lock"),
    ):
        pass
