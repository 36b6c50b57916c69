"""What is mounted where, and how a folder there is watched."""

from pathlib import Path

import pytest

from edge import mounts
from edge.mounts import choose_watch, filesystem_of, mounts_below

MOUNTINFO = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /mnt/scope rw - cifs //nas/scope rw
41 22 0:41 / /mnt/my\040share rw shared:5 master:1 - nfs4 nas:/x rw
42 40 0:42 / /mnt/scope/local rw - tmpfs tmpfs rw
43 22 0:43 / /media/é rw - fuse.sshfs me@host: rw
44 22 0:44 / /host rw - 9p host rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/in", "ext4"),
        ("/mnt/scope", "cifs"),
        ("/mnt/scope/in", "cifs"),
        ("/mnt/scope2", "ext4"),  # no prefix by letters
        ("/mnt/scope/local/x", "tmpfs"),
        ("/mnt/my share/in", "nfs4"),
        ("/media/é/in", "fuse.sshfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert filesystem_of(path, MOUNTINFO) == kind


def test_mounts_below_are_told_by_folders_and_not_by_letters() -> None:
    scope, local = ("/mnt/scope", "cifs"), ("/mnt/scope/local", "tmpfs")
    assert mounts_below("/mnt", MOUNTINFO) == (scope, ("/mnt/my share", "nfs4"), local)
    assert mounts_below("/mnt/scope", MOUNTINFO) == (local,)
    assert mounts_below("/mnt/sc", MOUNTINFO) == ()
    assert len(mounts_below("/", MOUNTINFO)) == 5


def test_promise_08_auto_polls_where_a_share_is_mounted_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    root, disk = "22 1 254:0 / / rw - ext4 x rw\n", f"23 22 0:9 / {tmp_path}/a rw - xfs x rw\n"
    table.write_text(root + disk)
    chosen = choose_watch("auto", tmp_path)
    assert (chosen.mode, chosen.why) == ("events", "the file system is ext4, below it xfs")
    table.write_text(f"{root}{disk}24 22 0:10 / {tmp_path}/b rw - cifs x rw\n")
    chosen = choose_watch("auto", tmp_path)
    assert (chosen.mode, chosen.why) == ("polling", "the file system is ext4, below it cifs, xfs")
    assert chosen.is_remote


def test_promise_08_auto_polls_where_there_are_no_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    remote = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.rclone", "fuse"]
    for kind in ["ext4", "tmpfs", *remote]:
        table.write_text(f"22 1 254:0 / / rw - {kind} x rw\n")
        chosen = choose_watch("auto", tmp_path)
        assert chosen.mode == ("polling" if kind in remote else "events")
        assert chosen.why == f"the file system is {kind}"
        assert chosen.is_remote == choose_watch("events", tmp_path).is_remote == (kind in remote)
    table.unlink()
    assert choose_watch("auto", tmp_path).mode == "events"
    assert choose_watch("polling", tmp_path).mode == "polling"
