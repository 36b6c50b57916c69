"""What `edge.image_damage` promises of a decoded file: cut, overwritten or unfinished, it is refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from edge.errors import ImageRejected
from edge.images import decode
from tests.edge.drawn_files import (
    BMP_UNUSED_ALPHA,
    PNG_ROWS,
    REASONS,
    encode,
    palette,
    png,
    refusal,
    smear,
    tiff,
)

JPEG = encode(smear(360, 360), "JPEG", quality=90)
TABLES_AT = JPEG.index(b"\xff\xdb")
TWICE = b"ICC_PROFILE\0\x01\x01" + bytes(200)
PROFILE = b"\xff\xe2" + (len(TWICE) + 2).to_bytes(2, "big") + TWICE
WARNED_OF = {
    "spare bytes": JPEG[:TABLES_AT] + bytes(100) + JPEG[TABLES_AT:],
    "version": JPEG[:11] + b"\x03" + JPEG[12:],
    "profile": JPEG[:TABLES_AT] + PROFILE * 2 + JPEG[TABLES_AT:],
}
"""Whole images of which libjpeg warns: no pixel is lost."""

EVERY_FORMAT = {
    "jpeg": JPEG,
    "progressive": encode(smear(), "JPEG", progressive=True),
    "png": encode(smear(), "PNG"),
    "bmp": encode(smear(), "BMP"),
    "tiff": encode(smear(), "TIFF"),
    "lzw": encode(smear(), "TIFF", compression="tiff_lzw"),
    "deflate": encode(smear(), "TIFF", compression="tiff_adobe_deflate"),
    "packbits": encode(smear(), "TIFF", compression="packbits"),
    "jpeg in tiff": encode(smear(), "TIFF", compression="jpeg"),
    "directory last": tiff(64, 64, (8,), bytes(range(1, 129)) * 32, {}),
}


@pytest.mark.parametrize("name", EVERY_FORMAT)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_promise_22_a_cut_file_is_truncated(name: str, share: float) -> None:
    whole = EVERY_FORMAT[name]
    decode(whole)
    assert refusal(whole[: int(len(whole) * share)]).reason == "truncated"


@pytest.mark.parametrize("name", EVERY_FORMAT)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_promise_22_a_zero_filled_tail_is_refused(name: str, share: float) -> None:
    whole = EVERY_FORMAT[name]
    kept = int(len(whole) * share)
    assert refusal(whole[:kept] + bytes(len(whole) - kept)).reason in {"damaged", "truncated"}


def test_a_cut_is_refused_also_when_pillow_is_told_to_accept_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries of a process do
    for whole in EVERY_FORMAT.values():
        assert refusal(whole[: len(whole) * 2 // 3]).reason == "truncated"


def test_bytes_around_the_markers_of_a_jpeg_are_tolerated() -> None:
    expected = decode(JPEG)
    for tolerated in (
        JPEG + b"analyser 3.1" * 9,  # after the end marker
        JPEG + bytes(5000),
        JPEG[:-2] + bytes(range(27)) + JPEG[-2:],  # before the end marker
        JPEG[:2] + b"\xff" * 9 + JPEG[2:],  # fill bytes
        *WARNED_OF.values(),
    ):
        np.testing.assert_array_equal(decode(tolerated), expected)


@pytest.mark.parametrize("name", ["spare bytes", "version", "profile"])
def test_promise_22_a_harmless_warning_hides_no_damage(name: str) -> None:
    """libjpeg tells the first warning only."""
    data = WARNED_OF[name]
    rejected = refusal(data[: len(data) - len(JPEG) // 2] + b"\xff\xd9")
    assert rejected.reason == "damaged"
    assert "premature end of data" in rejected.detail


def test_promise_22_spare_bytes_before_another_scan_are_damage_and_hide_none() -> None:
    whole = encode(smear(360, 360), "JPEG", progressive=True)
    second = whole.index(b"\xff\xc4", whole.index(b"\xff\xda"))
    rejected = refusal(whole[:second] + bytes(range(1, 21)) + whole[second:])
    assert rejected.reason == "damaged"
    assert "extraneous bytes before marker 0xc4" in rejected.detail
    tables_end = second + 2 + int.from_bytes(whole[second + 2 : second + 4], "big")
    assert refusal(whole[:tables_end] + b"lost" + whole[tables_end:]).reason == "damaged"
    decode(whole[:-2] + bytes(range(1, 21)) + whole[-2:])


def test_promise_22_a_subsampling_that_hides_damage_is_unsupported() -> None:
    at = JPEG.index(b"\xff\xc0") + 11
    assert JPEG[at] == 0x22
    rejected = refusal(JPEG[:at] + b"\x31" + JPEG[at + 1 :])
    assert rejected.reason == "unsupported"
    assert "rare subsampling" in rejected.detail


def mid_grey(width: int, height: int) -> bytes:
    return encode(Image.new("RGB", (width, height), (128, 128, 128)), "JPEG")


def test_a_jpeg_that_ends_in_real_mid_grey_is_whole() -> None:
    half = smear(64, 64)
    half.paste((128, 128, 128), (0, 32, 64, 64))
    for data in (mid_grey(40, 40), encode(half, "JPEG")):
        assert decode(data)[-1, -1].tolist() == [128, 128, 128]


HALF = len(JPEG) // 2
DEFLATE = EVERY_FORMAT["deflate"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (JPEG[:HALF] + b"\xff\xd9", "premature end of data"),  # an end marker put after a cut
        (JPEG[:-300] + b"\xff\xd9", "premature end of data"),
        (JPEG[:HALF] + JPEG[HALF + 300 :], "premature end of data"),  # a cut in the middle
        (JPEG[:-2] + bytes(range(1, 250)) + JPEG[-2:], "244 extraneous bytes"),  # out of step
        (JPEG[:HALF] + bytes(4096) + JPEG[HALF + 4096 :], f"are 0 from byte {HALF}"),  # a page never written
        (JPEG[:HALF] + b"\xff\x3a\0\x10" + JPEG[HALF + 4 :], "marker 0x3a"),
        (DEFLATE[:3000] + b"\x5a" * 900 + DEFLATE[3900:], "decoder error"),
        (tiff(64, 64, (8,), bytes([9] * 4096), {279: 4000}), "4000 of 4096"),  # a strip that is too short
    ],
)
def test_promise_22_lost_pixels_inside_a_complete_file_are_damage(data: bytes, found: str) -> None:
    rejected = refusal(data)
    assert rejected.reason == "damaged"
    assert found in rejected.detail


@pytest.mark.parametrize("kind", ["progressive", "grey", "CMYK", "turned"])
def test_promise_22_what_libjpeg_warns_of_is_damage_in_every_kind_of_jpeg(kind: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    whole = {
        "progressive": encode(smear(360, 360), "JPEG", progressive=True),
        "grey": encode(smear(360, 360).convert("L"), "JPEG"),
        "CMYK": encode(smear(360, 360).convert("CMYK"), "JPEG"),
        "turned": encode(smear(360, 360), "JPEG", exif=turned),
    }[kind]
    decode(whole)
    middle = len(whole) // 2
    rejected = refusal(whole[:middle] + whole[middle + 300 :])
    assert rejected.reason == "damaged"
    assert "Corrupt JPEG data" in rejected.detail


@pytest.mark.parametrize("name", ["tiff", "lzw", "deflate", "packbits", "jpeg in tiff"])
def test_zeros_at_the_end_of_the_strips_are_damage_though_the_directory_is_whole(name: str) -> None:
    whole = EVERY_FORMAT[name]
    with Image.open(io.BytesIO(whole)) as opened:
        tags = opened.tag_v2  # type: ignore[attr-defined]
        end = tags[273][-1] + tags[279][-1]
    rejected = refusal(whole[: end - 2000] + bytes(2000) + whole[end:])
    assert rejected.reason == "damaged"
    assert "bytes of the pixels are 0" in rejected.detail


def test_promise_22_a_foreign_marker_in_a_strip_of_a_tiff_is_damage() -> None:
    """libtiff paints what follows it, and tells only standard error."""
    data = bytearray(EVERY_FORMAT["jpeg in tiff"])
    start = data.index(b"\xff\xda") + 40
    data[start : start + 2] = b"\xff\x9e"
    assert refusal(bytes(data)).reason == "damaged"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_promise_22_what_libjpeg_warns_of_in_a_strip_of_a_tiff_is_damage(mode: str) -> None:
    """Pillow leaves that to libtiff, too."""
    whole = encode(smear(96, 96).convert(mode), "TIFF", compression="jpeg")
    decode(whole)
    with Image.open(io.BytesIO(whole)) as opened:
        tags = opened.tag_v2  # type: ignore[attr-defined]
        start, end = tags[273][0], tags[273][0] + tags[279][0]
    middle = (start + end) // 2
    rejected = refusal(whole[:middle] + whole[middle + 300 : end] + b"\x5a" * 300 + whole[end:])
    assert rejected.reason == "damaged"
    assert "Corrupt JPEG data" in rejected.detail


@pytest.mark.parametrize("coding", ["group3", "group4"])
def test_promise_22_a_coding_that_hides_damage_is_unsupported(coding: str) -> None:
    assert refusal(encode(smear().convert("1"), "TIFF", compression=coding)).reason == "unsupported"


def test_every_byte_of_a_png_is_under_a_checksum() -> None:
    whole = encode(smear(16, 16), "PNG")
    decode(whole)
    for at in range(16, len(whole)):
        flipped = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        assert refusal(flipped).reason in {"damaged", "truncated"}
    pixels_at = whole.index(b"IDAT") + 20
    flipped = whole[:pixels_at] + bytes([whole[pixels_at] ^ 1]) + whole[pixels_at + 1 :]
    assert refusal(flipped).reason == "damaged"


def framed(top: int, bottom: int) -> Image.Image:
    image = smear(96, 96)
    image.paste(0, (0, 0, 96, top))
    image.paste(0, (0, 96 - bottom, 96, 96))
    return image


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
@pytest.mark.parametrize(
    ("top", "bottom", "whole"),
    [
        (0, 0, True),
        (20, 20, True),  # a black frame
        (12, 20, True),  # a vignette that is not quite centred
        (3, 3, True),
        (1, 1, True),
        (48, 48, False),  # all black: laid out and never filled
    ],
)
def test_black_at_both_ends_is_a_frame_and_all_black_is_not(
    kind: str, top: int, bottom: int, whole: bool
) -> None:
    data = encode(framed(top, bottom), kind)
    if whole:
        np.testing.assert_array_equal(decode(data), np.asarray(framed(top, bottom)))
    else:
        assert refusal(data).reason == "damaged"


def test_black_at_the_end_of_the_file_alone_is_a_tail_that_nobody_wrote() -> None:
    assert refusal(encode(framed(0, 30), "TIFF")).reason == "damaged"  # stored from the top
    assert refusal(encode(framed(30, 0), "BMP")).reason == "damaged"  # stored from the bottom
    decode(encode(framed(30, 0), "TIFF"))
    decode(encode(framed(0, 30), "BMP"))


FUZZED = [
    *EVERY_FORMAT.values(),
    png(5, 2, 16, 0, PNG_ROWS),
    encode(palette(), "BMP"),
    BMP_UNUSED_ALPHA,
]


@settings(max_examples=250, derandomize=True)
@given(
    whole=st.sampled_from(FUZZED),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=6),
    header_flips=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), max_size=3),
    cut=st.floats(0.02, 1),
    zeros=st.floats(0, 0.5),
)
@pytest.mark.filterwarnings("ignore")
def test_promise_09_a_mutated_file_gives_pixels_or_a_known_reason(
    whole: bytes,
    flips: list[tuple[float, int]],
    header_flips: list[tuple[int, int]],
    cut: float,
    zeros: float,
) -> None:
    data = bytearray(whole)
    for share, mask in flips:
        data[int(share * len(data))] ^= mask
    for at, mask in header_flips:
        data[at % len(data)] ^= mask
    filled = int(len(data) * zeros)
    data[len(data) - filled :] = bytes(filled)
    try:
        pixels = decode(bytes(data[: max(1, int(len(data) * cut))]))
    except ImageRejected as error:
        outcome: str | tuple[object, ...] = error.reason
    else:
        outcome = (pixels.dtype, pixels.ndim, pixels.shape[2])
    assert outcome in {*REASONS, (np.dtype(np.uint8), 3, 3)}
