"""Names whose bytes are no UTF-8, as files, pages and screens get them."""

import io
import os
import sys
from pathlib import Path

import click
import pytest

from edge.cli import NumberRange, one_sentence
from edge.names import as_text, name_of

LATIN = os.fsdecode(b"caf\xe9")
"""A folder of an older system."""


def test_a_byte_that_is_no_text_is_told_and_all_else_stays() -> None:
    assert as_text(f"ä/{LATIN}") == "ä/caf\\xe9"
    assert name_of(Path(LATIN) / "x" / "..") == "caf\\xe9"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_command_says_any_name_on_any_screen(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", screen)
    one_sentence(lambda: print(LATIN))()
    assert screen.buffer.getvalue() == b"caf\\udce9\n"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_lies_in_every_range_is_no_number(value: str) -> None:
    for limits in (NumberRange(0), NumberRange(0, 1), NumberRange(0, min_open=True)):
        with pytest.raises(click.BadParameter):
            limits.convert(value, None, None)
    assert NumberRange(0).convert("1e-3", None, None) == 1e-3
