"""Image files with damage: what disks, networks, and programs that lie in headers leave behind."""

import io
import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_SIZES = (0, 1, 7, 9_000, 19_999, 20_001, 65_535)


def every_format(image: Image.Image) -> dict[str, bytes]:
    """An image in all formats and codings that the station reads."""
    grey, palette = image.convert("L"), image.quantize(64)
    wide = Image.frombytes("I;16", image.size, grey.tobytes() * 2)
    transparent = image.convert("RGBA")
    kinds: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "jpeg": (image, "JPEG", {"quality": 90}),
        "progressive jpeg": (image, "JPEG", {"progressive": True}),
        "grey jpeg": (grey, "JPEG", {}),
        "jpeg with restarts": (image, "JPEG", {"restart_marker_rows": 1}),
        "jpeg with exif": (image, "JPEG", {"exif": _turned()}),
        "png": (image, "PNG", {}),
        "palette png": (palette, "PNG", {}),
        "16-bit png": (wide, "PNG", {}),
        "transparent png": (transparent, "PNG", {}),
        "raw tiff": (image, "TIFF", {}),
        "16-bit tiff": (wide, "TIFF", {}),
        "bmp": (image, "BMP", {}),
        "palette bmp": (palette, "BMP", {}),
    }
    for coding in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        kinds[f"{coding} tiff"] = (image, "TIFF", {"compression": coding})
    return {name: _encoded(*kind) for name, kind in kinds.items()}


def _encoded(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return exif


def mutate(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One kind of damage, chosen at random: its name, and the damaged file."""
    name = rng.choice(list(_DAMAGE))
    return name, _DAMAGE[name](data, rng)


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_header(data: bytes, rng: random.Random) -> bytes:
    head = min(len(data), rng.choice((64, 256, 700)))
    return _flip(data[:head], rng) + data[head:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _zeros(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.choice((1, 16, 512, 4096, len(data))))
    return data[:begin] + bytes(end - begin) + data[end:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.choice((16, 512, 4096)))
    return data[:begin] + rng.randbytes(end - begin) + data[end:]


def _shuffle(data: bytes, rng: random.Random) -> bytes:
    """Blocks of a file that a copy wrote in the wrong order."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    first, second = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return b"".join(blocks)


def _repeat(data: bytes, rng: random.Random) -> bytes:
    begin = rng.randrange(len(data))
    return data[:begin] + data[: rng.randrange(len(data))] + data[begin:]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Another number in the first or last bytes, where counts, lengths and offsets stand."""
    number, code = rng.choice(_NUMBERS), rng.choice(("<H", ">H", "<I", ">I"))
    raw = struct.pack(code, number & (0xFFFF if code[1] == "H" else 0xFFFFFFFF))
    at = rng.randrange(min(len(data), 400))
    if rng.random() < 0.3:
        at = max(0, len(data) - at - len(raw))
    return data[:at] + raw + data[at + len(raw) :]


def _size(data: bytes, rng: random.Random) -> bytes:
    """A header that tells of another size than the pixels have."""
    width, height = rng.choice(_SIZES), rng.choice(_SIZES)
    if data.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<ii", width, rng.choice((1, -1)) * height) + data[26:]
    if data.startswith(b"\xff\xd8"):
        at = next((data.find(bytes((0xFF, mark))) for mark in (0xC0, 0xC2) if bytes((0xFF, mark)) in data), 2)
        return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    return _tiff_entry(data, rng, (256, 257), rng.choice(_SIZES))


def _tag(data: bytes, rng: random.Random) -> bytes:
    """Another value in one entry of a TIFF's directory; for other formats another number."""
    if not data.startswith(b"II*\0"):
        return _number(data, rng)
    return _tiff_entry(data, rng, (), rng.choice((*_NUMBERS, rng.randrange(len(data)))))


def _tiff_entry(data: bytes, rng: random.Random, tags: tuple[int, ...], value: int) -> bytes:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    places = [at + 2 + 12 * entry for entry in range(count)]
    if tags:
        places = [place for place in places if struct.unpack_from("<H", data, place)[0] in tags]
    place = rng.choice(places)
    if not tags and rng.random() < 0.4:  # its type or count instead of its value
        place -= 4 if rng.random() < 0.5 else 6
        return data[: place + 8] + struct.pack("<H", value & 0xFFFF) + data[place + 10 :]
    return data[: place + 8] + struct.pack("<I", value) + data[place + 12 :]


_DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits flipped": _flip,
    "bits of the header flipped": _flip_header,
    "cut": _cut,
    "zeros": _zeros,
    "noise": _noise,
    "blocks exchanged": _shuffle,
    "a piece repeated": _repeat,
    "a wrong number": _number,
    "a wrong size": _size,
    "a wrong tag": _tag,
}
