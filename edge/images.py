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
    unsupported   float, 32-bit, 12-bit and signed samples, 16-bit white-is-zero, uncoded planes of 16 bits
                  or white-is-zero, Lab, run-length BMP, 16-bit PNG with a transparent colour, JPEG of a
                  subsampling that TurboJPEG does not know.

What counts as damage, and what damage cannot be seen, is said in `edge.image_damage`.
"""

import io
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from edge.errors import ImageRejected
from edge.image_damage import (
    COPY_AGAIN,
    check_bmp_pixels,
    check_jpeg,
    check_png,
    check_tiff_directory,
    check_tiff_pixels,
    jpegs_of_tiff,
    tells_of_lost_pixels,
)

# Opened by class and not by Image.open: that one hides why a file is refused, and compares the size with
# a process-wide limit of its own before ours can be asked.
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
}
_ADVICE = (
    dict.fromkeys(("empty", "truncated", "damaged"), COPY_AGAIN)
    | dict.fromkeys(("not an image", "unsupported"), "export it as 8-bit RGB in JPEG, PNG, TIFF or BMP")
    | {"too large": "export a smaller field or raise the limit in the settings"}
)
_MAGICS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"} | dict.fromkeys(
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"
)
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})

_RGB_READY_MODES = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr"})
_ORIENTATION, _UPRIGHT = 0x0112, 1
"""The EXIF tag, and the value of an image that need not be turned."""
_TILE_SIDES = (322, 323)
"""The tags of width and height."""
_EIGHT_BITS_OF_SIXTEEN = ((np.arange(65_536) + 128) // 257).astype(np.uint8)

_UNSUPPORTED_BY_PILLOW = re.compile(r"cannot handle|unknown pixel mode|unsupported|not yet supported", re.I)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a file may ask of the station's memory.

    80 megapixels are more than the largest microscope cameras have (about 60) and less than a whole slide.
    One such image takes about 0.8 GB while it is decoded: 4 bytes a pixel in Pillow, 3 in the array, and
    a copy between. The number also stays below the 89 megapixels at which Pillow begins to warn.
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
    if kind == "JPEG":
        check_jpeg(data)
    elif kind == "PNG":
        check_png(data)
    elif kind == "TIFF":
        check_tiff_directory(data)
    image = _OPENERS[kind](io.BytesIO(data))
    width, height = image.size
    if max(width, height) > limits.max_side_px:
        raise _refusal("too large", f"it is {width} x {height} px, max_side_px is {limits.max_side_px}")
    if (pixels := width * height) > limits.max_pixels:
        said = f"it is {width} x {height} = {pixels} px, max_pixels is {limits.max_pixels}"
        raise _refusal("too large", said)
    _check_samples(image, data, kind)
    if isinstance(image, TiffImageFile):
        _check_tiles(image, limits)
        check_tiff_pixels(image, data)
        for jpeg in jpegs_of_tiff(image, data):
            _require_all_pixels(jpeg, image.mode)
    elif isinstance(image, BmpImageFile):
        check_bmp_pixels(image, data)
    if isinstance(image, JpegImageFile) and (rgb := _upright_jpeg(image, data)) is not None:
        return rgb
    image.load()
    with suppress(Exception):  # an unreadable EXIF block loses no pixel, and cells have no upright
        ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image, kind)


def _upright_jpeg(image: JpegImageFile, data: bytes) -> NDArray[np.uint8] | None:
    """The pixels of an upright grey or RGB JPEG; None for others and where libjpeg finds harmless faults.

    Pillow has the same pixels, in 1.5 times the time, and drops the warnings, so every JPEG comes by here.
    """
    try:
        rgb = _decoded_strictly(data, image.mode)
    except ValueError:
        _require_all_pixels(b"".join(data[part] for part in check_jpeg(data)), image.mode)
        return None
    with suppress(Exception):  # an unreadable EXIF block
        if image.mode in ("L", "RGB") and image.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT:
            rgb.flags.writeable = False
            return rgb
    return None


def _decoded_strictly(jpeg: bytes, mode: str) -> NDArray[np.uint8]:
    """Of a mode of Pillow. ValueError: libjpeg warns of something."""
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(jpeg, "CMYK" if mode == "CMYK" else "RGB", strict=True)
    return pixels


def _require_all_pixels(jpeg: bytes, mode: str) -> None:
    try:
        _decoded_strictly(jpeg, mode)
    except ValueError as fault:
        if tells_of_lost_pixels(str(fault)):
            raise _refusal("damaged", f"the JPEG decoder says {fault}") from fault
        if "subsampling" in str(fault):
            said = "the file is a JPEG of rare subsampling, in which damage cannot be told"
            raise _refusal("unsupported", said) from fault


def _check_tiles(image: TiffImageFile, limits: ImageLimits) -> None:
    """Refuse tiles that are themselves larger than an image may be: each is decoded whole."""
    width, height = (image.tag_v2.get(tag, 1) for tag in _TILE_SIDES)
    if max(width, height) > limits.max_side_px or width * height > limits.max_pixels:
        said = f"its tiles are {width} x {height} px, max_side_px is {limits.max_side_px}"
        raise _refusal("too large", f"{said} and max_pixels {limits.max_pixels}")


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
        elif image.tile[0][0] == "raw" and tags.get(284) == 2 and (bits not in (1, 8) or white_is_zero):
            fault = f"a TIFF of uncoded planes of {bits} bits"  # of which Pillow forgets what is not plain
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
