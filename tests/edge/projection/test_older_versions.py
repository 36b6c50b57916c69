"""Files that an older version began, with fewer columns, are left whole."""

import pytest

from edge import projection
from edge.results import IMAGE_COLUMNS
from tests.edge.projection.bench import Bench, PowerCut, dies_after


def test_a_file_with_fewer_columns_is_left_whole_and_rows_go_on_in_a_new_part(
    older: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    before = older.csv.read_bytes()
    older.restart()
    older.answer("c")
    older.restart()
    older.answer("d")
    assert older.csv.read_bytes() == before
    assert older.names("images.2.csv") == ["NAME", "c", "d"]
    assert (older.folder / "images.2.csv").read_text().splitlines()[0] == ",".join(IMAGE_COLUMNS)
    assert not (older.folder / "images.3.csv").exists()
    assert not (older.folder / "results.2.csv").exists()
    assert caplog.messages == [
        "images.csv of an older version has no column unlike_training, unlike_because: it is left alone, "
        "rows go on in images.2.csv."
    ]


@pytest.mark.parametrize("count", [0, 1, 20])
def test_what_an_older_version_left_torn_is_mended_before_the_new_part_begins(
    older: Bench, count: int
) -> None:
    whole = older.csv.read_bytes()
    older.csv.write_bytes(whole[: len(whole) - count])
    older.restart()
    older.answer("c")
    assert older.csv.read_bytes() == whole
    assert older.names("images.2.csv") == ["NAME", "c"]


@pytest.mark.parametrize("count", [0, 1, 20, 10_000])
def test_a_crash_while_the_new_part_begins_leaves_every_row_once(
    older: Bench, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(projection.os, "pwrite", dies_after(count))
        with pytest.raises(PowerCut):
            older.restart()
    older.restart()
    older.answer("c")
    assert older.names() == ["NAME", "a", "b"]
    assert older.names("images.2.csv") == ["NAME", "c"]


def test_rows_that_move_from_an_edited_older_file_keep_their_own_columns(older: Bench) -> None:
    older.csv.write_text("NAME\na\nedited by hand\n")
    older.restart()
    older.answer("c")
    assert older.names("images.2.csv") == ["NAME", "b"]
    assert older.names("images.3.csv") == ["NAME", "c"]
    for file in ("images.2.csv", "images.3.csv"):
        header, row = (line.count(",") for line in (older.folder / file).read_text().splitlines())
        assert header == row
