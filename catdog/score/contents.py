"""What gives the bytes of one input: small values that travel to a worker and are read there.

content.read() -> the encoded photo; raises ImageError naming ``source``
content.size() -> bytes it will take, 0 where that isn't known before; never raises
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol

from catdog import fetch
from catdog.dataset.archives import is_archive_name
from catdog.errors import CatdogError, ImageError, ImageReason
from catdog.image import MAX_BYTES, read_file
from catdog.score import s3

INSIDE: Final = "!/"  # between an archive and a member of it, as in "photos.zip!/cats/1.jpg" (after Java's jar: URLs)
_LOCAL_HEADER: Final = 30  # bytes, before the name and the extra field (APPNOTE 4.3.7)
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class Content(Protocol):
    def read(self, source: str) -> bytes: ...
    def size(self) -> int: ...


class File(NamedTuple):
    """A file on this machine."""

    path: str

    def read(self, source: str) -> bytes:
        return read_file(self.path)

    def size(self) -> int:
        try:
            return Path(self.path).stat().st_size
        except (OSError, ValueError):
            return 0


class Slice(NamedTuple):
    """A member of an archive on this machine: a run of bytes in it, as they are or deflated."""

    path: str
    offset: int
    """Of the bytes in a tar; of the member's local header in a zip."""
    stored: int
    """Bytes in the archive."""
    unpacked: int
    """Bytes of the member, as the archive claims."""
    zipped: tuple[int, int] | None = None
    """Method and CRC-32 of a zip's member; None in a tar."""

    def read(self, source: str) -> bytes:
        _check_size(source, self.unpacked)
        try:
            with Path(self.path).open("rb") as file:
                if self.zipped is None:
                    file.seek(self.offset)
                    data = file.read(self.unpacked)
                else:
                    data = _unzipped(source, file, self)
        except OSError as error:
            reason: ImageReason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            raise ImageError(f"{source}: the archive can't be read ({error.strerror})", reason) from error
        if len(data) != self.unpacked:
            raise ImageError(f"{source}: the archive ends inside it; download or make it again", "corrupt")
        return data

    def size(self) -> int:
        return self.stored + self.unpacked


class Bytes(NamedTuple):
    """A member of an archive that can only be read from its start, and was."""

    data: bytes

    def read(self, source: str) -> bytes:
        _check_size(source, len(self.data))
        return self.data

    def size(self) -> int:
        return len(self.data)


class Object(NamedTuple):
    """An object on S3."""

    bucket: str
    key: str
    length: int = 0
    """Bytes, as it was listed."""

    def read(self, source: str) -> bytes:
        return s3.read_object(self.bucket, self.key)

    def size(self) -> int:
        return self.length


class Web(NamedTuple):
    """A photo on the web."""

    url: str

    def read(self, source: str) -> bytes:
        return fetch.fetch(self.url)

    def size(self) -> int:
        return 0


class Failed(NamedTuple):
    """No photo: ``message`` says why."""

    message: str
    reason: ImageReason

    def read(self, source: str) -> bytes:
        raise ImageError(self.message, self.reason)

    def size(self) -> int:
        return 0


def named(source: str) -> Content:
    """What a row's ``source`` stands for: to read a photo again, or one that a list names."""
    archive, inside, member = source.partition(INSIDE)
    if inside and is_archive_name(archive):
        return Member(archive, member)
    if source.startswith("s3://"):
        try:
            return Object(*s3.split_uri(source))
        except CatdogError as error:
            return Failed(str(error), "unsupported")
    if re.match(r"https?://", source, re.IGNORECASE):
        return Web(source)
    return File(source) if source else Failed("'': an empty path", "missing")


class Member(NamedTuple):
    """A member of an archive by its name alone; slow for all but the first of a compressed tar."""

    archive: str
    name: str

    def read(self, source: str) -> bytes:
        from catdog.score.archives import members

        for found in members(self.archive):
            if found.name == self.name:
                return found.content.read(source)
        raise ImageError(f"{source}: no such member in the archive", "missing")

    def size(self) -> int:
        return 0


def _unzipped(source: str, file: IO[bytes], member: Slice) -> bytes:
    assert member.zipped is not None
    method, crc = member.zipped
    file.seek(member.offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise ImageError(f"{source}: the archive is damaged; download or make it again", "corrupt")
    _check_size(source, member.stored)
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
    data = file.read(member.stored)
    if method == _DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.unpacked + 1)
        except zlib.error as error:
            raise ImageError(f"{source}: damaged inside the archive ({error})", "corrupt") from error
    elif method != _STORED:
        raise ImageError(f"{source}: compressed by method {method}, which is not read; unpack it", "unsupported")
    if zlib.crc32(data) != crc:
        raise ImageError(f"{source}: damaged inside the archive (its checksum differs)", "corrupt")
    return data


def _check_size(source: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"{source}: {size} bytes, over the limit of {MAX_BYTES}", "too_large")
