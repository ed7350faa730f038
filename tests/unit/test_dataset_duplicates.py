"""Which thumbnails are the same picture. Made from noise of low frequency, which hashes like photos do."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from catdog.dataset.duplicates import MAX_BITS, Thumbnails, _list_candidates, clusters, perceptual_hashes


def pictures(count: int, seed: int = 0) -> Thumbnails:
    """uint8 (count, 32, 32): smooth random pictures, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 10, 10), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in coarse])


def digests(count: int) -> list[str]:
    return [f"{i:064x}" for i in range(count)]


def test_different_pictures_stay_apart() -> None:
    assert clusters(digests(500), pictures(500)).tolist() == list(range(500))


def test_exact_copies_are_joined_by_their_bytes() -> None:
    assert clusters(["a", "b", "a", "b", "c"], pictures(5)).tolist() == [0, 1, 0, 1, 4]


def test_near_copies_are_joined_and_the_first_names_them() -> None:
    originals = pictures(200)
    noise = np.random.default_rng(1).integers(-3, 4, originals.shape)
    copies = np.clip(originals.astype(int) + noise, 0, 255).astype(np.uint8)
    found = clusters(digests(400), np.concatenate([originals, copies]))
    assert found.tolist() == [*range(200), *range(200)]


def test_equal_hashes_alone_do_not_join() -> None:
    """The second look. The hash sees low frequencies only; a checkerboard over the picture is not among them."""
    original = (pictures(1) // 5 + 100).astype(np.uint8)
    checked = original + np.where(np.indices((32, 32)).sum(0) % 2, 60, -60)
    both = np.concatenate([original, checked.astype(np.uint8)])
    left, right = perceptual_hashes(both)
    assert int(left ^ right).bit_count() <= MAX_BITS
    assert clusters(digests(2), both).tolist() == [0, 1]


def test_flat_pictures_join_only_their_equals() -> None:
    grey = np.stack([np.full((32, 32), value, np.uint8) for value in (0, 128, 128, 255)])
    assert clusters(digests(4), grey).tolist() == [0, 1, 1, 3]


def test_many_frames_of_one_scene_are_one_cluster() -> None:
    noise = np.random.default_rng(2).integers(-2, 3, (3000, 32, 32))
    frames = np.clip(pictures(1).astype(int) + noise, 0, 255).astype(np.uint8)
    assert set(clusters(digests(3000), frames).tolist()) == {0}


def test_no_photos_no_clusters() -> None:
    assert clusters([], pictures(1)[:0]).tolist() == []


@pytest.mark.parametrize("bits", range(MAX_BITS + 2))
def test_the_lookup_misses_no_pair_up_to_its_limit(bits: int) -> None:
    rng = np.random.default_rng(bits)
    left = rng.integers(0, 2**63, 300, dtype=np.uint64)
    flips = [sum(1 << int(b) for b in rng.choice(64, bits, replace=False)) for _ in left]
    hashes = np.concatenate([left, left ^ np.array(flips, np.uint64)])
    found = {(int(a), int(b)) for i, j in _list_candidates(hashes) for a, b in zip(i, j, strict=True)}
    expected = {(i, i + 300) for i in range(300)} if bits <= MAX_BITS else set()
    assert found == expected  # random hashes are some 32 bits apart, so no other pair is within 7


def test_the_hash_ignores_brightness_and_contrast() -> None:
    original = pictures(50).astype(np.float64)
    changed = (original * 0.5 + 40).astype(np.uint8)
    difference = perceptual_hashes(original.astype(np.uint8)) ^ perceptual_hashes(changed)
    assert max(int(d).bit_count() for d in difference) <= 4  # what rounding to 8 bits leaves near the median
