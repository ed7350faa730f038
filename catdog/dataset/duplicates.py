"""Which photos are the same picture: grey thumbnails -> clusters. Pure numpy; opens no file.

    thumbnails (N, 32, 32) -> 64-bit perceptual hashes -> candidate pairs -> verified pairs -> clusters

A thumbnail is square whatever the photo's aspect ratio, so a copy squashed by a resize is found like any other.
Not found, by design: crops, mirror images and other photos of the same animal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

THUMBNAIL_PX: Final = 32  # side of the square grey thumbnail, as in the pHash of Zauner (2010), section 3.2.1
Thumbnails = npt.NDArray[np.uint8]
"""uint8 (N, 32, 32), grey, values in [0, 255]."""

# Measured on 20,804 photos: 19,000 of Kaggle's at 200x200, the originals of 1,000 of them (75 to 500 px, any aspect
# ratio), 557 web photos and 247 of Oxford's; tests/real/test_dataset_real.py measures again.
#   recall         1,000 of 1,000 pairs of original and squashed copy; at most 2 bits apart, correlation 0.9994 or more
#   false merges   none: 48 other pairs merge, all true copies to the eye, at most 4 bits apart, 0.997 or more
#   nearest miss   of 216 million pairs one that is no copy is within 7 bits (6 bits, 0.83), and none over 0.93
# Of the 1,000 originals made worse, found: all at JPEG quality 20, at WebP quality 50, as 64x64 at quality 50, and as
# 100x100 at quality 20; 970 at 30% more brightness; 807 with 2% cropped off each edge, 8 with 5%.
# Time: 2 s for 100,000 photos on one core.
MAX_BITS: Final = 7  # of 64 that the hashes of two copies may differ in; the most that the lookup below guarantees
MIN_CORRELATION: Final = 0.95  # of two copies' thumbnails, Pearson's, [-1, 1]

# Multi-index hashing (Norouzi, Punjani, Fleet 2012, section 3): of 4 bands of 16 bits, two hashes at most 7 bits
# apart have one that differs in at most 1 bit. So 4 tables, each asked for 1 + 16 keys a photo, miss no pair.
_BANDS: Final = 4
_BAND_BITS: Final = 16
_PROBES: Final = (0, *(1 << bit for bit in range(_BAND_BITS)))
_CHUNK: Final = 1 << 18  # candidate pairs looked at together: bounds the memory
_VERIFIED: Final = 1 << 13  # candidate pairs verified together
_LOW: Final = 8  # lowest frequencies kept each way: 8 x 8 = 64 bits
_BIT_COUNTS: Final = np.array([bin(value).count("1") for value in range(1 << _BAND_BITS)], np.uint8)


def clusters(digests: Sequence[str], thumbnails: Thumbnails) -> npt.NDArray[np.int64]:
    """For each of N photos the index of its cluster's first photo, int64 (N,).

    Photos with equal ``digests`` (of their bytes) are copies, and so are those with equal or nearly equal thumbnails.
    """
    first: dict[str | bytes, int] = {}
    # By thumbnail too: a flat one has no correlation with anything, and equal ones would only be slow to compare.
    same_file = [first.setdefault(digest, i) for i, digest in enumerate(digests)]
    same_look = np.array([first.setdefault(thumbnails[i].tobytes(), i) for i in same_file], np.int64)
    distinct = np.unique(same_look)
    parents = np.arange(len(digests))
    parents[distinct] = distinct[_join_near_copies(thumbnails[distinct])]
    return parents[same_look]


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


def _join_near_copies(thumbnails: Thumbnails) -> npt.NDArray[np.int64]:
    """Return for each photo the index of the first photo that it is joined to by near copies, int64 (N,)."""
    hashes = perceptual_hashes(thumbnails)
    # The first photo of a hash stands for its copies, or 20,000 frames of a still camera would be 200 million pairs.
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    parents = np.arange(len(thumbnails))  # a forest whose trees are the clusters; between steps, each is a star
    parents = np.where(_look_the_same(thumbnails, parents, first[which]), first[which], parents)
    standing = np.flatnonzero(parents == np.arange(len(parents)))
    for left, right in _list_candidates(hashes[standing]):
        i, j = standing[left], standing[right]
        apart = parents[i] != parents[j]
        i, j = i[apart], j[apart]
        same = _look_the_same(thumbnails, i, j)
        for a, b in zip(i[same].tolist(), j[same].tolist(), strict=True):
            low, high = sorted((_find_root(parents, a), _find_root(parents, b)))
            parents[high] = low
        while (parents != (roots := parents[parents])).any():
            parents = roots
    return parents


def _find_root(parents: npt.NDArray[np.int64], i: int) -> int:
    while (parent := int(parents[i])) != i:
        i = parent
    return i


def _list_candidates(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield all pairs i < j at most MAX_BITS apart, in chunks; a pair may come more than once."""
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
                close = _count_differing_bits(hashes[i], hashes[j]) <= MAX_BITS
                yield i[close], j[close]


def _count_differing_bits(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return how many bits differ, 0..64. (``np.bitwise_count`` needs numpy 2.)"""
    words = (left ^ right).view(np.uint16).reshape(-1, 4)
    bits: npt.NDArray[np.int64] = _BIT_COUNTS[words].sum(axis=1, dtype=np.int64)
    return bits


def _look_the_same(thumbnails: Thumbnails, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whether the photos of each pair of indices look the same, bool (len(i),)."""
    answer = np.empty(len(i), np.bool_)
    for start in range(0, len(i), _VERIFIED):
        part = slice(start, start + _VERIFIED)
        answer[part] = _correlate(thumbnails[i[part]], thumbnails[j[part]]) >= MIN_CORRELATION
    return answer


def _correlate(left: Thumbnails, right: Thumbnails) -> npt.NDArray[np.float32]:
    """Return Pearson's correlation of each pair, float32 (N,) in [-1, 1]; 0 where a thumbnail is of one flat grey."""
    a, b = (side.reshape(len(side), THUMBNAIL_PX**2).astype(np.float32) for side in (left, right))
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    result: npt.NDArray[np.float32] = (a * b).sum(axis=1) / np.maximum(norms, 1e-6)
    return result
