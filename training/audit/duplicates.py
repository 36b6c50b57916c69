"""Images that look alike: a perceptual hash finds the pairs, the pixels of two thumbnails confirm them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DISTANCE = 8
"""Bits of 64 in which the hashes may differ. Of 1.1 million pairs of real smear images of different cells two
differ in so few; copies coded anew, resized, recoloured or cut by 4 px differ in 6 at most."""

MIN_CORRELATION = 0.9
"""Of the thumbnails. Those two pairs have 0.67 and 0.85; such copies have 0.95 or more."""

_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that look alike.

    Attributes:
        first, second: their places, first < second.
        distance: bits of 64 in which their hashes differ.
        correlation: of the grey values of their thumbnails, -1 to 1.
        turned: how the second must be turned to look like the first; empty if it need not.
    """

    first: int
    second: int
    distance: int
    correlation: float
    turned: str


def perceptual_hash(thumbnail: NDArray[np.uint8]) -> np.uint64:
    """The 64-bit pHash of a grey image, uint8 [32, 32] (imagehash.phash)."""
    return np.uint64(np.packbits(imagehash.phash(Image.fromarray(thumbnail)).hash).view(">u8")[0])


def near_duplicates(thumbnails: Sequence[NDArray[np.uint8]]) -> list[Pair]:
    """All pairs that look alike, also if one of them was turned by a quarter or mirrored.

    An image of one grey level looks like no other. All pairs are compared: 48,417 took a minute on one core.

    Args:
        thumbnails: uint8 [32, 32], grey.
    """
    if not thumbnails:
        return []
    first = np.stack(thumbnails)
    hashes = np.array([perceptual_hash(one) for one in first])
    best: dict[tuple[int, int], Pair] = {}
    for turned, seen in _orientations(first):
        turned_hashes = hashes if not turned else np.array([perceptual_hash(one) for one in seen])
        for i, j, distance in _close(hashes, turned_hashes):
            correlation = _correlation(first[i], seen[j])
            known = best.get((i, j))
            if correlation >= MIN_CORRELATION and (known is None or correlation > known.correlation):
                best[i, j] = Pair(i, j, distance, correlation, turned)
    return [best[key] for key in sorted(best)]


def _orientations(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for mirrored, seen in (("", thumbnails), ("mirrored", thumbnails[:, :, ::-1])):
        for quarters in range(4):
            words = [mirrored] * bool(mirrored) + [f"turned by {90 * quarters}°"] * bool(quarters)
            yield " and ".join(words), np.ascontiguousarray(np.rot90(seen, quarters, axes=(1, 2)))


def _close(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(hashes), _BLOCK):
        distances = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ others[None, start:])
        for row, column in np.argwhere(distances <= MAX_DISTANCE):
            if column > row:
                yield start + int(row), start + int(column), int(distances[row, column])


def _correlation(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    x, y = (values.astype(np.float64) - values.mean() for values in (a, b))
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else 0.0
