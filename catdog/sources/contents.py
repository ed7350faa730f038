"""What gives the bytes of one input: small values that travel to a worker and are read there.

content.read(source, most_bytes) -> the encoded photo; raises ImageError naming ``source``, ``too_large`` over the limit
content.size() -> the bytes it will take in memory, None where that isn't known before; never raises
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

from catdog.errors import ImageError, ImageReason
from catdog.image import MAX_BYTES, read_file


class Content(Protocol):
    """Where the bytes of one input are."""

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes: ...
    def size(self) -> int | None: ...


class File(NamedTuple):
    """A file on this machine."""

    path: str

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        if most_bytes < MAX_BYTES:
            check_size(source, self.size() or 0, most_bytes)
        return read_file(self.path)

    def size(self) -> int | None:
        try:
            return os.stat(self.path).st_size  # noqa: PTH116 - likewise
        except (OSError, ValueError):
            return None


class Web(NamedTuple):
    """A photo on the web."""

    url: str
    typed: bool = True
    """Whether the user typed it, so that it may be in their own network; a list's URL may not."""

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        from catdog.sources import web  # most runs have no URL and need not wait for ssl

        return web.fetch(self.url, max_bytes=min(most_bytes, web.MAX_BYTES), public_only=not self.typed)

    def size(self) -> None:
        return None


class Stdin(NamedTuple):
    """All of standard input, which is one photo."""

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        if sys.stdin is None:  # closed by the shell: <&-
            raise ImageError(f"{source}: standard input is closed", "unreadable")
        data = sys.stdin.buffer.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise ImageError(f"{source}: over the limit of {most_bytes} bytes", "too_large")
        return data

    def size(self) -> None:
        return None


class Failed(NamedTuple):
    """No photo: ``message`` says why."""

    message: str
    reason: ImageReason
    of_listing: bool = False
    """Whether it is a source that can't be listed, so that photos of it may be missing, and not one photo."""

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        raise ImageError(self.message, self.reason)

    def size(self) -> int:
        return 0


def file_version(path: str | Path) -> str | None:
    """Time of change and size of a regular file, by which one that was replaced is known; None for other things."""
    try:
        info = os.stat(path)  # noqa: PTH116 - a Path for each of a million names takes seconds and keeps its parts
    except (OSError, ValueError):
        return None
    return version_of(info) if stat.S_ISREG(info.st_mode) else None


def version_of(info: os.stat_result) -> str:
    """Time of change and size, as text."""
    return f"{info.st_mtime_ns:x}-{info.st_size:x}"


def check_size(source: str, size: int, most_bytes: int) -> None:
    """Raise ImageError for more bytes than there may be."""
    if size > most_bytes:
        raise ImageError(f"{source}: {size} bytes, over the limit of {most_bytes}", "too_large")
