"""Folders, zip and tar archives as one thing: files under safe names. Writes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from catdog.dataset.archives import MAX_UNPACKED_BYTES, Load, Tar, Zip, check_count, is_junk
from catdog.errors import DataError
from catdog.image import read_file

_ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")  # APPNOTE 4.3.7 and 4.3.16: a member, or the end of an empty one
_FOREIGN_MAGIC: Final = {b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive"}


class Source(Protocol):
    """Files under names that are safe: relative, with ``/``, without ``..``, hidden parts or doubles."""

    path: Path
    name: str
    """What the user will know it by: the file's name without its ending."""
    names: list[str]
    refused: list[tuple[str, str]]
    """(name, why) of members that are no plain files or whose path leaves the archive."""

    def read(self, wanted: Container[str]) -> Iterator[tuple[str, Load]]:
        """The wanted files in the order that is fastest to read. Raises DataError where the archive is damaged."""
        ...


def open_source(path: str | Path, max_bytes: int = MAX_UNPACKED_BYTES) -> Source:
    """A folder or an archive, told apart by content; raises DataError when it is neither, or damaged."""
    path = Path(path)
    try:
        if path.is_dir():
            return _Folder(path)
        if not stat.S_ISREG(path.stat().st_mode):  # before opening: opening a named pipe would wait for ever
            raise DataError(f"{path}: neither a folder nor an archive; give the folder that holds the photos")
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error
    if head.startswith(_ZIP_MAGIC):
        return Zip(path, max_bytes)
    for magic, kind in _FOREIGN_MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {kind}, which is not read; unpack it and give the folder")
    return Tar(path, max_bytes)


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name or "root"
        self.refused: list[tuple[str, str]] = []
        self._files: dict[str, str] = {}
        seen: set[str] = set()

        def refuse(error: OSError) -> None:
            if error.filename == str(path):
                raise DataError(f"{path}: can't be read ({error.strerror})") from error
            self.refused.append((os.path.relpath(error.filename, path), f"can't be read ({error.strerror})"))

        # Links are followed here: unlike an archive's, they are the user's own. ``seen`` ends their circles.
        for folder, folders, files in os.walk(path, followlinks=True, onerror=refuse):
            if (real := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for file in sorted(files):
                full = os.path.join(folder, file)  # noqa: PTH118 - a Path for each of 100,000 files takes seconds
                name = os.path.relpath(full, path).replace(os.sep, "/")
                if not is_junk(name):
                    self._files[name] = full
            check_count(path, len(self._files))
        self.names = list(self._files)

    def read(self, wanted: Container[str]) -> Iterator[tuple[str, Load]]:
        for name, full in self._files.items():
            if name in wanted:
                yield name, partial(read_file, full)
