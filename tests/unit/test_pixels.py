"""The cache of decoded photos: right, found again, bounded, and never in the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from catdog.contract import Contract
from catdog.dataset import Manifest, Photo
from catdog.errors import DataError, ImageError
from catdog.image import load_pixels
from catdog.training.data import (
    DeviceArray,
    Examples,
    hold_on_device,
    make_plain_batches,
    make_training_batches,
    order_epochs,
    read_batches,
)
from catdog.training.pixels import DecodedPhotos, MappedArray, open_pixels
from catdog.training.processes import Shard
from catdog.training.settings import Settings

CONTRACT = Contract(class_names=("cat", "dog"), input_size=16)
BYTES = 6 * 16 * 16 * 3


@pytest.fixture
def manifest(tmp_path: Path, photo: Callable[..., bytes]) -> Manifest:
    photos = []
    for i in range(6):
        data = photo((40 * i, 10, 250 - 40 * i))
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / f"photos/{i}.png").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        photos.append(Photo(f"photos/{i}.png", ("cat", "dog")[i % 2], "train", 32, 24, digest, digest[:16], "photos"))
    return Manifest(tmp_path, ("cat", "dog"), tuple(photos))


def _open(manifest: Manifest, cache: Path | None, budget: int = 10**9) -> MappedArray | DecodedPhotos:
    return open_pixels(manifest, manifest.photos, CONTRACT, cache, budget)


def test_the_cache_holds_what_every_consumer_sees(manifest: Manifest, tmp_path: Path) -> None:
    cached = _open(manifest, tmp_path / "cache")
    assert isinstance(cached, MappedArray)
    expected = np.stack([load_pixels(manifest.root / p.path, CONTRACT) for p in manifest.photos])
    np.testing.assert_array_equal(cached.read(range(6)), expected)
    np.testing.assert_array_equal(cached.read([4, 0]), expected[[4, 0]])
    copy = cached.read([1])
    copy[:] = 0  # a batch may be changed in place; the cache isn't
    np.testing.assert_array_equal(cached.read([1])[0], expected[1])
    np.testing.assert_array_equal(_open(manifest, None).read([4, 0]), expected[[4, 0]])


def test_a_second_run_decodes_nothing_and_other_content_or_rules_are_another_cache(
    manifest: Manifest, tmp_path: Path, photo: Callable[..., bytes]
) -> None:
    cache = tmp_path / "cache"
    first = _open(manifest, cache).read([0])
    originals = [(manifest.root / p.path).read_bytes() for p in manifest.photos]
    for p in manifest.photos:
        (manifest.root / p.path).unlink()
    np.testing.assert_array_equal(_open(manifest, cache).read([0]), first)
    for p, data in zip(manifest.photos, originals, strict=True):
        (manifest.root / p.path).write_bytes(data)
    open_pixels(manifest, manifest.photos, CONTRACT.with_(input_size=20), cache, 10**9)
    open_pixels(manifest, manifest.photos[:3], CONTRACT, cache, 10**9)
    changed = photo("yellow")
    (manifest.root / "photos/0.png").write_bytes(changed)
    other = replace(manifest.photos[0], sha256=hashlib.sha256(changed).hexdigest())
    seen = open_pixels(manifest, [other, *manifest.photos[1:]], CONTRACT, cache, 10**9).read([0])
    assert not np.array_equal(seen, first)
    assert len(list(cache.glob("*.pixels"))) == 4


def test_a_photo_that_is_not_the_manifest_s_is_refused_and_leaves_nothing(
    manifest: Manifest, tmp_path: Path, photo: Callable[..., bytes]
) -> None:
    (tmp_path / "photos/3.png").write_bytes(photo("white"))
    with pytest.raises(DataError, match=r"3\.png: not the photo that the manifest describes"):
        _open(manifest, tmp_path / "cache")
    (tmp_path / "photos/3.png").unlink()
    with pytest.raises(ImageError, match=r"3\.png: no such file"):
        _open(manifest, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(manifest: Manifest, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert isinstance(_open(manifest, cache, BYTES - 1), DecodedPhotos)
    assert not list(cache.glob("*.pixels"))
    sizes = [16, 15, 14]
    files = []
    for age, size in zip((300, 200, 100), sizes, strict=True):
        before = set(cache.glob("*.pixels"))
        open_pixels(manifest, manifest.photos, CONTRACT.with_(input_size=size), cache, 10**9)
        (new,) = set(cache.glob("*.pixels")) - before
        os.utime(new, (new.stat().st_atime, new.stat().st_mtime - age))
        files.append(new)
    _open(manifest, cache)  # used again, so no longer the oldest
    open_pixels(manifest, manifest.photos, CONTRACT.with_(input_size=13), cache, 3 * BYTES)
    assert [file.exists() for file in files] == [True, False, True]


def test_a_truncated_or_unwritable_cache_is_no_obstacle(manifest: Manifest, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = _open(manifest, cache).read(range(6))
    (file,) = cache.glob("*.pixels")
    file.write_bytes(file.read_bytes()[:-5])
    np.testing.assert_array_equal(_open(manifest, cache).read(range(6)), expected)
    (tmp_path / "a-file").write_text("not a folder")
    assert isinstance(_open(manifest, tmp_path / "a-file"), DecodedPhotos)


def test_abandoned_half_written_caches_go(manifest: Manifest, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    old, new = (cache / f".{digit * 32}.pixels.x.tmp" for digit in "ab")
    for file, age in ((old, 2 * 86400), (new, 60)):
        file.write_bytes(b"half")
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    _open(manifest, cache)
    assert not old.exists()
    assert new.exists(), "another run may be writing it"


def test_in_a_folder_that_is_not_its_own_it_deletes_nothing_else(manifest: Manifest, tmp_path: Path) -> None:
    names = ("art.pixels", ".report.tmp", ".x.pixels.y.tmp", "0123.pixels", "f" * 32 + ".pixels.bak")
    for name in names:
        (tmp_path / name).write_bytes(b"a stranger's")
        os.utime(tmp_path / name, ((tmp_path / name).stat().st_mtime - 9 * 86400,) * 2)
    open_pixels(manifest, manifest.photos, CONTRACT.with_(input_size=15), tmp_path, BYTES)
    assert isinstance(_open(manifest, tmp_path, BYTES), MappedArray), "the other cache made room"
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize("way", ["cached", "ahead", "held", "decoded", "decoded by processes"])
def test_batches_bring_each_photo_with_its_label(manifest: Manifest, tmp_path: Path, way: str) -> None:
    """As a CPU reads them, and as a GPU does whose memory has no room for them, or has room."""
    inputs = _open(manifest, None if way.startswith("decoded") else tmp_path / "cache")
    examples = Examples(inputs, np.array([0, 1, 0, 1, 0, 1]))
    if way == "held":
        examples = hold_on_device(examples, torch.device("cpu"), room_bytes=BYTES)
        assert isinstance(examples.inputs, DeviceArray)
    batches = [[5, 0], [2, 3, 1], [4]]
    settings = Settings(workers=2 if way == "decoded by processes" else 0)
    device = torch.device("meta" if way == "ahead" else "cpu")  # meta: a GPU whose buffers need no pinning
    seen = list(read_batches(examples, iter(batches), settings, device))
    assert [labels.tolist() for _, labels in seen] == [[1, 0], [0, 1, 1], [0]]
    for (images, _), indices in zip(seen, batches, strict=True):
        np.testing.assert_array_equal(images.numpy(), inputs.read(indices))
        images[:] = 0  # a batch may be changed in place
    np.testing.assert_array_equal(examples[range(6)][0].numpy(), inputs.read(range(6)))


def test_cached_photos_and_features_are_held_on_a_gpu_that_has_room(manifest: Manifest, tmp_path: Path) -> None:
    gpu, labels = torch.device("meta"), np.zeros(6, np.int64)
    photos = Examples(_open(manifest, tmp_path / "cache"), labels)
    assert hold_on_device(photos, gpu, room_bytes=BYTES - 1) is photos
    assert hold_on_device(photos, torch.device("cpu")) is photos
    decoded = Examples(_open(manifest, None), labels)
    assert hold_on_device(decoded, gpu, room_bytes=10**9) is decoded
    held = hold_on_device(photos, gpu, room_bytes=BYTES)
    images, targets = held[[4, 0]]
    assert (images.device.type, images.shape, images.dtype) == ("meta", (2, 16, 16, 3), torch.uint8)
    assert targets.device.type == "cpu", "boxes are moved along there"
    (tmp_path / "features").write_bytes(bytes(2 * 600 * 7))
    features = MappedArray(tmp_path / "features", np.float16, (600, 7), writable=True)
    features.array[:] = np.arange(600)[:, None]
    held = hold_on_device(replace(photos, inputs=features), torch.device("cpu"), room_bytes=10**9)
    assert held.inputs.read([599, 3])[:, 0].tolist() == [599, 3]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_each_batch_and_no_photo_is_measured_twice(world: int) -> None:
    whole = make_training_batches(50, 12, seed=7, epoch=3, shard=Shard())
    shared = [make_training_batches(50, 12, 7, 3, Shard(rank, world)) for rank in range(world)]
    assert [sorted(chain.from_iterable(parts)) for parts in zip(*shared, strict=True)] == [
        sorted(batch) for batch in whole
    ]
    assert len({len(part) for parts in shared for part in parts}) == 1
    assert whole != make_training_batches(50, 12, 7, 4, Shard())
    measured = [i for rank in range(world) for batch in make_plain_batches(50, 12, Shard(rank, world)) for i in batch]
    assert sorted(measured) == list(range(50))


def test_the_epochs_of_a_run_follow_one_another() -> None:
    settings = Settings(batch_size=12, seed=7)
    expected = [make_training_batches(50, 12, 7, epoch, Shard(1, 2)) for epoch in (3, 4)]
    assert list(order_epochs(50, settings, range(3, 5), Shard(1, 2))) == [*expected[0], *expected[1]]


def test_few_photos_make_one_batch() -> None:
    assert sorted(make_training_batches(5, 64, 0, 0, Shard())[0]) == [0, 1, 2, 3, 4]
    assert [len(make_training_batches(5, 64, 0, 0, Shard(rank, 2))[0]) for rank in (0, 1)] == [2, 2]
