"""What gives the bytes of one input: small values that travel to a worker and are read there.

content.read(source, most_bytes) -> the encoded photo; raises ImageError naming ``source``, ``too_large`` over the limit
content.size() -> the bytes it will take in memory, None where that isn't known before; never raises
"""

from __future__ import annotations

import os
import stat
import sys
import zlib
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from catdog.errors import ImageError, ImageReason
from catdog.image import MAX_BYTES, read_file
from catdog.sources.names import is_object_uri

_LOCAL_HEADER: Final = 30  # bytes, before the name and the extra field (APPNOTE 4.3.7)
_STORED, _DEFLATED = 0, 8  # compression methods (APPNOTE 4.4.5); zipfile takes a while to import
_NAME_AND_EXTRA: Final = 1024  # bytes that are read along with a member, since its local header alone says how many


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


class Slice(NamedTuple):
    """A member of an archive, on this machine or in an object store: a run of bytes in it, as they are or deflated."""

    archive: str
    offset: int
    """Of the bytes in a tar; of the member's local header in a zip."""
    stored: int
    """Bytes in the archive."""
    unpacked: int
    """Bytes of the member, as the archive claims."""
    zipped: tuple[int, int] | None = None
    """Method and CRC-32 of a zip's member; None in a tar."""
    version: str | None = None
    """Of a tar, in which another one would have other bytes at this place."""

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        check_size(source, max(self.unpacked, self.stored), most_bytes)
        if self.zipped is None:
            data = self._run(source, self.offset, self.unpacked)
        else:
            data = self._unzip(source, *self.zipped)
        if len(data) != self.unpacked:
            raise ImageError(f"{source}: the archive ends inside it; download or make it again", "corrupt")
        return data

    def size(self) -> int:
        return self.stored + self.unpacked

    def _unzip(self, source: str, method: int, crc: int) -> bytes:
        head = self._run(source, self.offset, _LOCAL_HEADER + _NAME_AND_EXTRA + self.stored)
        if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04":
            raise ImageError(f"{source}: the archive is damaged; download or make it again", "corrupt")
        begin = _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        data = head[begin : begin + self.stored]
        if len(data) < self.stored:  # a name or an extra field of more than a kilobyte
            data = self._run(source, self.offset + begin, self.stored)
        if method == _DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.unpacked + 1)
            except zlib.error as error:
                raise ImageError(f"{source}: damaged inside the archive ({error})", "corrupt") from error
        elif method != _STORED:
            raise ImageError(f"{source}: compressed by method {method}, which is not read; unpack it", "unsupported")
        if zlib.crc32(data) != crc:
            raise ImageError(f"{source}: damaged inside the archive (its checksum differs)", "corrupt")
        return data

    def _run(self, source: str, offset: int, length: int) -> bytes:
        if is_object_uri(self.archive):
            from catdog.sources import objects  # a run without object stores need not have its library

            return objects.read_range(self.archive, offset, length)
        try:
            with Path(self.archive).open("rb") as file:
                if self.version and _version_of(os.fstat(file.fileno())) != self.version:
                    raise ImageError(f"{source}: the archive was replaced while it was read; start again", "unreadable")
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            reason: ImageReason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            raise ImageError(f"{source}: the archive can't be read ({error.strerror})", reason) from error


class Bytes(NamedTuple):
    """A member of an archive that can only be read from its start, and was."""

    data: bytes

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        check_size(source, len(self.data), most_bytes)
        return self.data

    def size(self) -> int:
        return len(self.data)


class Object(NamedTuple):
    """An object in an object store."""

    uri: str
    length: int | None = None
    """Bytes, where a listing has said."""

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        from catdog.sources import objects

        return objects.read_object(self.uri, most_bytes)

    def size(self) -> int | None:
        return self.length


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
    return _version_of(info) if stat.S_ISREG(info.st_mode) else None


def _version_of(info: os.stat_result) -> str:
    return f"{info.st_mtime_ns:x}-{info.st_size:x}"


def check_size(source: str, size: int, most_bytes: int) -> None:
    """Raise ImageError for more bytes than there may be."""
    if size > most_bytes:
        raise ImageError(f"{source}: {size} bytes, over the limit of {most_bytes}", "too_large")
