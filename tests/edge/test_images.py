"""What `edge.images.decode` promises: whole, upright RGB pixels, or a refusal with one of six reasons."""

import csv
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from edge.errors import ImageRejected
from edge.images import IMAGE_SUFFIXES, ImageLimits, decode

REASONS = {"empty", "not an image", "too large", "truncated", "damaged", "unsupported"}
REPO = Path(__file__).resolve().parents[2]
ORIENTATION_TAG = 0x0112
WHITE_IS_ZERO = {262: 0}


def smear(width: int = 96, height: int = 64) -> Image.Image:
    """A noisy picture without zeros, different in each corner."""
    rng = np.random.default_rng(7)
    ramp = np.linspace(60, 180, width)[None, :, None] + np.linspace(0, 50, height)[:, None, None]
    noise = rng.integers(0, 20, (height, width, 3))
    return Image.fromarray((ramp + noise).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def refusal(data: bytes, limits: ImageLimits | None = None) -> ImageRejected:
    with pytest.raises(ImageRejected) as caught:
        decode(data, limits or ImageLimits())
    assert caught.value.reason in REASONS
    return caught.value


def grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + png_chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: tuple[int, ...], pixels: bytes, tags: dict[int, int]) -> bytes:
    """A little-endian raw TIFF of one strip, for the samples that Pillow does not write."""
    at = 8 + len(pixels)
    count = len(bits)
    entries = {256: width, 257: height, 259: 1, 262: 1, 273: 8, 277: count, 278: height, 279: len(pixels)}
    entries |= {258: bits[0]} | tags
    bits_at = at + 2 + 12 * len(entries) + 4
    body = struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        if tag == 258 and count == 2:  # four bytes stand in the entry itself
            body += struct.pack("<HHIHH", tag, 3, count, *bits)
        elif tag == 258 and count > 2:
            body += struct.pack("<HHII", tag, 3, count, bits_at)
        else:
            body += struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
    return b"II*\0" + struct.pack("<I", at) + pixels + body + bytes(4) + struct.pack(f"<{count}H", *bits)


LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "packbits"}),
    ("TIFF", {"big_tiff": True}),
]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_rgb_comes_back_exactly(kind: str, options: dict[str, Any]) -> None:
    pixels = decode(encode(smear(), kind, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(smear()))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
)
def test_a_jpeg_comes_back_as_rgb(options: dict[str, Any]) -> None:
    pixels = decode(encode(smear(), "JPEG", quality=95, **options))
    assert pixels.shape == (64, 96, 3)
    assert np.abs(pixels.astype(int) - np.asarray(smear())).mean() < 8


def test_red_comes_first() -> None:
    for kind in ("JPEG", "PNG", "TIFF", "BMP"):
        red, green, blue = decode(encode(Image.new("RGB", (16, 16), (250, 120, 20)), kind))[8, 8]
        assert red > 240
        assert 110 < green < 130
        assert blue < 30, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    # The marked corner of the stored picture, and where the tag says that it belongs: (row, column).
    belongs = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    stored = np.full((32, 48, 3), 220, np.uint8)
    stored[:8, :8] = 40
    image = Image.fromarray(stored)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    pixels = decode(encode(image, kind, exif=exif))
    assert pixels.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    dark = {corner for corner in [(0, 0), (0, -1), (-1, 0), (-1, -1)] if pixels[corner].max() < 100}
    assert dark == {belongs[orientation]}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_cost_the_image() -> None:
    pixels = decode(encode(smear(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert pixels.shape == (64, 96, 3)


WIDE = np.array([[0, 128, 129, 385, 386], [257, 32_768, 65_279, 65_406, 65_535]], np.uint16)
WIDE_ROUNDED = np.array([[0, 0, 1, 1, 2], [1, 128, 254, 254, 255]])
PNG_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE)
RGB16 = b"".join(struct.pack(">3H", 0x12FF, 0x8000, 0xFFFF) for _ in range(4))
RGB16_LITTLE = np.frombuffer(RGB16, ">u2").astype("<u2").tobytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(5, 2, 16, 0, PNG_ROWS), grey(WIDE_ROUNDED)),  # big-endian in the file
        (encode(Image.fromarray(WIDE), "TIFF"), grey(WIDE_ROUNDED)),
        (encode(Image.fromarray(WIDE), "TIFF", compression="tiff_lzw"), grey(WIDE_ROUNDED)),
        (encode(Image.frombytes("I;16B", (5, 2), WIDE.astype(">u2").tobytes()), "TIFF"), grey(WIDE_ROUNDED)),
        # 16-bit colour keeps the high byte
        (png(2, 2, 16, 2, b"\0" + RGB16[:12] + b"\0" + RGB16[12:]), np.tile([0x12, 0x80, 0xFF], (2, 2, 1))),
        (tiff(2, 2, (16, 16, 16), RGB16_LITTLE, {262: 2}), np.tile([0x12, 0x80, 0xFF], (2, 2, 1))),
    ],
)
def test_16_bit_samples_fill_the_range_of_8(data: bytes, expected: NDArray[Any]) -> None:
    np.testing.assert_array_equal(decode(data), expected)


def one(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (4, 4), colour)


def palette() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    return image


BMP_UNUSED_ALPHA = (
    b"BM" + struct.pack("<IHHI", 122 + 4, 0, 0, 122)
    + struct.pack("<IiiHHIIiiII", 108, 1, 1, 1, 32, 3, 4, 0, 0, 0, 0)
    + struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    + bytes([30, 20, 10, 0])
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "rgb"),
    [
        (encode(one("L", 77), "PNG"), (77, 77, 77)),
        (encode(one("L", 77), "BMP"), (77, 77, 77)),
        (encode(one("L", 77), "JPEG"), (77, 77, 77)),
        (encode(one("1", 1), "PNG"), (255, 255, 255)),
        (encode(one("1", 1), "TIFF"), (255, 255, 255)),
        (encode(one("1", 0), "BMP"), (0, 0, 0)),
        (tiff(4, 4, (8,), bytes([55] * 16), WHITE_IS_ZERO), (200, 200, 200)),
        (encode(palette(), "PNG"), (200, 100, 50)),
        (encode(palette(), "TIFF"), (200, 100, 50)),
        (encode(palette(), "BMP"), (200, 100, 50)),
        (encode(palette(), "PNG", transparency=1), (255, 255, 255)),  # the palette entry is transparent
        (encode(one("RGB", (9, 8, 7)), "PNG", transparency=(9, 8, 7)), (255, 255, 255)),  # a colour key
        (encode(one("RGBA", (100, 0, 200, 0)), "PNG"), (255, 255, 255)),
        (encode(one("RGBA", (100, 0, 200, 255)), "PNG"), (100, 0, 200)),
        (encode(one("RGBA", (100, 0, 200, 51)), "TIFF"), (224, 204, 244)),  # 0.2 colour + 0.8 white
        (encode(one("LA", (100, 51)), "PNG"), (224, 224, 224)),
        (encode(one("LA", (100, 51)), "TIFF"), (224, 224, 224)),
        (tiff(4, 4, (8, 8), bytes([20, 51] * 16), {338: 1}), (224, 224, 224)),  # premultiplied
        (BMP_UNUSED_ALPHA, (10, 20, 30)),  # alpha 0 everywhere: there is no alpha
        (encode(one("CMYK", (255, 0, 0, 0)), "JPEG", quality=100), (0, 255, 255)),  # Adobe's inverted
        (encode(one("CMYK", (0, 0, 255, 0)), "TIFF"), (255, 255, 0)),
        (encode(one("YCbCr", (128, 128, 128)), "TIFF"), (128, 128, 128)),
    ],
)
def test_every_kind_of_sample_becomes_rgb(data: bytes, rgb: tuple[int, int, int]) -> None:
    pixels = decode(data)
    assert pixels.shape[2] == 3
    np.testing.assert_allclose(pixels, np.broadcast_to(rgb, pixels.shape), atol=1)


def test_the_first_page_is_the_image() -> None:
    pages = [one("RGB", (200, 1, 1)), one("RGB", (1, 200, 1))]
    for kind in ("TIFF", "PNG", "MPO"):
        red, green, _ = decode(encode(pages[0], kind, save_all=True, append_images=pages[1:]))[0, 0]
        assert red > 190, kind
        assert green < 10, kind


def without_adobe_marker(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 16 :]


@pytest.mark.parametrize(
    "data",
    [
        encode(one("F", 0.5), "TIFF"),
        encode(one("I", 70_000), "TIFF"),
        encode(one("LAB", (1, 2, 3)), "TIFF"),
        tiff(4, 4, (8,), bytes([9] * 16), {339: 2}),  # signed
        tiff(4, 4, (12,), bytes([9] * 24), {}),
        tiff(4, 4, (16,), bytes([9] * 32), WHITE_IS_ZERO),
        tiff(4, 4, (8,), bytes([9] * 16), {259: 60_000}),  # a compression that nobody knows
        tiff(4, 4, (7,), bytes([9] * 16), {}),
        png(5, 2, 16, 0, PNG_ROWS, extra=png_chunk(b"tRNS", b"\0\x80")),
        without_adobe_marker(encode(one("CMYK", (255, 0, 0, 0)), "JPEG")),
        encode(one("L", 7), "JPEG").replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\x0c"),  # 12 bits
        encode(palette(), "BMP")[:30] + b"\x01\0\0\0" + encode(palette(), "BMP")[34:],  # run-length coded
    ],
)
def test_samples_without_a_clear_meaning_are_unsupported(data: bytes) -> None:
    assert refusal(data).reason == "unsupported"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0", "not an image"),
        (bytes(5000), "not an image"),
        (b"BMI of the patient: 24.1, measured today", "not an image"),  # text that begins like a BMP
        (encode(one("RGB", 5), "GIF"), "not an image"),
        (encode(one("RGB", 5), "WEBP"), "not an image"),
        (b"%PDF-1.7 and so on", "not an image"),
        (b"\xff\xd8\xff", "truncated"),  # signatures alone
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"II*\0", "truncated"),
        # libtiff writes the place of the directory last
        (b"II*\0\0\0\0\0", "truncated"),
        (b"II*\0\0\0\0\0" + bytes([90]) * 300_000, "truncated"),
    ],
)
def test_what_is_no_image_has_its_reason(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


JPEG = encode(smear(360, 360), "JPEG", quality=90)
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
def test_a_cut_file_is_truncated(name: str, share: float) -> None:
    whole = EVERY_FORMAT[name]
    decode(whole)
    assert refusal(whole[: int(len(whole) * share)]).reason == "truncated"


@pytest.mark.parametrize("name", EVERY_FORMAT)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_a_zero_filled_tail_is_refused(name: str, share: float) -> None:
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
    ):
        np.testing.assert_array_equal(decode(tolerated), expected)


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
        (JPEG[:HALF] + b"\xff\xd9", "before the last of 360 rows"),  # an end marker put after a cut
        (JPEG[:-300] + b"\xff\xd9", "before the last of 360 rows"),
        (JPEG[:HALF] + bytes(4096) + JPEG[HALF + 4096 :], f"are 0 from byte {HALF}"),  # a page never written
        (JPEG[:HALF] + b"\xff\x3a\0\x10" + JPEG[HALF + 4 :], "marker 0x3a"),
        (DEFLATE[:3000] + b"\x5a" * 900 + DEFLATE[3900:], "decoder error"),
        (tiff(64, 64, (8,), bytes([9] * 4096), {279: 4000}), "4000 of 4096"),  # a strip that is too short
    ],
)
def test_lost_pixels_inside_a_complete_file_are_damage(data: bytes, found: str) -> None:
    rejected = refusal(data)
    assert rejected.reason == "damaged"
    assert found in rejected.detail


@pytest.mark.parametrize("name", ["tiff", "lzw", "deflate", "packbits", "jpeg in tiff"])
def test_zeros_at_the_end_of_the_strips_are_damage_though_the_directory_is_whole(name: str) -> None:
    whole = EVERY_FORMAT[name]
    with Image.open(io.BytesIO(whole)) as opened:
        tags = opened.tag_v2  # type: ignore[attr-defined]
        end = tags[273][-1] + tags[279][-1]
    rejected = refusal(whole[: end - 2000] + bytes(2000) + whole[end:])
    assert rejected.reason == "damaged"
    assert "bytes of the pixels are 0" in rejected.detail


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


LIMITS = ImageLimits(max_bytes=50_000, max_side_px=100, max_pixels=6200)


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (bytes(50_001), ("50001", "50000")),
        (encode(smear(101, 8), "PNG"), ("101 x 8", "100")),
        (encode(smear(8, 101), "JPEG"), ("8 x 101", "100")),
        (encode(smear(90, 70), "BMP"), ("6300", "6200")),
        (encode(smear(90, 70), "TIFF"), ("6300", "6200")),
    ],
)
def test_what_is_too_large_names_both_numbers_and_a_way_out(data: bytes, numbers: tuple[str, str]) -> None:
    rejected = refusal(data, LIMITS)
    assert rejected.reason == "too large"
    assert all(number in rejected.detail for number in numbers)
    assert "raise the limit" in rejected.detail


def test_an_image_exactly_at_the_limits_is_accepted() -> None:
    assert decode(encode(smear(100, 62), "PNG"), LIMITS).shape == (62, 100, 3)


BOMB_MEMORY = """
import resource, sys
from edge.errors import ImageRejected
from edge.images import decode
bomb = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(bomb)
except ImageRejected as rejected:
    print(rejected.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sep=",")
"""


@pytest.mark.parametrize(
    "bomb",
    [
        png(30_000, 30_000, 8, 2, b"\0" * 90_001 * 300),
        tiff(30_000, 30_000, (8, 8, 8), bytes(64), {262: 2}),
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 30_000, 30_000, 1, 24, *[0] * 6),
        png(10_000, 10_000, 1, 0, b"\0"),  # 100 megapixels: Pillow alone would only warn
    ],
    ids=["png", "tiff", "bmp", "png of 100 MP"],
)
def test_a_bomb_is_refused_before_its_pixels_cost_memory(bomb: bytes) -> None:
    child = [sys.executable, "-c", BOMB_MEMORY]  # peak memory never falls, so it needs a process of its own
    answer = subprocess.run(child, input=bomb, capture_output=True, check=True, cwd=REPO, timeout=60)
    reason, growth_kb = answer.stdout.decode().split(",")
    assert reason == "too large"
    assert int(growth_kb) < 50_000


def test_every_suffix_is_lower_case_and_decodes() -> None:
    assert {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"} == IMAGE_SUFFIXES
    for suffix in IMAGE_SUFFIXES:
        decode(encode(smear(), Image.registered_extensions()[suffix]))


FUZZED = [
    *EVERY_FORMAT.values(),
    PNG16 := png(5, 2, 16, 0, PNG_ROWS),
    encode(palette(), "BMP"),
    BMP_UNUSED_ALPHA,
]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    whole=st.sampled_from(FUZZED),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=6),
    header_flips=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), max_size=3),
    cut=st.floats(0.02, 1),
    zeros=st.floats(0, 0.5),
)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_gives_pixels_or_a_known_reason(
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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("image file is truncated (0 bytes not processed)"), "truncated"),
        (SyntaxError("broken"), "damaged"),
        (struct.error("unpack"), "damaged"),
        (IndexError(), "damaged"),
        (OverflowError("big"), "damaged"),
        (MemoryError(), "too large"),
        (Image.DecompressionBombError("bomb"), "too large"),
    ],
)
def test_no_error_of_a_decoder_leaves_unwrapped(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    rejected = refusal(encode(smear(), "BMP"))
    assert rejected.reason == reason
    assert rejected.__cause__ is error


def test_real_smear_images_have_the_size_that_their_list_states() -> None:
    smears = Path(os.environ.get("CYTOLOGIA_DATA", REPO.parent / "shared" / "data")) / "smears"
    if not (smears / "provenance.csv").is_file():
        pytest.skip(f"no real images: {smears} is missing (set CYTOLOGIA_DATA)")
    with (smears / "provenance.csv").open(newline="", encoding="utf-8") as listing:
        rows = list(csv.DictReader(listing))
    assert rows
    for row in rows[:: max(1, len(rows) // 50)]:
        height, width, _ = decode((smears / "images" / row["NAME"]).read_bytes()).shape
        assert (width, height) == (int(row["width"]), int(row["height"])), row["NAME"]
