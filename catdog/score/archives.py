"""The photos in an archive, read in place, from any point on: zip and tar files on disk, tar files on S3.

    members("shard.tar") -> Found(name, content, position), ...

A plain tar on disk and a zip give slices, which workers read side by side. A compressed tar, or one on S3, can only
be read from its start, so its photos' bytes come along. Nothing is unpacked to disk, so names can do no harm.
"""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Final, NamedTuple, cast

from catdog.dataset.archives import TAR_ERRORS, ZIP_ERRORS, Bounded, check_end, is_junk, unpacked
from catdog.errors import ImageError, ImageReason
from catdog.image import MAX_BYTES, SUFFIXES
from catdog.score import s3
from catdog.score.contents import Bytes, Content, Failed, Slice

_ENCRYPTED: Final = 0x1  # APPNOTE 4.4.4
_PLAIN_TAR: Final = (b"ustar", 257)  # magic and its offset (POSIX.1-2017, pax)


class Found(NamedTuple):
    """One photo of an archive; ``name`` is empty where the archive itself is what can't be read."""

    name: str
    content: Content
    position: int | None
    """What ``members`` takes as ``after`` to go on behind it; None: there is no more to come."""


def members(archive: str, after: int = 0) -> Iterator[Found]:
    """The archive's photos in its own order, told by their endings; at the end one failure where it is damaged."""
    try:
        if archive.startswith("s3://"):
            yield from _streamed(archive, after)
        elif archive.lower().endswith(".zip"):
            yield from _zip(archive, after)
        elif _is_plain_tar(archive):
            yield from _tar(archive, after)
        else:
            yield from _streamed(archive, after)
    except ImageError as error:
        yield Found("", Failed(str(error), error.reason), None)
    except (*TAR_ERRORS, *ZIP_ERRORS) as error:
        reason: ImageReason = "corrupt"
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, OSError) and error.strerror:
            reason, why = ("missing" if isinstance(error, FileNotFoundError) else "unreadable"), error.strerror
        message = f"{archive}: the archive can't be read to its end ({why})"
        yield Found("", Failed(message, reason), None)


def is_stream(archive: str) -> bool:
    """Whether listing the archive means to read all of it."""
    return archive.startswith("s3://") or not (archive.lower().endswith(".zip") or _is_plain_tar(archive))


def _zip(path: str, after: int) -> Iterator[Found]:
    _check_regular(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    entries.reverse()  # the list shrinks while it is gone through
    for position in range(1, len(entries) + 1):
        entry = entries.pop()
        kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive was made on Windows
        if position <= after or entry.is_dir() or not _is_photo(entry.filename) or kind not in (0, stat.S_IFREG):
            continue
        content: Content = Slice(
            path, entry.header_offset, entry.compress_size, entry.file_size, (entry.compress_type, entry.CRC)
        )
        if entry.flag_bits & _ENCRYPTED:
            content = Failed(f"{path}: {entry.filename!r} is encrypted; unpack it with its password", "unsupported")
        yield Found(entry.filename, content, position)


def _tar(path: str, after: int) -> Iterator[Found]:
    with Path(path).open("rb") as file:
        file.seek(after)
        archive = tarfile.open(fileobj=Bounded(file), mode="r:")  # noqa: SIM115 - holds nothing but the file
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it would keep every header it saw
            if member.isreg() and not member.issparse() and _is_photo(member.name):
                yield Found(member.name, Slice(path, member.offset_data, member.size, member.size), archive.offset)
        check_end(archive)


def _streamed(archive: str, after: int) -> Iterator[Found]:
    with ExitStack() as stack:
        if archive.startswith("s3://"):
            if archive.lower().endswith(".zip"):
                raise ImageError(
                    f"{archive}: a zip on S3 can't be read in place; use tar, or copy it here", "unsupported"
                )
            raw = stack.enter_context(s3.open_object(*s3.split_uri(archive)))
        else:
            _check_regular(archive)
            raw = stack.enter_context(Path(archive).open("rb"))
        stream = stack.enter_context(unpacked(cast(io.BufferedReader, raw)))
        tar = tarfile.open(fileobj=Bounded(stream), mode="r:")  # noqa: SIM115 - holds nothing but the stream
        position = 0
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it would keep every header it saw
            position += 1
            if position <= after or not member.isreg() or member.issparse() or not _is_photo(member.name):
                continue
            content: Content
            if member.size > MAX_BYTES:
                message = f"{archive}: {member.name!r} has {member.size} bytes, over the limit of {MAX_BYTES}"
                content = Failed(message, "too_large")
            else:
                content = Bytes(cast(IO[bytes], tar.extractfile(member)).read())
            yield Found(member.name, content, position)


def _is_photo(name: str) -> bool:
    parts = (
        part for part in name.replace("\\", "/").split("/") if part not in (".", "..")
    )  # "tar c ." makes "./1.jpg"
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not is_junk("/".join(parts))


def _is_plain_tar(path: str) -> bool:
    _check_regular(path)
    magic, offset = _PLAIN_TAR
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(len(magic)) == magic


def _check_regular(path: str) -> None:
    # Before opening: opening a named pipe would wait for ever.
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ImageError(f"{path}: is not a regular file", "unreadable")
