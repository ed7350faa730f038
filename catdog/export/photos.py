"""Choose the photos that calibrate an int8 model and those that an exported model is proven on.

Calibration sees the training split only. Which layers stay in float is decided on the training and validation splits.
The test split is used once, for the proof.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.errors import ModelError, SettingsError
from catdog.training.data import open_data
from catdog.training.settings import parse

_CONFIG_NAME: Final = "config.yaml"


@dataclass(frozen=True)
class Labelled:
    """Photos with their classes and splits, three sequences of the same length."""

    paths: Sequence[Path]
    labels: npt.NDArray[np.int64]
    """Indices into the class names."""
    splits: Sequence[Split]

    @classmethod
    def of(cls, data: Manifest, photos: Sequence[Photo]) -> Labelled:
        """Label photos of a dataset."""
        return cls(
            paths=[data.root / photo.path for photo in photos],
            labels=np.array([data.class_names.index(photo.label) for photo in photos], np.int64),
            splits=[photo.split for photo in photos],
        )


def find_dataset(checkpoint: Path, data: Path | None, scratch: Path) -> Manifest:
    """Open the dataset ``data``, or the one that the run folder of ``checkpoint`` was trained on, if it still exists.

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


def choose_stratified(photos: Sequence[Photo], count: int, seed: int = 0) -> list[Photo]:
    """Choose at most ``count`` photos, in which each (class, source) has its share; the same for the same ``seed``."""
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
