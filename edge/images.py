"""Bytes to pixels: the one decoder of training, building and serving. It gives whole images or refuses them.

Rules:
    formats       JPEG, PNG, TIFF and BMP, told by the content; the suffix of a file is never asked.
    limits        bytes, sides and pixel count are checked from the header, before a pixel is decoded.
    orientation   EXIF orientation is applied (JPEG, PNG, TIFF); sizes are those of the upright image.
    8 bits        grey, 1-bit and palette become RGB; CMYK is converted without a colour profile (in a JPEG
                  it must be Adobe's, inverted: others leave open what 0 means). ICC profiles are ignored.
    16 bits       grey is round(value / 257): the full range 0..65535 becomes 0..255, whatever the camera
                  used of it. Colour keeps the high byte of each sample, at most one level from that.
    alpha         composited over white. A BMP whose alpha is 0 everywhere has no alpha: it is opaque.
    pages         the first page of a TIFF, the first picture of an animated PNG or multi-picture JPEG.
    unsupported   float, 32-bit, 12-bit and signed samples, 16-bit white-is-zero, Lab, run-length BMP,
                  16-bit PNG with a transparent colour.

Damage:
    JPEG          without its end marker: truncated (damaged if the tail is zeros). With it: damaged if a
                  page (4096 bytes) of the coded pixels is zeros, a foreign marker stands among them, or they
                  end before the last block. Bytes before a marker and after the end marker are tolerated.
    PNG           a chunk that is cut, or no end chunk: truncated; a wrong checksum: damaged.
    TIFF, BMP     shorter than the header says: truncated. Zero tail: see `_check_zero_tail`.
    A loss inside a JPEG or a raw TIFF or BMP that leaves a valid file cannot be seen: they have no checksum.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from edge.errors import ImageRejected

IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
"""Lower-case suffixes of the files that the station takes for images."""

# Opened by class and not by Image.open: that one hides why a file is refused, and compares the size with
# a process-wide limit of its own before ours can be asked.
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile]] = dict(
    JPEG=JpegImageFile, PNG=PngImageFile, TIFF=TiffImageFile, BMP=BmpImageFile
)
_ADVICE = (
    dict.fromkeys(("empty", "truncated", "damaged"), "copy or export the file again")
    | dict.fromkeys(("not an image", "unsupported"), "export it as 8-bit RGB in JPEG, PNG, TIFF or BMP")
    | {"too large": "export a smaller field or raise the limit"}
)
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MAGICS = {b"\xff\xd8\xff": "JPEG", _PNG_MAGIC: "PNG"} | dict.fromkeys(
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"
)
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})

_RGB_READY_MODES = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr"})
_EIGHT_BITS_OF_SIXTEEN = ((np.arange(65_536) + 128) // 257).astype(np.uint8)

# BitsPerSample, StripOffsets, StripByteCounts, ColorMap, TileOffsets, TileByteCounts, JPEGTables.
_TIFF_PIXEL_TAGS = frozenset({258, 273, 279, 320, 324, 325, 347})
_TIFF_SAMPLE_BYTES = {1: 1, 3: 2, 4: 4, 7: 1, 16: 8}

_SECTOR_BYTES = 512
_PAGE_BYTES = 4096
_JPEG_MARKER_AFTER_PIXELS = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# DHT, DAC, EOI, SOS, DQT, DNL, DRI, APP0 to APP15, COM: what may follow a scan.
_JPEG_AFTER_SCAN = frozenset({0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
_JPEG_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_UNSUPPORTED_BY_PILLOW = re.compile(r"cannot handle|unknown pixel mode|unsupported|not yet supported", re.I)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a file may ask of the station's memory.

    80 megapixels are more than the largest microscope cameras have (about 60) and less than a whole slide.
    One such image takes 0.6 GB while it is decoded: 4 bytes a pixel in Pillow, 3 in the array. The number
    also stays below the 89 megapixels at which Pillow begins to warn.
    """

    max_bytes: int = 256 * 2**20
    max_side_px: int = 20_000
    max_pixels: int = 80_000_000


_DEFAULT_LIMITS = ImageLimits()


def decode(data: bytes, limits: ImageLimits = _DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode one image file by the rules at the head of this module.

    Args:
        data: the whole file.
        limits: the largest image to accept.

    Returns:
        uint8 [H,W,3], RGB, upright, C-contiguous and read-only (a copy for writing would cost as much again).

    Raises:
        ImageRejected: for every other file; no other exception leaves this function.
    """
    if not data:
        raise _refusal("empty", "the file has 0 bytes")
    if len(data) > limits.max_bytes:
        raise _refusal("too large", f"the file has {len(data)} bytes, max_bytes is {limits.max_bytes}")
    kind = _format_of(data)
    try:
        return _decode(data, kind, limits)
    except ImageRejected:
        raise
    except Exception as error:  # decoders fail with a dozen types, SyntaxError and IndexError among them
        # Warnings are left alone: the filters of Python belong to all threads. What Pillow 13 warns of is
        # metadata, or checked below; a process that makes warnings errors refuses more, never less.
        raise _refusal_of(error, kind) from error


def _decode(data: bytes, kind: str, limits: ImageLimits) -> NDArray[np.uint8]:
    end = len(data)
    if kind == "JPEG":
        end = _check_jpeg(data)
    elif kind == "PNG":
        _check_png(data)
    elif kind == "TIFF":
        _check_tiff_directory(data)
    image = _OPENERS[kind](io.BytesIO(data))
    width, height = image.size
    if max(width, height) > limits.max_side_px:
        raise _refusal("too large", f"it is {width} x {height} px, max_side_px is {limits.max_side_px}")
    if (pixels := width * height) > limits.max_pixels:
        said = f"it is {width} x {height} = {pixels} px, max_pixels is {limits.max_pixels}"
        raise _refusal("too large", said)
    _check_samples(image, data, kind)
    if isinstance(image, TiffImageFile):
        _check_tiff_pixels(image, data)
    elif isinstance(image, BmpImageFile):
        _check_bmp_pixels(image, data)
    image.load()
    if kind == "JPEG":
        _check_last_block(image, data, end)
    with suppress(Exception):  # an unreadable EXIF block loses no pixel, and cells have no upright
        ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image, kind)


def _format_of(data: bytes) -> str:
    for magic, kind in _MAGICS.items():
        if data.startswith(magic):
            return kind
    # Two letters are too weak a signature: text begins with BM, too.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    raise _refusal("not an image", f"the file begins with the bytes {data[:8].hex(' ')}")


def _check_samples(image: ImageFile, data: bytes, kind: str) -> None:
    """Refuse what Pillow opens and would give wrong or ambiguous pixels for."""
    fault = None
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        bits, white_is_zero = tags.get(258, (1,))[0], tags.get(262) == 0
        if bits == 12 or (bits == 16 and white_is_zero):  # Pillow neither scales 12 bits nor inverts 16
            fault = f"a TIFF of {bits}-bit samples{' with white as zero' if white_is_zero else ''}"
        elif 2 in tags.get(339, ()):
            fault = "a TIFF of signed samples"
    elif kind == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        fault = "a CMYK JPEG without Adobe's marker"
    elif kind == "PNG" and data[24] == 16 and "transparency" in image.info:
        fault = "a 16-bit PNG with a transparent colour"
    elif kind == "BMP" and image.tile[0][0] != "raw":
        fault = "a run-length coded BMP"
    if not fault and image.mode in ("I", "F", "LAB"):
        fault = f"a {kind} of mode {image.mode} (float, 32-bit or Lab samples)"
    if fault:
        raise _refusal("unsupported", f"the file is {fault}")


def _check_jpeg(data: bytes) -> int:
    """Walk over the markers; the position of the end marker."""
    at, scans = 2, 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0xD9 and scans:
            return at
        if marker == 0xFF or marker in _JPEG_STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            scans += 1
            after_pixels = _JPEG_MARKER_AFTER_PIXELS.search(data, at)
            if after_pixels is None:
                break
            start, at = at, after_pixels.start()
            if data[at + 1] not in _JPEG_AFTER_SCAN:
                raise _refusal("damaged", f"marker 0x{data[at + 1]:02x} stands among the pixels at byte {at}")
            # Only a flat area of about a million pixels codes to as many zeros; a lost page always does.
            if (hole := data.find(bytes(_PAGE_BYTES), start, at)) >= 0:
                raise _refusal("damaged", f"{_PAGE_BYTES} or more bytes of the pixels are 0 from byte {hole}")
    if data.endswith(bytes(16)):
        raise _refusal("damaged", f"the JPEG has {len(data)} bytes, the last ones 0, and no end marker")
    raise _refusal("truncated", f"the JPEG has {len(data)} bytes and no end marker")


def _check_last_block(image: ImageFile, data: bytes, end: int) -> None:
    """Refuse a JPEG whose coded pixels stop before the last block.

    libjpeg paints the missing blocks in mid-grey and says so in a warning that Pillow drops. If the last
    block is that grey, code is put in before the end marker: a whole image leaves it unread.
    """
    width, height = image.size
    corner = ((width - 1) // 8 * 8, (height - 1) // 8 * 8, width, height)
    if not set(image.crop(corner).tobytes()) <= {127, 128}:
        return
    filled = JpegImageFile(io.BytesIO(data[:end] + bytes(range(1, 255)) * 8 + data[end:]))
    if filled.tobytes() != image.tobytes():
        raise _refusal("damaged", f"the pixels end at byte {end}, before the last of {height} rows")


def _check_png(data: bytes) -> None:
    """Check the lengths and checksums of all chunks; Pillow skips the checksums of the pixels."""
    view = memoryview(data)
    at = len(_PNG_MAGIC)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if not name.isalpha():
            raise _refusal("damaged", f"chunk {name!r} of the PNG at byte {at} has no name")
        end = at + 12 + length
        if end > len(data):
            break
        found, stated = zlib.crc32(view[at + 4 : end - 4]), int.from_bytes(view[end - 4 : end], "big")
        if found != stated:
            raise _refusal("damaged", f"chunk {name!r} has checksum {found:08x} and states {stated:08x}")
        if name == b"IEND":
            return
        at = end
    raise _refusal("truncated", f"the PNG has {len(data)} bytes and ends inside the chunk at byte {at}")


def _check_tiff_directory(data: bytes) -> None:
    """Refuse a TIFF whose directory is not all in the file: many writers append it last."""
    order, big = "<" if data.startswith(b"II") else ">", 43 in data[2:4]
    word = f"{order}{'Q' if big else 'I'}"
    try:
        (at,) = struct.unpack_from(word, data, 8 if big else 4)
        (entries,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at or len(data))
        for entry in range(entries):
            place = at + (8 + 20 * entry if big else 2 + 12 * entry)
            tag, sample, count, value = struct.unpack_from(f"{order}HH{word[1]}{word[1]}", data, place)
            size = count * _TIFF_SAMPLE_BYTES.get(sample, 0)
            # Pillow skips a tag that it cannot read, with a warning, and goes on without.
            if tag in _TIFF_PIXEL_TAGS and size > (8 if big else 4) and value + size > len(data):
                raise struct.error(f"tag {tag} lies past the end")
    except (struct.error, OverflowError) as error:
        said = f"the directory of the TIFF is not in its {len(data)} bytes"
        raise _refusal("truncated", said) from error


def _check_tiff_pixels(image: TiffImageFile, data: bytes) -> None:
    """Refuse strips or tiles that lie past the end of the file, or hold too few bytes."""
    tags = image.tag_v2
    tiled = 273 not in tags
    offsets = tags[324 if tiled else 273]
    counts = tags.get(325 if tiled else 279) or (len(data) - offsets[0],)
    start, end = min(offsets), max(at + count for at, count in zip(offsets, counts, strict=True))
    compressed = tags.get(259, 1) != 1
    needed = image.width * image.height * sum(tags.get(258, (1,))) // 8
    if not compressed and sum(counts) < needed:
        raise _refusal("damaged", f"the TIFF lists {sum(counts)} of {needed} bytes of pixels")
    _check_zero_tail(data, start, end, image.height, compressed=compressed)


def _check_bmp_pixels(image: BmpImageFile, data: bytes) -> None:
    _, _, start, args = image.tile[0]
    assert isinstance(args, tuple)
    _check_zero_tail(data, start, start + int(args[1]) * image.height, image.height, compressed=False)


def _check_zero_tail(data: bytes, start: int, end: int, height: int, *, compressed: bool) -> None:
    """Refuse the pixel bytes data[start:end] of a TIFF or BMP if they end with zeros that nobody wrote.

    Coded pixels never end with 64 zeros. Raw ones are refused if the zeros at their end are as many as one
    row, a disk sector and the smaller of a memory page and a tenth of the pixels, and more than twice those
    at their beginning: a black frame or vignette lies at both ends, what was not written at one. So an image
    with a black band on that one side is refused, too, and loudly: better than half a field that is silently
    without cells. All zeros are refused: a file that was laid out and never filled looks like that.
    """
    if end > len(data):
        raise _refusal("truncated", f"the pixels end at byte {end}, the file at byte {len(data)}")
    total = end - start
    least = 64 if compressed else max(_SECTOR_BYTES, total // height, min(_PAGE_BYTES, total // 10))
    if total < least or any(data[end - least : end]):
        return
    written = np.frombuffer(data, np.uint8, count=total, offset=start) != 0
    head, tail = int(written.argmax()), int(written[::-1].argmax())
    if not written.any():
        raise _refusal("damaged", f"all {total} bytes of the pixels are 0")
    if compressed or tail > 2 * head:
        raise _refusal("damaged", f"the last {tail} of {total} bytes of the pixels are 0")


def _to_rgb(image: Image.Image, kind: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_EIGHT_BITS_OF_SIXTEEN[np.asarray(image)])
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = rgba.getchannel("A")
        if kind == "BMP" and alpha.getextrema() == (0, 0):
            image = rgba.convert("RGB")
        else:
            image = Image.new("RGB", rgba.size, (255, 255, 255))
            image.paste(rgba, mask=alpha)
    if image.mode not in _RGB_READY_MODES:
        raise _refusal("unsupported", f"the {kind} has pixels of mode {image.mode}")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _refusal(reason: str, what: str) -> ImageRejected:
    return ImageRejected(reason, f"{what}; {_ADVICE[reason]}")


def _refusal_of(error: Exception, kind: str) -> ImageRejected:
    """The decoder's own words under one of our reasons."""
    said = f"the {kind} decoder says {str(error) or type(error).__name__!r}"
    if isinstance(error, MemoryError | Image.DecompressionBombError | Image.DecompressionBombWarning):
        return _refusal("too large", said)
    if "truncated" in str(error).lower():
        return _refusal("truncated", said)
    if _UNSUPPORTED_BY_PILLOW.search(str(error)) or isinstance(error.__cause__, KeyError):
        return _refusal("unsupported", said)
    return _refusal("damaged", said)
