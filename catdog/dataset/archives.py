"""Zip and tar archives: safe names and bounded bytes. Writes nothing.

No member of an archive is ever unpacked under its own name: its bytes go to memory, and the caller chooses the file.
So a path that leaves the target, a link or a device can do no harm; such members are refused and reported.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import IO, Any, Final

from catdog.errors import DataError, ImageError
from catdog.image import MAX_BYTES

MAX_UNPACKED_BYTES: Final = 64 * 2**30  # of one archive; Kaggle's and Oxford's have 0.8 GB each
_SKIPPED_BYTES: Final = 2**20  # at once
MAX_FILES: Final = 2_000_000  # in one source

ARCHIVE_ENDING: Final = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_JUNK: Final = frozenset(("__macosx", "thumbs.db", "desktop.ini"))
# Magic numbers: RFC 1952, section 2.3.1; bzip2's "BZh"; the .xz file format, section 2.1.1.1.
_PACKED: Final[dict[bytes, Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
# What the parsers raise on damaged bytes, beyond what they document; tests/unit/test_dataset_hostile.py damages some.
ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    NotImplementedError,
)
TAR_ERRORS: Final = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
)

Load = Callable[[], bytes]
"""The bytes of one file; raises ImageError."""


def is_archive_name(name: str) -> bool:
    """Whether a file's ending says that it is an archive."""
    return bool(ARCHIVE_ENDING.search(name))


def is_junk(name: str) -> bool:
    """Whether a path is one of the files that systems leave behind: hidden ones, ``__MACOSX``, ``Thumbs.db``."""
    return any(part.startswith(".") or part.lower() in _JUNK for part in name.split("/"))


def safe_name(name: str) -> str | None:
    """An archive member's path with ``/`` and no empty parts; None when it leads out of the archive."""
    name = name.replace("\\", "/")  # archives made on Windows; a drive or .. behind a backslash shows up below
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", parts[0]) or "\0" in name:
        return None
    return "/".join(parts)


def check_count(path: Path, count: int) -> None:
    """Raises DataError for more files than any set of photos has."""
    if count > MAX_FILES:
        raise DataError(f"{path}: more than {MAX_FILES} files; give a smaller part of it")


class _Archive:
    """What zip and tar share: the rules for names, and the count of the bytes that really came out."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.name = ARCHIVE_ENDING.sub("", path.name) or path.name
        self.names: list[str] = []
        self.refused: list[tuple[str, str]] = []
        self._seen: set[str] = set()
        self._max_bytes = max_bytes
        self._bytes = 0

    def _enter(self, raw: str, plain: bool) -> str | None:
        """The name of a member to be kept; None for one that is junk or refused."""
        name = safe_name(raw)
        if name is not None and is_junk(name):
            return None
        check_count(self.path, len(self._seen) + len(self.refused) + 1)
        if name is None:
            self.refused.append((raw, "its path leads out of the archive"))
        elif not plain:
            self.refused.append((name, "a link or a device, not a plain file"))
        elif name in self._seen:
            self.refused.append((name, "the archive holds a second file of this name"))
        else:
            self._seen.add(name)
            self.names.append(name)
            return name
        return None

    def _check_bytes(self, total: int) -> None:
        if total > self._max_bytes:
            raise DataError(
                f"{self.path}: unpacks to more than {self._max_bytes} bytes, which is no set of photos; unpack the "
                "part that you need and give the folder"
            )

    def _loaded(self, name: str, data: bytes) -> Load:
        self._bytes += len(data)
        self._check_bytes(self._bytes)

        def load() -> bytes:
            if len(data) > MAX_BYTES:
                raise ImageError(f"{name}: over the limit of {MAX_BYTES} bytes", "too_large")
            return data

        return load

    def _damaged(self, error: Exception) -> DataError:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return DataError(f"{self.path}: the archive is damaged ({why}); download or make it again")


class Zip(_Archive):
    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__(path, max_bytes)
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except ZIP_ERRORS as error:
            raise self._damaged(error) from error
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was made on Windows
            if member.is_dir() or member.filename.endswith("\\"):
                continue
            name = self._enter(member.filename, plain=kind in (0, stat.S_IFREG))
            if name is not None:
                if member.flag_bits & 0x1:  # APPNOTE 4.4.4
                    raise DataError(
                        f"{path}: the archive is encrypted ({name!r}); unpack it with its password and give the folder"
                    )
                self._members[name] = member

    def read(self, wanted: Container[str]) -> Iterator[tuple[str, Load]]:
        members = [(name, member) for name, member in self._members.items() if name in wanted]
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name, member in sorted(members, key=lambda pair: pair[1].header_offset):
                    with archive.open(member) as file:
                        data = file.read(MAX_BYTES + 1)
                    yield name, self._loaded(name, data)
        except ZIP_ERRORS as error:
            raise self._damaged(error) from error


class Tar(_Archive):
    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__(path, max_bytes)
        unpacked = 0
        for member, _ in self._walk():
            unpacked += member.size  # passed over, but decompressed all the same
            self._check_bytes(unpacked)
            if not member.isdir():
                self._enter(member.name, plain=member.isreg())

    def read(self, wanted: Container[str]) -> Iterator[tuple[str, Load]]:
        done: set[str] = set()
        for member, archive in self._walk():
            name = safe_name(member.name)
            if member.isreg() and name is not None and name in wanted and name not in done:
                done.add(name)
                file = archive.extractfile(member)
                assert file is not None, name
                try:
                    data = file.read(MAX_BYTES + 1)
                except TAR_ERRORS as error:
                    raise self._damaged(error) from error
                yield name, self._loaded(name, data)

    def _walk(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """Every member, once each, with the archive that its bytes can be read from before the next is asked for."""
        with self.path.open("rb") as file:
            head = file.read(8)
        unpack = next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)
        with (unpack or open)(self.path, "rb") as stream:
            try:
                archive = tarfile.open(fileobj=Bounded(stream), mode="r:")  # noqa: SIM115 - reads; holds no file
            except TAR_ERRORS as error:
                if unpack or is_archive_name(self.path.name):
                    raise self._damaged(error) from error
                raise DataError(
                    f"{self.path}: neither a folder nor a zip or tar archive; give the folder that holds the photos"
                ) from error
            while (member := self._next(archive)) is not None:
                yield member, archive
                archive.members = []  # type: ignore[attr-defined]  # or it would keep every header it saw

    def _next(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        try:
            if (member := archive.next()) is None:
                check_end(archive)
        except TAR_ERRORS as error:
            raise self._damaged(error) from error
        return member


class Bounded(io.RawIOBase):
    """A stream that reads no more than a photo's bytes at once: tarfile reads a header's claim of any size.

    One that can't seek is read forwards and passed over.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._seekable = stream.seekable()
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MAX_BYTES + 1:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._stream.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if self._seekable:
            return self._stream.seek(offset, whence)
        if whence != io.SEEK_SET or offset < self._at:
            raise io.UnsupportedOperation("this stream goes forwards only")
        while self._at < offset and self.read(min(offset - self._at, _SKIPPED_BYTES)):
            pass
        return self._at

    def tell(self) -> int:
        return self._stream.tell() if self._seekable else self._at


def unpacked(stream: io.BufferedReader) -> IO[bytes]:
    """What a file holds, decompressed when its first bytes say that it is compressed."""
    head = stream.peek(8)
    opener = next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)
    return opener(stream, "rb") if opener else stream


def check_end(archive: tarfile.TarFile) -> None:
    """Raises tarfile.ReadError where an archive that was gone through stops short of its end mark."""
    # tarfile takes any block that is no header for the end; a block of zeros is (POSIX.1-2017, pax, "ustar").
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        raise tarfile.ReadError("its end is missing")
