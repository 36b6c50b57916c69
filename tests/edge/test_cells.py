"""The 23 classes."""

import pytest

from edge.cells import CELL_CLASSES, cell_class, leukocytes_in_words


def test_there_are_23_classes_and_each_has_its_names() -> None:
    assert len({one.code for one in CELL_CLASSES}) == 23
    assert len({one.english for one in CELL_CLASSES}) == 23
    assert len({one.french for one in CELL_CLASSES}) == 23


def test_both_spellings_of_the_challenge_are_one_class() -> None:
    assert cell_class("LH_LyAc") is cell_class("LH_lyAct")


def test_erythroblasts_and_platelets_are_no_leukocytes() -> None:
    assert {one.code for one in CELL_CLASSES if not one.leukocyte} == {"Er", "Thromb"}


def test_what_is_no_leukocyte_is_counted_apart() -> None:
    assert leukocytes_in_words({"PNN": 3, "Er": 2, "LY": 1, "Thromb": 0}) == "4 leukocytes, 2 Er"
    assert leukocytes_in_words({}) == "0 leukocytes"


def test_an_unknown_code_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'WBC' is none of the 23 classes .* PNN, EO, BA"):
        cell_class("WBC")
