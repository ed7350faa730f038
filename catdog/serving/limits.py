"""What a server allows by default, since whoever sends photos may mean harm or just have large ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from catdog.contract import Contract
from catdog.errors import ImageError
from catdog.image import Pixels, Room, Size, load_sized_pixels

MAX_PHOTOS: Final = 100  # of one request
MAX_PIXELS: Final = 50_000_000
"""That a photo may hold in memory while it is decoded, each ``catdog.image.PEAK_BYTES_PER_PIXEL`` at most. A JPEG that
is not progressive is decoded at a reduced scale and counts as what that leaves, so phone photos of 200 MP pass."""
LARGE_PIXELS: Final = 16_000_000  # a photo of more is decoded alone

LoadPixels = Callable[[Any, Contract, str, float], tuple[Pixels, Size]]
"""Turns a photo's bytes or array into pixels and the upright photo's size: (source, contract, name, deadline as a value
of ``time.monotonic()``). Raises ImageError."""


class LateError(ImageError):
    """A photo that its request's time did not suffice for."""


def make_room(most_pixels: int, turn: AbstractContextManager[object]) -> Room:
    """Return a room that refuses photos of more pixels, and takes large ones in ``turn``."""

    def room(pixels: int, name: str) -> AbstractContextManager[object]:
        if pixels > most_pixels:
            raise ImageError(
                f"{name}: {pixels / 1e6:.0f} megapixels, {most_pixels / 1e6:g} are decoded here; send it smaller",
                "too_large",
            )
        return turn if pixels > LARGE_PIXELS else nullcontext()

    return room


_room: Final = make_room(MAX_PIXELS, threading.Lock())


def load_within_limits(source: object, contract: Contract, name: str, deadline: float) -> tuple[Pixels, Size]:
    """Do what ``catdog.image.load_sized_pixels`` does, within a process's limits; a decoder is never interrupted."""
    return load_sized_pixels(source, contract, name, _room)
