"""Zip and tar archives, read in place and from any point on: files on this machine, and objects in a store.

    list_members("shard.tar") -> Member(name, content, position, version), ...

A zip, and a plain tar on this machine, give slices, which workers read side by side. A compressed tar, or one in an
object store, can only be read from its start, so the bytes of what is wanted come along. Nothing is unpacked to disk
under a member's own name, so that names can do no harm.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from catdog.errors import ImageError, ImageReason
from catdog.image import MAX_BYTES
from catdog.sources.contents import Content, Failed, check_size, file_version, version_of
from catdog.sources.names import is_archive_name, is_object_uri

_ENCRYPTED: Final = 0x1  # APPNOTE 4.4.4
_LOCAL_HEADER: Final = 30  # bytes, before the name and the extra field (APPNOTE 4.3.7)
_STORED, _DEFLATED = 0, 8  # compression methods (APPNOTE 4.4.5); zipfile takes a while to import
_NAME_AND_EXTRA: Final = 1024  # bytes that are read along with a member, since its local header alone says how many
_PLAIN_TAR: Final = (b"ustar", 257)  # magic and its offset (POSIX.1-2017, pax)
_SKIPPED_BYTES: Final = 2**20  # at once
_ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")  # APPNOTE 4.3.7 and 4.3.16: a member, or the end of an empty one
_FOREIGN_MAGIC: Final = {b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive"}
# Magic numbers: RFC 1952, section 2.3.1; bzip2's "BZh"; the .xz file format, section 2.1.1.1.
_XZ_MAGIC: Final = b"\xfd7zXZ\x00"
_PACKED: Final[dict[bytes, Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, _XZ_MAGIC: None}
_XZ_MEMORY: Final = 2**28  # bytes; xz -9 takes 65 MiB to unpack, the format allows 4 GiB
# What the parsers raise on damaged bytes, beyond what they document; tests/unit/test_dataset_hostile.py damages some.
_ERRORS: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    LookupError,
    AttributeError,
    OverflowError,
    RuntimeError,
    ValueError,
    NotImplementedError,
)


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
            data = self._read_range(source, self.offset, self.unpacked)
        else:
            data = self._unzip(source, *self.zipped)
        if len(data) != self.unpacked:
            raise ImageError(f"{source}: the archive ends inside it; download or make it again", "corrupt")
        return data

    def size(self) -> int:
        return self.stored + self.unpacked

    def _unzip(self, source: str, method: int, crc: int) -> bytes:
        head = self._read_range(source, self.offset, _LOCAL_HEADER + _NAME_AND_EXTRA + self.stored)
        if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04":
            raise ImageError(f"{source}: the archive is damaged; download or make it again", "corrupt")
        begin = _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        data = head[begin : begin + self.stored]
        if len(data) < self.stored:  # a name or an extra field of more than a kilobyte
            data = self._read_range(source, self.offset + begin, self.stored)
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

    def _read_range(self, source: str, offset: int, length: int) -> bytes:
        if is_object_uri(self.archive):
            from catdog.sources import objects  # a run without object stores need not have its library

            return objects.read_range(self.archive, offset, length)
        try:
            with Path(self.archive).open("rb") as file:
                if self.version and version_of(os.fstat(file.fileno())) != self.version:
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


class Member(NamedTuple):
    """One file of an archive."""

    name: str
    """As the archive has it; ``safe_member_name`` says whether it stays inside."""
    content: Content
    size: int
    """Bytes, as the archive claims."""
    position: int
    """What ``list_members`` takes as ``after`` to go on behind it."""
    version: str | None
    """Differs whenever the member may have been replaced."""
    is_plain: bool = True
    """False for a symbolic link or a device. A hard link is a file whose content says why it is not read."""


def list_members(archive: str, wanted: Callable[[str], bool], after: int = 0) -> Iterator[Member]:
    """The members of an archive but its folders, in its own order, those behind the position ``after``.

    ``wanted`` says for which names the bytes are needed; of another one in a stream the content is empty. Raises
    ImageError, whose message names the archive: ``missing``, ``unreadable``, ``unsupported`` or ``corrupt``, also when
    what came before was good.
    """
    try:
        kind = _find_kind(archive)
        if kind == "zip":
            yield from _list_zip(archive, after)
        elif kind == "tar" and not is_object_uri(archive):
            yield from _list_tar(archive, after)
        else:
            yield from _list_stream(archive, wanted, after)
    except _ERRORS as error:
        reason: ImageReason = "corrupt"
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, OSError) and error.strerror:
            reason, why = ("missing" if isinstance(error, FileNotFoundError) else "unreadable"), error.strerror
        message = f"{archive}: the archive can't be read to its end ({why}); download or make it again"
        if reason == "missing":
            message = f"{archive}: no such archive"
        raise ImageError(message, reason) from error


def archive_version(archive: str) -> str | None:
    """By which an archive that was replaced is known; None where there is none."""
    if is_object_uri(archive):
        from catdog.sources import objects

        return objects.object_version(archive)
    return file_version(archive)


def must_be_streamed(archive: str) -> bool:
    """Whether listing the members means to read all of the archive."""
    if is_object_uri(archive):
        return not archive.lower().endswith(".zip")  # to look inside would be a request
    try:
        return _find_kind(archive) == "stream"
    except (OSError, ImageError):
        return False  # its listing will say what is wrong with it


def _find_kind(archive: str) -> str:
    """``zip``, ``tar`` (not compressed) or ``stream``, by the first bytes; raises ImageError for what is no archive."""
    with _open_archive(archive) as file:
        head = file.read(_PLAIN_TAR[1] + len(_PLAIN_TAR[0]))
    for magic, kind in _FOREIGN_MAGIC.items():
        if head.startswith(magic):
            raise ImageError(f"{archive}: is {kind}, which is not read; unpack it and give the folder", "unsupported")
    if head[_PLAIN_TAR[1] :] == _PLAIN_TAR[0]:
        return "tar"
    if head.startswith(tuple(_PACKED)):
        return "stream"
    if head.startswith(_ZIP_MAGIC) or archive.lower().endswith(".zip"):  # also one behind other bytes
        return "zip"
    if not is_archive_name(archive):
        raise ImageError(f"{archive}: is not a zip or tar archive", "unsupported")
    return "stream"


@contextmanager
def _open_archive(archive: str, seekable: bool = False) -> Iterator[IO[bytes]]:
    if is_object_uri(archive):
        from catdog.sources import objects

        with objects.open_seekable(archive) if seekable else objects.open_object(archive) as stream:
            yield stream
        return
    if not stat.S_ISREG(Path(archive).stat().st_mode):  # before opening: opening a named pipe would wait for ever
        raise ImageError(f"{archive}: is not a regular file", "unreadable")
    with Path(archive).open("rb") as file:
        yield file


def _list_zip(archive: str, after: int) -> Iterator[Member]:
    with _open_archive(archive, seekable=True) as file, zipfile.ZipFile(file) as directory:
        entries = directory.infolist()
    entries.reverse()  # the list shrinks while it is gone through
    for position in range(1, len(entries) + 1):
        entry = entries.pop()
        if position <= after or entry.filename.endswith(("/", "\\")):
            continue
        kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive was made on Windows
        content: Content = Slice(
            archive, entry.header_offset, entry.compress_size, entry.file_size, (entry.compress_type, entry.CRC)
        )
        if entry.flag_bits & _ENCRYPTED:
            content = Failed(f"{archive}: {entry.filename!r} is encrypted; unpack it with its password", "unsupported")
        version = f"{entry.CRC:08x}-{entry.file_size:x}"
        yield Member(entry.filename, content, entry.file_size, position, version, kind in (0, stat.S_IFREG))


def _list_tar(archive: str, after: int) -> Iterator[Member]:
    version = file_version(archive)
    with _open_archive(archive) as file:
        file.seek(after)
        for member, tar in _walk_tar(file):
            content: Content = Slice(archive, member.offset_data, member.size, member.size, version=version)
            if member.islnk():
                content = _refuse_hard_link(archive, member)
            if not member.isdir():
                yield Member(member.name, content, member.size, tar.offset, version, _is_plain(member))


def _list_stream(archive: str, wanted: Callable[[str], bool], after: int) -> Iterator[Member]:
    version = archive_version(archive)
    with _open_archive(archive) as raw, _unpack(cast(io.BufferedReader, raw)) as stream:
        for position, (member, tar) in enumerate(_walk_tar(stream), start=1):
            if position <= after or member.isdir():
                continue
            content: Content = Bytes(b"")
            if member.islnk():
                content = _refuse_hard_link(archive, member)
            elif member.size > MAX_BYTES:
                message = f"{archive}: {member.name!r} has {member.size} bytes, over the limit of {MAX_BYTES}"
                content = Failed(message, "too_large")
            elif _is_plain(member) and wanted(member.name):
                content = Bytes(cast(IO[bytes], tar.extractfile(member)).read())
            yield Member(member.name, content, member.size, position, version, _is_plain(member))


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.islnk() or (member.isreg() and not member.issparse())


def _refuse_hard_link(archive: str, member: tarfile.TarInfo) -> Failed:
    """Return why a hard link is not read: the file it names lies somewhere before it, and may long be passed."""
    message = f"{archive}: {member.name!r} is a hard link to {member.linkname!r}; unpack the archive, give the folder"
    return Failed(message, "unreadable")


def _walk_tar(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Every header once, with the archive that its bytes can be read from before the next is asked for."""
    reader = _BoundedReader(stream)
    tar = tarfile.open(fileobj=reader, mode="r:")  # noqa: SIM115 - holds nothing but the stream
    behind = -1
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # or it would keep every header it saw
        if member.size < 0 or tar.offset <= behind:  # Pythons before the fix of CVE-2025-8194 go in circles
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        behind = tar.offset
        yield member, tar
    # tarfile takes any block that is no header for the end; a block of zeros is (POSIX.1-2017, pax, "ustar").
    if len(reader.last_read) < tarfile.BLOCKSIZE or reader.last_read.strip(b"\0"):
        raise tarfile.ReadError("its end is missing")


@contextmanager
def _unpack(stream: io.BufferedReader) -> Iterator[IO[bytes]]:
    """What a file holds, decompressed when its first bytes say that it is compressed."""
    head = stream.peek(8)
    if head.startswith(_XZ_MAGIC):
        yield io.BufferedReader(_XzReader(stream), _SKIPPED_BYTES)
        return
    opener = next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)
    if opener is None:
        yield stream
        return
    with opener(stream, "rb") as unpacked:
        yield unpacked


class _XzReader(io.RawIOBase):
    """What an .xz file holds, with bounded memory; lzma.open would take as much as the file asks for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._unpacker = stream, lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._unpacker.eof:  # an .xz file may hold several streams, with zeros between them
                rest = self._unpacker.unused_data.lstrip(b"\0") or self._stream.read(_SKIPPED_BYTES).lstrip(b"\0")
                if not rest:
                    return 0
                self._unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            else:
                rest = self._stream.read(_SKIPPED_BYTES) if self._unpacker.needs_input else b""
                if self._unpacker.needs_input and not rest:
                    raise EOFError("its end is missing")
            if data := self._unpacker.decompress(rest, len(buffer)):
                buffer[: len(data)] = data
                return len(data)


class _BoundedReader(io.RawIOBase):
    """A stream that reads no more than a photo's bytes at once: tarfile reads a header's claim of any size.

    One that can't seek is read forwards and passed over.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._seekable = stream.seekable()
        self._at = 0
        self.last_read = b""
        """What the last ``read`` gave."""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MAX_BYTES + 1:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last_read = self._stream.read(size)
        self._at += len(self.last_read)
        return self.last_read

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
