"""Members of archives by their names alone: ``photos.zip!/cats/1.jpg``.

Naming all members of an archive one after the other reads it once: of a zip or a plain tar the places of all members
are remembered, and a stream is read on from where the last member was found, whichever thread asks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from catdog.errors import ImageError
from catdog.image import MAX_BYTES
from catdog.sources.addresses import ObjectError
from catdog.sources.archives import Member, archive_version, list_members, must_be_streamed
from catdog.sources.contents import Content

_REMEMBERED: Final = 8  # archives whose directories are kept in memory
_PASSED_MEMBERS: Final = 32  # of a stream, kept in memory since threads do not ask in the archive's order
_PASSED_BYTES: Final = 2**20  # of one of them, at most
_lock = threading.Lock()
_stream: tuple[tuple[str, str], Iterator[Member]] | None = None
_passed: OrderedDict[str, Content] = OrderedDict()


class NamedMember(NamedTuple):
    """A member of an archive, by its name."""

    archive: str
    name: str

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        try:
            version = archive_version(self.archive)
            if version is None:
                raise ImageError(f"{source}: there is no archive {self.archive}", "missing")
            if must_be_streamed(self.archive):
                found = _read_on(self.archive, version, self.name)
            else:
                found = _read_directory(self.archive, version).get(self.name)
        except ObjectError as error:
            raise ImageError(f"{source}: {error}", "unreadable") from error
        if found is None:
            raise ImageError(f"{source}: the archive holds no member of this name", "missing")
        return found.read(source, most_bytes)

    def size(self) -> None:
        return None


def _read_on(archive: str, version: str, name: str) -> Content | None:
    """Look for a member behind the last one that this process read, then once more from the start."""
    global _stream
    with _lock:
        for attempt in range(2):
            if attempt or _stream is None or _stream[0] != (archive, version):
                _stream = (archive, version), list_members(archive, lambda name: True)
                _passed.clear()
            if name in _passed:
                return _passed.pop(name)
            for member in _stream[1]:
                if member.name == name and member.is_plain:
                    return member.content
                if member.is_plain and member.size <= _PASSED_BYTES:
                    _passed.setdefault(member.name, member.content)
                    if len(_passed) > _PASSED_MEMBERS:
                        _passed.popitem(last=False)
    return None


@lru_cache(maxsize=_REMEMBERED)
def _read_directory(archive: str, version: str) -> dict[str, Content]:
    found: dict[str, Content] = {}
    for member in list_members(archive, lambda name: False):
        if member.is_plain:
            found.setdefault(member.name, member.content)
    return found
