"""Which photos are the same picture: grey thumbnails -> clusters. Pure numpy; opens no file.

    thumbnails (N, 32, 32) -> 64-bit perceptual hashes -> candidate pairs -> verified pairs -> clusters

A thumbnail is square whatever the photo's aspect ratio, so a copy squashed by a resize is found like any other.
Not found, by design: crops, mirror images and other photos of the same animal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

THUMBNAIL_PX: Final = 32  # side of the square grey thumbnail, as in the pHash of Zauner (2010), section 3.2.1
Thumbnails = npt.NDArray[np.uint8]
"""uint8 (N, 32, 32), grey, values in [0, 255]."""

MAX_BITS: Final = 7  # of 64 that the hashes of two copies may differ in
MIN_CORRELATION: Final = 0.95  # of two copies' thumbnails, Pearson's, [-1, 1]

# Multi-index hashing (Norouzi, Punjani, Fleet 2012, section 3): of 4 bands of 16 bits, two hashes at most 7 bits
# apart have one that differs in at most 1 bit. So 4 tables, each asked for 1 + 16 keys a photo, miss no pair.
_BANDS: Final = 4
_BAND_BITS: Final = 16
_PROBES: Final = (0, *(1 << bit for bit in range(_BAND_BITS)))
_CHUNK: Final = 1 << 18  # candidate pairs looked at together: bounds the memory to some 500 MB even if all are alike
_LOW: Final = 8  # lowest frequencies kept each way: 8 x 8 = 64 bits
_BIT_COUNTS: Final = np.array([bin(value).count("1") for value in range(1 << _BAND_BITS)], np.uint8)


def clusters(digests: list[str], thumbnails: Thumbnails) -> npt.NDArray[np.int64]:
    """For each of N photos the index of its cluster's first photo, int64 (N,).

    Photos with equal ``digests`` (of their bytes) are exact copies; near copies are told by their thumbnails.
    """
    first: dict[str, int] = {}
    representative = np.array([first.setdefault(digest, i) for i, digest in enumerate(digests)], np.int64)
    distinct = np.array(sorted(first.values()), np.int64)
    parents = np.arange(len(digests))
    parents[distinct] = distinct[_near(thumbnails[distinct])]
    return parents[representative]


def perceptual_hashes(thumbnails: Thumbnails) -> npt.NDArray[np.uint64]:
    """pHash, uint64 (N,): the signs of the 64 lowest DCT-II terms against their median (Zauner 2010, section 3.2.1).

    The constant term takes no part in the median, as it would only say how bright the photo is.
    """
    positions = 2 * np.arange(THUMBNAIL_PX) + 1
    basis = np.cos(np.pi * positions * np.arange(_LOW)[:, None] / (2 * THUMBNAIL_PX)).astype(np.float32)
    hashes = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), 4096):
        part = thumbnails[start : start + 4096].astype(np.float32)
        low = (basis @ part @ basis.T).reshape(len(part), _LOW * _LOW)
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
        hashes[start : start + 4096] = np.packbits(bits, axis=1).view(">u8")[:, 0]
    return hashes


def _near(thumbnails: Thumbnails) -> npt.NDArray[np.int64]:
    """For each photo the index of the first photo that it is joined to by near copies, int64 (N,)."""
    parents = np.arange(len(thumbnails))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = int(parents[i])
        return i

    for left, right in _candidates(perceptual_hashes(thumbnails)):
        apart = parents[left] != parents[right]  # spares most of the work where many photos are alike
        left, right = left[apart], right[apart]
        for start in range(0, len(left), 8192):
            i, j = left[start : start + 8192], right[start : start + 8192]
            same = _correlations(thumbnails[i], thumbnails[j]) >= MIN_CORRELATION
            for a, b in zip(i[same].tolist(), j[same].tolist(), strict=True):
                low, high = sorted((root(a), root(b)))
                parents[high] = low
    return np.array([root(i) for i in range(len(parents))], np.int64)


def _candidates(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """All pairs i < j at most MAX_BITS apart, in chunks; a pair may come more than once."""
    for band in range(_BANDS):
        keys = ((hashes >> np.uint64(band * _BAND_BITS)) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange((1 << _BAND_BITS) + 1))
        for probe in _PROBES:
            begins, ends = starts[keys ^ probe], starts[(keys ^ probe) + 1]
            totals = np.concatenate([[0], np.cumsum(ends - begins)])  # pairs before photo i's own
            for low in range(0, int(totals[-1]), _CHUNK):
                pair = np.arange(low, min(low + _CHUNK, int(totals[-1])))
                i = np.searchsorted(totals, pair, side="right") - 1
                j = order[begins[i] + pair - totals[i]]
                i, j = i[i < j], j[i < j]
                close = _distances(hashes[i], hashes[j]) <= MAX_BITS
                yield i[close], j[close]


def _distances(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Bits that differ, 0..64. (``np.bitwise_count`` needs numpy 2.)"""
    words = (left ^ right).view(np.uint16).reshape(-1, 4)
    return _BIT_COUNTS[words].sum(axis=1, dtype=np.int64)


def _correlations(left: Thumbnails, right: Thumbnails) -> npt.NDArray[np.float32]:
    """Pearson's correlation of each pair, float32 (N,) in [-1, 1]; 0 where a thumbnail is of one flat grey."""
    a, b = (side.reshape(len(side), -1).astype(np.float32) for side in (left, right))
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    result: npt.NDArray[np.float32] = (a * b).sum(axis=1) / np.maximum(norms, 1e-6)
    return result
