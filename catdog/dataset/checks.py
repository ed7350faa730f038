"""One file's bytes -> a checked photo: decoded in full, measured, hashed, and its thumbnail for the copies' sake."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from catdog.dataset.duplicates import THUMBNAIL_PX
from catdog.image import decode

MIN_SIDE_PX: Final = 32  # default of the shorter side under which a photo is left out


@dataclass(frozen=True)
class Checked:
    """A photo that can be used."""

    width: int
    """px, upright."""
    height: int
    """px, upright."""
    sha256: str
    thumbnail: npt.NDArray[np.uint8]
    """uint8 (32, 32), grey, values in [0, 255]."""


@dataclass(frozen=True)
class TooSmall:
    """A photo that decodes, but is smaller than what was asked for."""

    message: str


def check(data: bytes, name: str, min_side: int) -> Checked | TooSmall:
    """Raises ImageError when the file is no photo or a damaged one. ``min_side``: px.

    Decoded at full scale: JPEG's reduced scales find the same truncations, but give another size and, for large
    photos, another thumbnail than the one of a smaller copy.
    """
    image = decode(data, name)
    width, height = image.size
    if min(width, height) < min_side:
        return TooSmall(f"{name}: {width}x{height}, under the limit of {min_side} px a side")
    small = image.convert("L").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    return Checked(width, height, hashlib.sha256(data).hexdigest(), np.asarray(small, dtype=np.uint8))
