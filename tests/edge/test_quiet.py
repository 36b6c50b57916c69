"""A file is whole when it has not changed for the quiet period of a monotonic clock."""

from pathlib import Path

import pytest

from edge.quiet import QuietFiles
from edge.records import FileStamp

A, B = Path("a"), Path("b")


class Folder(dict[Path, FileStamp]):
    """What stat would say."""

    def put(self, path: Path, size_bytes: int, inode: int = 1) -> FileStamp:
        self[path] = FileStamp(size_bytes, 10**30, inode)  # a time of change far in the future
        return self[path]


def test_promise_04_a_growing_file_is_not_taken_until_it_is_quiet() -> None:
    folder, files = Folder(), QuietFiles(0.5)
    files.add(A, folder.put(A, 0), 0.0)
    for step in range(1, 20):
        folder.put(A, step)
        assert list(files.settled(step * 0.5, folder.get)) == []
    assert list(files.settled(9.9, folder.get)) == []
    assert list(files.settled(10.0, folder.get)) == [(A, folder[A])]
    assert len(files) == 0


def test_promise_04_a_long_quiet_period_is_kept_to_within_half_a_second() -> None:
    folder, files = Folder(), QuietFiles(5.0)
    files.add(A, folder.put(A, 0), 0.0)
    changed_s, now_s = 2.2, 0.0
    while not (given := list(files.settled(now_s, folder.get))):
        now_s += 0.1
        if abs(now_s - changed_s) < 0.01:
            folder.put(A, 7)
    assert given == [(A, folder[A])]
    assert changed_s + 5.0 <= now_s <= changed_s + 5.6


def test_only_what_is_due_is_compared() -> None:
    folder, files = Folder(), QuietFiles(0.5)
    files.add(A, folder.put(A, 0), 0.0)
    files.add(B, folder.put(B, 0), 0.3)
    assert files.next_due_s() == 0.5
    assert list(files.settled(0.6, folder.get)) == [(A, folder[A])]
    assert files.next_due_s() == 0.8


def test_a_file_that_is_gone_is_lost_once() -> None:
    folder, files = Folder(), QuietFiles(0.5)
    files.add(A, folder.put(A, 1), 0.0)
    del folder[A]
    assert list(files.settled(0.5, folder.get)) == []
    assert files.lost(before_s=0.5) == []
    assert len(files) == 1
    assert files.lost(before_s=0.6) == [A]
    assert files.lost(before_s=9.0) == []
    assert len(files) == 0


def test_a_renamed_file_that_is_still_observed_is_not_lost() -> None:
    folder, files = Folder(), QuietFiles(5.0)
    stamp = folder.put(A, 1, inode=7)
    files.add(A, stamp, 0.0)
    del folder[A]
    assert list(files.settled(0.5, folder.get)) == []
    files.found(stamp)
    assert files.lost(before_s=9.0) == []


def test_a_renamed_file_that_has_settled_is_not_lost() -> None:
    folder, files = Folder(), QuietFiles(0.5)
    stamp = folder.put(A, 1, inode=7)
    files.add(A, stamp, 0.0)
    folder[B] = folder.pop(A)
    files.add(B, stamp, 0.2)
    assert list(files.settled(0.6, folder.get)) == []
    assert list(files.settled(0.7, folder.get)) == [(B, stamp)]
    assert files.lost(before_s=9.0) == []


def test_links_to_one_file_that_are_both_gone_are_both_lost() -> None:
    folder, files = Folder(), QuietFiles(0.5)
    for path in (A, B):
        files.add(path, FileStamp(1, 2, 3), 0.0)
    assert list(files.settled(0.5, folder.get)) == []
    assert files.lost(before_s=1.0) == [A, B]


@pytest.mark.parametrize("is_missed", [False, True])
def test_a_file_whose_rename_was_seen_is_not_lost(is_missed: bool) -> None:
    folder, files = Folder(), QuietFiles(0.5)
    files.add(A, folder.put(A, 0), 0.0)
    del folder[A]
    if is_missed:
        assert list(files.settled(0.5, folder.get)) == []
    files.discard(A)
    assert list(files.settled(1.0, folder.get)) == []
    assert files.lost(before_s=9.0) == []


def test_a_file_that_comes_back_starts_anew() -> None:
    folder, files = Folder(), QuietFiles(0.5)
    files.add(A, folder.put(A, 1), 0.0)
    del folder[A]
    assert list(files.settled(0.5, folder.get)) == []
    files.add(A, folder.put(A, 2), 0.9)
    assert list(files.settled(1.0, folder.get)) == []
    assert list(files.settled(1.5, folder.get)) == [(A, folder[A])]
