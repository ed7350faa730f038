"""Manifest to batches: uint8 (N, 3, H, W) photos and int64 (N,) class indices.

Training photos are decoded, then augmented. Validation and test photos go through ``catdog.image.load_pixels``, the
function that every consumer calls, so that what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.dataset.inputs import GivenSource
from catdog.dataset.progress import show_progress
from catdog.errors import DataError, SettingsError
from catdog.image import decode, load_pixels, read_file
from catdog.machine import usable_cores
from catdog.training.augment import augmentation
from catdog.training.settings import Settings

Batch = tuple[Tensor, Tensor]


class Photos(Dataset[tuple[Tensor, int]]):
    """Photos of one split as (uint8 (3, H, W), class index); a ``transform`` means training."""

    def __init__(self, manifest: Manifest, photos: Sequence[Photo], contract: Contract, transform: v2.Transform | None):
        self.paths = [str(manifest.root / photo.path) for photo in photos]
        self.labels = [contract.class_names.index(photo.label) for photo in photos]
        self.contract = contract
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.paths[index], self.labels[index]
        if self.transform is None:
            return _to_tensor(load_pixels(path, self.contract)), label
        # Twice the size leaves a random crop of a quarter of the area at full resolution.
        image = decode(read_file(path), path, at_least=2 * self.contract.input_size)
        pixels: Tensor = self.transform(_to_tensor(np.asarray(image)))
        return pixels.contiguous(), label


def loader(photos: Photos, settings: Settings, *, shuffle: bool) -> DataLoader[tuple[Tensor, int]]:
    """Batches of ``photos``; the order and the augmentation of a shuffled one follow ``settings.seed``."""
    workers = min(usable_cores(), 8) if settings.workers < 0 else settings.workers
    return DataLoader(
        photos,
        batch_size=settings.batch_size,
        shuffle=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        # A last batch of one photo would break batch norm's statistics.
        drop_last=shuffle and len(photos) > settings.batch_size,
        generator=torch.Generator().manual_seed(settings.seed) if shuffle else None,
    )


def training_photos(manifest: Manifest, contract: Contract, settings: Settings) -> Photos:
    """The augmented training split."""
    return Photos(manifest, manifest.of("train"), contract, augmentation(settings))


def plain_photos(manifest: Manifest, contract: Contract, split: Split) -> Photos:
    """A split as consumers will see it."""
    return Photos(manifest, manifest.of(split), contract, None)


def open_data(settings: Settings, scratch: str) -> Manifest:
    """The dataset that the settings name; raw sources are checked and split first, into ``scratch``.

    ``--validation`` and ``--test`` (SageMaker's channels) fix the split of their photos. Raises DataError or
    SettingsError when there is nothing to learn from or to validate on.
    """
    if settings.data is None:
        raise SettingsError("--data is needed: a dataset made by catdog.dataset, a folder of photos or an archive")
    apart: list[tuple[str, Split]] = []
    if settings.validation:
        apart.append((settings.validation, "val"))
    if settings.test:
        apart.append((settings.test, "test"))
    if is_dataset(settings.data) and not apart:
        manifest = Manifest.read(settings.data)
    else:
        # Channels beside it make the data a given training split; alone, it is split by its own layout or by hash.
        source: GivenSource = (settings.data, "train") if apart else settings.data
        with show_progress(Console(stderr=True)) as progress:
            manifest = build([source, *apart], Path(scratch) / "dataset", progress=progress)
    for split in ("train", "val"):
        present = {photo.label for photo in manifest.of(split)}
        if missing := [name for name in manifest.class_names if name not in present]:
            raise DataError(f"{settings.data}: no photo of {missing[0]!r} in the {split} split; add photos")
    return manifest


def _to_tensor(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    # A copy: PIL's buffer is read-only, and torch tensors are not.
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
