"""The classes that this project gave to cells of open images, held against the files with their boxes."""

from pathlib import Path

import polars as pl
import pytest

import training
from tests.real_files import data_path
from training.annotations import COLUMNS, LEUKOCYTE_WITHOUT_CLASS

_FOLDER = Path(training.__file__).parent / "recipes/classes-by-eye"
_MATURE = {"PNN", "EO", "BA", "MO", "LY"}


@pytest.mark.parametrize("part", ["train", "val"])
def test_each_is_a_box_that_its_collection_leaves_unnamed(part: str) -> None:
    named = pl.read_csv(_FOLDER / f"{part}.csv")
    unnamed = pl.read_csv(data_path(f"smears/detection_only_{part}.csv"))
    boxes = COLUMNS[:5]
    assert named.columns == list(COLUMNS)
    assert set(named["class"]) == _MATURE
    assert not named.select(boxes).is_duplicated().any()
    assert set(unnamed["class"]) == {LEUKOCYTE_WITHOUT_CLASS}
    assert named.select(boxes).join(unnamed, on=boxes, how="anti").is_empty()


@pytest.mark.parametrize("part", ["train", "val"])
def test_no_image_of_theirs_has_named_cells_elsewhere(part: str) -> None:
    """Trained from both files, the image would be there twice, with some of its cells in each."""
    named = pl.read_csv(_FOLDER / f"{part}.csv")["NAME"]
    assert not set(named) & set(pl.read_csv(data_path(f"smears/{part}.csv"))["NAME"])
