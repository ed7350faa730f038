"""The photos that calibrate an int8 model and those that an exported model is proven on, chosen or made.

Calibration sees the training split only. Which layers stay in float is decided on the training and validation splits.
The test split is used once, for the proof. Awkward photos, of odd sizes, modes, formats and orientations, go wrong
elsewhere.
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
from PIL import Image, features

from catdog.contract import WEIGHTS_NAME
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.errors import ModelError, SettingsError
from catdog.image import ORIENTATION_TAG, decode, encode
from catdog.training.data import open_data
from catdog.training.settings import parse

HUGE_PX: Final = (4000, 3000)  # a 12-megapixel camera's; decoded at a fraction of its size


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
    if checkpoint.is_dir() and not (checkpoint / WEIGHTS_NAME).exists():
        raise ModelError(f"{checkpoint}: no run folder, since there is no {WEIGHTS_NAME} in it")
    if data is not None:
        return Manifest.read(data) if is_dataset(data) else build([data], scratch / "dataset")
    config = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "config.yaml"
    if config.is_file():
        settings = parse(["--config", str(config)], {})
        if settings.data and Path(settings.data).exists():
            return open_data(settings, scratch)
    raise SettingsError(
        "--data is needed: no model is written that wasn't proven on real photos, and those that this one was trained "
        "on are not where they were; give a dataset made by catdog dataset, a folder of photos or an archive"
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


def make_awkward_photos(data: bytes) -> dict[str, bytes]:
    """Return encoded variants of an encoded photo, by name; ``catdog.image`` must be able to read all of them."""
    photo = decode(data, "the photo that awkward ones are made from")
    width, height = photo.size
    grey = photo.convert("L")
    alpha = Image.linear_gradient("L").resize(photo.size)
    see_through = photo.copy()
    see_through.putalpha(alpha)
    palette = photo.quantize(64)
    deep_grey = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)  # 255 * 257 = 65535
    square = photo.resize((min(photo.size),) * 2)

    photos = {
        "portrait": encode(square.resize((square.width, square.width * 2)), "JPEG"),
        "panorama": encode(square.resize((square.width * 4, square.width)), "JPEG"),
        "8x8 px": encode(photo.resize((8, 8)), "PNG"),
        "1x1 px": encode(photo.resize((1, 1)), "PNG"),
        "one row": encode(photo.resize((width, 1)), "PNG"),
        "12 megapixels": encode(photo.resize(HUGE_PX), "JPEG"),
        "1 bit": encode(photo.convert("1"), "PNG"),
        "grey JPEG": encode(grey, "JPEG"),
        "grey PNG": encode(grey, "PNG"),
        "16-bit grey PNG": encode(deep_grey, "PNG"),
        "16-bit grey TIFF": encode(deep_grey, "TIFF"),
        "palette": encode(palette, "PNG"),
        "palette with a transparent colour": encode(palette, "PNG", transparency=0),
        "grey with alpha": encode(see_through.convert("LA"), "PNG"),
        "alpha": encode(see_through, "PNG"),
        "CMYK JPEG": encode(photo.convert("CMYK"), "JPEG"),
        "CMYK TIFF": encode(photo.convert("CMYK"), "TIFF"),
        "progressive JPEG": encode(photo, "JPEG", progressive=True),
        "JPEG of quality 5": encode(photo, "JPEG", quality=5),
        "WebP with alpha": encode(see_through, "WEBP"),
        "GIF": encode(photo, "GIF"),
        "animated GIF": encode(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "TIFF": encode(photo, "TIFF"),
        "BMP": encode(photo, "BMP"),
    }
    if features.check("avif"):
        photos["AVIF"] = encode(photo, "AVIF")
    flat = photo.resize((width, max(1, height // 2)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        photos[f"EXIF orientation {orientation}"] = encode(flat, "JPEG", exif=exif)
    return photos
