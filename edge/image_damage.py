"""Marks of damage in the bytes of an image file: what a decoder would paint over, or not notice.

Rules:
    JPEG          without its end marker: truncated (damaged if the tail is zeros). With it: damaged if a
                  page (4096 bytes) of the coded pixels is zeros, a foreign marker stands among them, or
                  libjpeg meets code that it cannot read or that ends too early. Bytes between the headers
                  before the pixels, a few before the end marker, and all after it are tolerated.
    PNG           a chunk that is cut, or no end chunk: truncated; a wrong checksum: damaged.
    TIFF, BMP     shorter than the header says: truncated. Zero tail: see `_check_zero_tail`. Each strip or
                  tile of a TIFF that is a JPEG is looked at like a JPEG; fax codings are unsupported.
    A loss inside a JPEG or a raw TIFF or BMP that leaves a valid file cannot be seen: they have no checksum.

The checks take the bytes of a file of the named format and, if they need its header, the opened image. They
raise ImageRejected with the reason "truncated" or "damaged", or whatever error a header leads to that nobody
can read; `edge.images.decode` wraps those.
"""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.TiffImagePlugin import TiffImageFile

from edge.errors import ImageRejected

COPY_AGAIN = "copy or export the file again"
"""What to do about a file that is not whole."""

_PNG_SIGNATURE_BYTES = 8

# BitsPerSample, StripOffsets, StripByteCounts, ColorMap, TileOffsets, TileByteCounts, JPEGTables.
_TIFF_PIXEL_TAGS = frozenset({258, 273, 279, 320, 324, 325, 347})
_TIFF_SAMPLE_BYTES = {1: 1, 3: 2, 4: 4, 7: 1, 16: 8}

_TIFF_FAX_CODINGS = frozenset({2, 3, 4})
_TIFF_JPEG = 7

_SECTOR_BYTES = 512
_PAGE_BYTES = 4096
_JPEG_MARKER_AFTER_PIXELS = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# DHT, DAC, EOI, SOS, DQT, DNL, DRI, APP0 to APP15, COM: what may follow a scan.
_JPEG_AFTER_SCAN = frozenset({0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
_JPEG_SPARE_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_JPEG_MOST_SPARE_BYTES = 64
"""Before the end marker; images of CytologIA have 27 somewhere. Before another scan damage left them over."""
_JPEG_NOTES = frozenset({*range(0xE0, 0xEE), 0xEF, 0xFE})
"""APP0 to APP15 and COM, but for APP14, which tells the colours: metadata, colour profiles, previews."""
_JPEG_END = b"\xff\xd9"
_JPEG_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})


def check_jpeg(data: bytes) -> list[slice]:
    """Walk over the markers to the end marker; where what the pixels need lies, all else is left out."""
    at, scans, needed = 2, 0, [slice(0, 2)]
    while (found := data.find(b"\xff", at)) >= 0 and found + 1 < len(data):
        if scans and found > at:  # pixels behind what looks like a marker
            raise _refusal("damaged", f"{found - at} bytes stand between the scans at byte {at}")
        at, marker = found, data[found + 1]
        if marker == 0xD9 and scans:
            return [*needed, slice(at, at + 2)]
        if marker == 0xFF or marker in _JPEG_STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        began = at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            scans += 1
            after_pixels = _JPEG_MARKER_AFTER_PIXELS.search(data, at)
            if after_pixels is None:
                break
            start, at = at, after_pixels.start()
            needed.append(slice(began, at))
            if data[at + 1] not in _JPEG_AFTER_SCAN:
                raise _refusal("damaged", f"marker 0x{data[at + 1]:02x} stands among the pixels at byte {at}")
            # A lost page does so always, and in a progressive or optimised JPEG half a million flat pixels.
            if (hole := data.find(bytes(_PAGE_BYTES), start, at)) >= 0:
                raise ImageRejected(
                    "damaged",
                    f"{_PAGE_BYTES} or more bytes of the pixels are 0 from byte {hole}, as where a page was "
                    "lost or a large area is white; copy the file again, or export it as PNG",
                )
        elif marker not in _JPEG_NOTES:
            needed.append(slice(began, at))
    if data.endswith(bytes(16)):
        raise _refusal("damaged", f"the JPEG has {len(data)} bytes, the last ones 0, and no end marker")
    raise _refusal("truncated", f"the JPEG has {len(data)} bytes and no end marker")


def tells_of_lost_pixels(warning: str) -> bool:
    """Whether libjpeg warns of more than a few spare bytes at the end: a stream out of step leaves many over.

    Args:
        warning: of the parts that `check_jpeg` finds, since libjpeg tells the first one only, and one of a
            colour profile or of bytes between the headers would hide it.
    """
    spare = _JPEG_SPARE_BYTES.search(warning)
    if spare is not None:
        return int(spare[1]) > _JPEG_MOST_SPARE_BYTES
    return "Corrupt JPEG data" in warning or "Premature end" in warning


def check_png(data: bytes) -> None:
    """Check the lengths and checksums of all chunks; Pillow skips the checksums of the pixels."""
    view = memoryview(data)
    at = _PNG_SIGNATURE_BYTES
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


def check_tiff_directory(data: bytes) -> None:
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


def check_tiff_pixels(image: TiffImageFile, data: bytes) -> None:
    """Refuse strips or tiles that lie past the end of the file, or hold too few bytes."""
    tags = image.tag_v2
    parts = _parts_of_tiff(image, data)
    start, end = min(part.start for part in parts), max(part.stop for part in parts)
    coding = tags.get(259, 1)
    if coding in _TIFF_FAX_CODINGS:
        raise ImageRejected(
            "unsupported",
            "a TIFF in a fax coding, in which damage cannot be told; export it without that coding",
        )
    compressed = coding != 1
    needed = image.width * image.height * sum(tags.get(258, (1,))) // 8
    listed = sum(part.stop - part.start for part in parts)
    if not compressed and listed < needed:
        raise _refusal("damaged", f"the TIFF lists {listed} of {needed} bytes of pixels")
    _check_zero_tail(data, start, end, image.height, compressed=compressed)


def jpegs_of_tiff(image: TiffImageFile, data: bytes) -> Iterator[bytes]:
    """Its strips or tiles, each as a JPEG of its own; none where they are in another coding."""
    if image.tag_v2.get(259) == _TIFF_JPEG:
        tables = image.tag_v2.get(347, b"").removesuffix(_JPEG_END)
        for part in _parts_of_tiff(image, data):
            jpeg = data[part]
            needed = b"".join(jpeg[one] for one in check_jpeg(jpeg))
            yield tables + needed[2:] if tables else needed


def _parts_of_tiff(image: TiffImageFile, data: bytes) -> list[slice]:
    """Where its strips or tiles lie."""
    tags = image.tag_v2
    tiled = 273 not in tags
    offsets = tags[324 if tiled else 273]
    counts = tags.get(325 if tiled else 279) or (len(data) - offsets[0],)
    return [slice(at, at + count) for at, count in zip(offsets, counts, strict=True)]


def check_bmp_pixels(image: BmpImageFile, data: bytes) -> None:
    """Refuse rows that lie past the end of the file, or that nobody wrote."""
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


def _refusal(reason: str, what: str) -> ImageRejected:
    return ImageRejected(reason, f"{what}; {COPY_AGAIN}")
