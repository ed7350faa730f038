"""Which photos calibrate and which ones prove, and their pixels.

Calibration sees the training split only. Which layers stay in float is decided on the training and validation splits.
The test split is used once, for the proof.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from catdog.ahead import batches_ahead
from catdog.classifier import BATCH_SIZE
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.errors import ModelError, SettingsError
from catdog.image import load_pixels
from catdog.training.data import open_data
from catdog.training.settings import parse

Images = npt.NDArray[np.uint8]
"""uint8 (N, H, W, 3)."""

_CONFIG_NAME: Final = "config.yaml"


@dataclass(frozen=True)
class Labelled:
    """Photos with what is known about them; the three sequences have the same length."""

    paths: Sequence[Path]
    labels: npt.NDArray[np.int64]
    """Index into the class names."""
    splits: Sequence[Split]

    @classmethod
    def of(cls, data: Manifest, photos: Sequence[Photo]) -> Labelled:
        """Photos of one dataset."""
        return cls(
            paths=[data.root / photo.path for photo in photos],
            labels=np.array([data.class_names.index(photo.label) for photo in photos], np.int64),
            splits=[photo.split for photo in photos],
        )


def open_photos(checkpoint: Path, data: Path | None, scratch: Path) -> Manifest:
    """The dataset ``data``, or the one that the run folder of ``checkpoint`` was trained on, if it still exists.

    Raw photos (a folder or an archive) become a dataset in ``scratch`` first. Raises ModelError for a checkpoint
    that is not there, DataError, or SettingsError when there is no dataset to be found.
    """
    if not checkpoint.exists():
        raise ModelError(f"{checkpoint}: no such run folder or file")
    if data is not None:
        return Manifest.read(data) if is_dataset(data) else build([data], scratch / "dataset")
    config = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / _CONFIG_NAME
    if config.is_file():
        settings = parse(["--config", str(config)], {})
        if settings.data and Path(settings.data).exists():
            return open_data(settings, scratch)
    raise SettingsError(
        "--data is needed: no model is written that wasn't proven on real photos, and those that this one was trained "
        "on are not where they were; give a dataset made by python -m catdog.dataset, a folder of photos or an archive"
    )


def stratified(photos: Sequence[Photo], count: int, seed: int = 0) -> list[Photo]:
    """At most ``count`` photos in which each (class, source) has its share. The same photos for the same ``seed``."""
    groups: dict[tuple[str, str], list[tuple[str, Photo]]] = defaultdict(list)
    for photo in photos:
        # A hash of the content as the dice: the choice depends neither on the order nor on other photos.
        dice = hashlib.sha256(f"{seed} {photo.sha256}".encode()).hexdigest()
        groups[photo.label, photo.source].append((dice, photo))
    placed = []
    for group in groups.values():
        group.sort(key=lambda pair: pair[0])
        placed += [((rank + 0.5) / len(group), dice, photo) for rank, (dice, photo) in enumerate(group)]
    placed.sort(key=lambda place: place[:2])
    return [photo for _, _, photo in placed[:count]]


def batches(photos: Sequence[Path | bytes], contract: Contract, size: int = BATCH_SIZE) -> Iterator[Images]:
    """The photos' pixels in order, ``size`` at a time, decoded by threads one batch ahead; raises ImageError."""
    for batch in batches_ahead(lambda photo: load_pixels(photo, contract), photos, size):
        yield np.stack(batch)
