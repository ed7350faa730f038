"""Decoded photos: uint8 (N, S, S, 3), memory-mapped from a cache that the next run finds again.

Every photo is decoded once, by ``catdog.image.load_pixels``, the function that every consumer calls, so training sees
the same pixels as serving. A cache is named by a hash of what it holds (the photos' contents, in order, and the rule
that turns them into pixels), so it can't be out of date; the least recently used caches make room for new ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catdog.ahead import batches_ahead
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo
from catdog.errors import DataError
from catdog.files import replace_file
from catdog.image import Pixels, load_pixels, read_file

CACHE_VERSION: Final = 1  # part of the name; raise it when the same photo gives other pixels
SPARE_BYTES: Final = 2 * 2**30  # of the disk, that no cache takes
ABANDONED_S: Final = 24 * 3600  # age of a half-written cache that belongs to no run any more
_AHEAD: Final = 256  # photos
_NAME: Final = "[0-9a-f]" * 32 + ".pixels"  # a pattern; nothing else in the folder is ever touched


class MappedArray:
    """An array (n, ...) in a memory-mapped file, which the kernel keeps in memory while there is room."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], writable: bool = False) -> None:
        # Mapped at once: from now on the file may be deleted, to make room for another run's.
        self.array: npt.NDArray[Any] = np.memmap(path, dtype, "r+" if writable else "r", shape=shape)

    def read(self, indices: Sequence[int]) -> npt.NDArray[Any]:
        """Return a copy of these, (n, ...), in this order."""
        return np.asarray(self.array[np.asarray(indices)])


class DecodedPhotos:
    """Photos without a cache: they are decoded whenever they are asked for."""

    def __init__(self, paths: Sequence[str], contract: Contract) -> None:
        self.paths = paths
        self.contract = contract

    def read(self, indices: Sequence[int]) -> Pixels:
        """Return the pixels of these, uint8 (n, S, S, 3), in this order."""
        return np.stack([load_pixels(self.paths[i], self.contract) for i in indices])


Inputs = MappedArray | DecodedPhotos
"""What a batch is read from."""


def open_pixels(
    manifest: Manifest,
    photos: Sequence[Photo],
    contract: Contract,
    folder: Path | None,
    budget_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inputs:
    """Return the pixels of ``photos`` at ``contract``'s size, from a cache in ``folder``, which is made where needed.

    It is made where ``folder`` holds no more than ``budget_bytes`` with it, after deleting the caches that were not
    used for longest, and the disk keeps 2 GiB. Otherwise, and without a ``folder``, photos are decoded each time.
    Raises ImageError for a photo that can't be read, and DataError for one that isn't the one in the manifest.
    """
    decoded = DecodedPhotos([str(manifest.root / photo.path) for photo in photos], contract)
    size = contract.input_size
    needed = len(photos) * size * size * 3
    if folder is None or not photos:
        return decoded
    path = folder / f"{_hash_content(photos, contract)}.pixels"
    try:
        if not (path.exists() and path.stat().st_size == needed):
            if not _make_room(folder, needed, budget_bytes):
                return decoded
            with replace_file(path) as temporary:
                _fill(temporary, decoded, photos, progress)
        os.utime(path)
        return MappedArray(path, np.uint8, (len(photos), size, size, 3))
    except OSError:  # a read-only or full disk; a cache is no reason to fail
        return decoded


def _hash_content(photos: Sequence[Photo], contract: Contract) -> str:
    rule = (CACHE_VERSION, contract.input_size, contract.resize, contract.interpolation, contract.crop)
    digest = hashlib.sha256(repr(rule).encode())
    for photo in photos:
        digest.update(bytes.fromhex(photo.sha256))
    return digest.hexdigest()[:32]


def _make_room(folder: Path, needed: int, budget: int) -> bool:
    """Delete the caches that were not used for longest, and return whether ``needed`` bytes fit."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, info in _list_files(folder, f".{_NAME}.*.tmp"):
        if time.time() - info.st_mtime > ABANDONED_S:
            file.unlink(missing_ok=True)
    oldest_first = sorted(_list_files(folder, _NAME), key=lambda found: found[1].st_mtime)
    used = sum(info.st_size for _, info in oldest_first)
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if needed > min(budget, free + used):
        return False
    for file, info in oldest_first:
        if used + needed <= budget and needed <= free:
            break
        file.unlink(missing_ok=True)  # a run that has it mapped keeps it until it ends
        used, free = used - info.st_size, free + info.st_size
    return True


def _list_files(folder: Path, pattern: str) -> list[tuple[Path, os.stat_result]]:
    """Return files with their status, without those that another run deletes meanwhile."""
    found = []
    for file in folder.glob(pattern):
        with suppress(FileNotFoundError):
            found.append((file, file.stat()))
    return found


def _fill(path: Path, decoded: DecodedPhotos, photos: Sequence[Photo], progress: Callable[[int, int], None]) -> None:
    def load(index: int) -> Pixels:
        data = read_file(decoded.paths[index])
        if hashlib.sha256(data).hexdigest() != photos[index].sha256:
            raise DataError(
                f"{decoded.paths[index]}: not the photo that the manifest describes; build the dataset again"
            )
        return load_pixels(data, decoded.contract, decoded.paths[index])

    with path.open("wb") as file:
        done = 0
        for batch in batches_ahead(load, range(len(photos)), _AHEAD):
            for image in batch:
                file.write(image.tobytes())
            done += len(batch)
            progress(done, len(photos))
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave a file of the right size without its content
