"""Image files made byte by byte, and how one is refused: shared by the tests of decoding and of damage."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge.errors import ImageRejected
from edge.images import ImageLimits, decode

REASONS = {"empty", "not an image", "too large", "truncated", "damaged", "unsupported"}


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
    """How `decode` refuses these bytes; fails if it does not, or for a reason that is none of `REASONS`."""
    with pytest.raises(ImageRejected) as caught:
        decode(data, limits or ImageLimits())
    assert caught.value.reason in REASONS
    return caught.value


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
"""One pixel, RGB 10, 20, 30, in 32 bits with an alpha of 0."""

WIDE = np.array([[0, 128, 129, 385, 386], [257, 32_768, 65_279, 65_406, 65_535]], np.uint16)
PNG_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE)
"""The rows of `WIDE` as a 16-bit PNG holds them, each behind its filter byte."""
