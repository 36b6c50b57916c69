"""CSV bytes: what stands in a cell, and that it can be read back."""

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from edge.cells import Finding, Unlikeness
from edge.records import Answer, State
from edge.results import (
    FIRST_IMAGE_COLUMNS,
    IMAGE_COLUMNS,
    RESULT_COLUMNS,
    csv_bytes,
    escape,
    image_cells,
    image_row,
    result_rows,
    unescape,
)

LYMPHOCYTE = Finding((10.4, 20.6, 30.5, 41.5), "LY", 0.98765, 0.9, {"LY": 0.9, "LLC": 0.07, "PNN": 0.03})
BLAST = Finding((0.0, 0.0, 5.0, 5.0), "MBL", 0.5, 1.0, {"MBL": 1.0})
SHA = bytes(range(32))


def answer(state: State = State.DONE, reason: str = "", findings: tuple[Finding, ...] = ()) -> Answer:
    return Answer(
        state, reason, findings, (640, 480), 12.345, "demo-1a2b", "openvino:bf16", "2025-01-02T03:04:05.678Z"
    )


def read_back(columns: tuple[str, ...], rows: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((csv_bytes([columns]) + rows).decode("utf-8"), newline="")))


def test_one_row_a_leukocyte_with_all_columns() -> None:
    rows = result_rows(b"a.png", b"s1/left", SHA, answer(findings=(LYMPHOCYTE, BLAST)))
    assert rows.decode().splitlines() == [
        "a.png,10,21,30,42,LY,0.9877,0.9000,LLC,0.0700,s1/left,"
        f"{SHA.hex()},demo-1a2b,openvino:bf16,2025-01-02T03:04:05.678Z,1",
        f"a.png,0,0,5,5,MBL,0.5000,1.0000,,,s1/left,{SHA.hex()},demo-1a2b,openvino:bf16,2025-01-02T03:04:05.678Z,1",
    ]


def test_one_row_an_image_with_all_columns() -> None:
    row = read_back(IMAGE_COLUMNS, image_row(b"a.png", b"", SHA, answer(findings=(BLAST,))))[0]
    assert (row["status"], row["leukocytes"], row["width"], row["height"]) == ("done", "1", "640", "480")
    assert (row["latency_ms"], row["image_sha256"], row["schema"]) == ("12.3", SHA.hex(), "1")


def test_the_row_of_an_image_is_read_back_also_an_older_one_with_fewer_columns() -> None:
    row = image_row(b"a,\n\r.png", b"", SHA, answer())
    assert image_cells(row) == read_back(IMAGE_COLUMNS, row)[0]
    older = csv_bytes([list(image_cells(row).values())[: len(FIRST_IMAGE_COLUMNS)]])
    assert image_cells(older) == read_back(FIRST_IMAGE_COLUMNS, older)[0]


def test_the_row_of_an_image_tells_how_unlike_the_training_images_it_is() -> None:
    def told(unlikeness: Unlikeness | None) -> tuple[str, str]:
        of_one = replace(answer(), unlikeness=unlikeness)
        row = read_back(IMAGE_COLUMNS, image_row(b"a.png", b"", SHA, of_one))[0]
        return row["unlike_training"], row["unlike_because"]

    assert told(None) == ("", "")
    assert told(Unlikeness(0.4567)) == ("0.457", "")
    assert told(Unlikeness(1.5, "background darker, blurred")) == ("1.500", "background darker, blurred")


def test_no_leukocytes_no_bytes() -> None:
    assert result_rows(b"a.png", b"", SHA, answer(State.EMPTY)) == b""


@pytest.mark.parametrize(
    "name",
    [
        b"plain.png",
        b" two  spaces .png",
        b'quote".png',
        b"comma,semicolon;.png",
        b"new\nline.png",
        b"return\rhere.png",
        b"trailing return\r",
        b"\r\n",
        "émoji 🩸 \u202ertl.png".encode(),
        b"undecodable \xff\xfe.png",
        b"surrogate \xed\xa0\x80.png",  # UTF-8 of a lone surrogate is no UTF-8
        rb"back\slash \xff \\.png",
        b"=1+1.png",
        b"+1.png",
        b"-1.png",
        b"@SUM.png",
        b"\ttab.png",
        b"'quoted'.png",
        b"'=1.png",
        b"x" * 255,
        bytes(byte for byte in range(1, 256) if byte != 0x2F),
    ],
)
def test_promise_23_a_name_reads_back_to_the_same_bytes(name: bytes) -> None:
    image = read_back(IMAGE_COLUMNS, image_row(name, name, None, answer(State.DUPLICATE, os.fsdecode(name))))
    result = read_back(RESULT_COLUMNS, result_rows(name, name, SHA, answer(findings=(BLAST,))))
    for rows in (image, result):
        assert len(rows) == 1
        assert unescape(rows[0]["NAME"]) == name
        assert unescape(rows[0]["sample"]) == name
    assert unescape(image[0]["reason"]) == name


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_promise_24_text_that_a_spreadsheet_would_calculate_is_neutralised(start: str) -> None:
    assert escape(f"{start}cmd".encode()) == f"'{start}cmd"
    assert escape(f"x{start}".encode()) == f"x{start}"


def test_promise_24_numbers_are_never_neutralised() -> None:
    outside = Finding((-3.0, -0.4, 5.0, 5.0), "LY", 0.5, 1.0, {"LY": 1.0})
    row = read_back(RESULT_COLUMNS, result_rows(b"a", b"", SHA, answer(findings=(outside,))))[0]
    assert (row["x1"], row["y1"]) == ("-3", "0")


def test_promise_25_the_bytes_are_the_same_under_every_locale() -> None:
    code = (
        "import locale, sys\n"
        "try: locale.setlocale(locale.LC_ALL, '')\n"
        "except locale.Error: pass\n"
        "from edge.records import Answer, State\n"
        "from edge.results import image_row\n"
        "a = Answer(State.DONE, '', (), (1, 2), 1234.5, 'b', 'e', 't')\n"
        "sys.stdout.buffer.write(image_row('\\u0130é.png'.encode(), b'\\xff', None, a))\n"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "LC_ALL": name}, capture_output=True, check=True
        ).stdout
        for name in ("C", "de_DE.UTF-8", "tr_TR.UTF-8")
    }
    assert len(seen) == 1
    assert b"1234.5" in seen.pop()
