"""What is mounted where, and whether a folder there is watched by events or by polling."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

WatchMode = Literal["auto", "events", "polling"]

WITHOUT_EVENTS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "vboxsf", "ceph"})
"""File systems whose changes come from other machines, of which inotify tells nothing; so does fuse*."""

_MOUNTINFO = Path("/proc/self/mountinfo")


def read_mountinfo() -> str:
    """The text of /proc/self/mountinfo, "" where it cannot be read."""
    try:
        return os.fsdecode(_MOUNTINFO.read_bytes())
    except OSError:
        return ""


def filesystem_of(path: str, mountinfo: str) -> str:
    """The type of the file system that an absolute, resolved path lies on, "" if unknown.

    Args:
        mountinfo: as `read_mountinfo` gives it, proc(5).
    """
    best, found = -1, ""
    for point, kind in _mounts(mountinfo):
        if (path == point or _is_below(point, path)) and len(point) >= best:
            best, found = len(point), kind
    return found


def mounts_below(path: str, mountinfo: str) -> tuple[tuple[str, str], ...]:
    """Mount points below an absolute, resolved path, each with the type of its file system.

    Args:
        mountinfo: as of `filesystem_of`.
    """
    return tuple(mount for mount in _mounts(mountinfo) if _is_below(path, mount[0]))


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) >= 5 and after:
            # Octal escapes stand for space, tab, newline and backslash.
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            yield point, after.split(" ")[0]


def _is_below(folder: str, path: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True, slots=True)
class WatchChoice:
    """How to watch a folder, and why so.

    Attributes:
        is_remote: whether other machines write to its file system, or to one that is mounted below.
        mounted: what is mounted below, as `mounts_below`; events come only of what was there when they began.
    """

    mode: Literal["events", "polling"]
    why: str
    is_remote: bool
    mounted: tuple[tuple[str, str], ...]


def choose_watch(asked: WatchMode, folder: Path) -> WatchChoice:
    """Polling where a file system gives no events, else events, unless something else is asked for."""
    path, mountinfo = os.path.realpath(folder), read_mountinfo()
    kind, mounted = filesystem_of(path, mountinfo), mounts_below(path, mountinfo)
    below = sorted({kind for _, kind in mounted})
    is_remote = any(kind in WITHOUT_EVENTS or kind.startswith("fuse") for kind in (kind, *below))
    if asked != "auto":
        return WatchChoice(asked, "as set", is_remote, mounted)
    why = f"the file system is {kind or 'unknown'}{', below it ' if below else ''}{', '.join(below)}"
    return WatchChoice("polling" if is_remote else "events", why, is_remote, mounted)
