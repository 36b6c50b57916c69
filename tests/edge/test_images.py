"""What `edge.images.decode` promises: whole, upright RGB pixels, or a refusal with one of six reasons."""

import csv
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from edge.images import ImageLimits, decode
from edge.walking import IMAGE_SUFFIXES
from tests.edge.drawn_files import (
    BMP_UNUSED_ALPHA,
    PNG_ROWS,
    WIDE,
    encode,
    palette,
    png,
    png_chunk,
    refusal,
    smear,
    tiff,
)
from tests.real_files import data_path

REPO = Path(__file__).resolve().parents[2]
ORIENTATION_TAG = 0x0112
WHITE_IS_ZERO = {262: 0}


def grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


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
    assert not pixels.flags.writeable
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


WIDE_ROUNDED = np.array([[0, 0, 1, 1, 2], [1, 128, 254, 254, 255]])
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
        # uncoded planes: Pillow would take each byte for a sample, and not invert
        tiff(4, 4, (16,) * 3, bytes([9] * 96), {262: 2, 284: 2}),
        tiff(4, 4, (8,), bytes([9] * 16), WHITE_IS_ZERO | {284: 2}),
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
    rejected = refusal(data)
    assert rejected.reason == reason
    assert len(rejected.detail) < 250  # and not the whole file


LIMITS = ImageLimits(max_bytes=50_000, max_side_px=100, max_pixels=6200)


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (bytes(50_001), ("50001", "50000")),
        (encode(smear(101, 8), "PNG"), ("101 x 8", "100")),
        (encode(smear(8, 101), "JPEG"), ("8 x 101", "100")),
        (encode(smear(90, 70), "BMP"), ("6300", "6200")),
        (encode(smear(90, 70), "TIFF"), ("6300", "6200")),
        (tiff(64, 64, (8,), bytes(4096), {322: 128, 323: 32}), ("128 x 32", "100")),  # tiles
        (tiff(64, 64, (8,), bytes(4096), {322: 96, 323: 80}), ("96 x 80", "6200")),
    ],
)
def test_promise_21_what_is_too_large_names_both_numbers_and_a_way_out(
    data: bytes, numbers: tuple[str, str]
) -> None:
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
def test_promise_21_a_bomb_is_refused_before_its_pixels_cost_memory(bomb: bytes) -> None:
    child = [sys.executable, "-c", BOMB_MEMORY]  # peak memory never falls, so it needs a process of its own
    answer = subprocess.run(child, input=bomb, capture_output=True, check=True, cwd=REPO, timeout=60)
    reason, growth_kb = answer.stdout.decode().split(",")
    assert reason == "too large"
    assert int(growth_kb) < 50_000


def test_every_suffix_is_lower_case_and_decodes() -> None:
    assert {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"} == IMAGE_SUFFIXES
    for suffix in IMAGE_SUFFIXES:
        decode(encode(smear(), Image.registered_extensions()[suffix]))


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
def test_promise_09_no_error_of_a_decoder_leaves_unwrapped(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    rejected = refusal(encode(smear(), "BMP"))
    assert rejected.reason == reason
    assert rejected.__cause__ is error


def test_real_smear_images_have_the_size_that_their_list_states() -> None:
    provenance = data_path("smears/provenance.csv")
    with provenance.open(newline="", encoding="utf-8") as listing:
        rows = list(csv.DictReader(listing))
    assert rows
    for row in rows[:: max(1, len(rows) // 50)]:
        height, width, _ = decode((provenance.parent / "images" / row["NAME"]).read_bytes()).shape
        assert (width, height) == (int(row["width"]), int(row["height"])), row["NAME"]
