"""Members of archives by their names alone: ``photos.zip!/cats/1.jpg``.

Naming all members of an archive one after the other reads it once: of a zip or a plain tar the places of all members
are remembered, and a stream is read on from where the last member was found.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Final, NamedTuple

from catdog.errors import DataError, ImageError
from catdog.image import MAX_BYTES
from catdog.sources.archives import archive_version, list_members, must_be_streamed
from catdog.sources.contents import Content

_REMEMBERED: Final = 8  # archives whose directories are kept in memory
_streams = threading.local()  # .key, .members: where this thread's last stream goes on


class NamedMember(NamedTuple):
    """A member of an archive, by its name."""

    archive: str
    name: str

    def read(self, source: str, most_bytes: int = MAX_BYTES) -> bytes:
        version = archive_version(self.archive)
        if version is None:
            raise ImageError(f"{source}: there is no archive {self.archive}", "missing")
        try:
            found = (
                self._read_on(version)
                if must_be_streamed(self.archive)
                else _read_directory(self.archive, version).get(self.name)
            )
        except DataError as error:  # an object store's: it names the archive
            raise ImageError(f"{source}: {error}", "unreadable") from error
        if found is None:
            raise ImageError(f"{source}: the archive holds no member of this name", "missing")
        return found.read(source, most_bytes)

    def size(self) -> None:
        return None

    def _read_on(self, version: str) -> Content | None:
        """Look for the member behind the last one that this thread read, then once more from the start."""
        for attempt in range(2):
            if attempt or getattr(_streams, "key", None) != (self.archive, version):
                _streams.key = (self.archive, version)
                _streams.members = list_members(self.archive, lambda name: True)
            for member in _streams.members:
                if member.name == self.name:
                    return member.content  # type: ignore[no-any-return]  # of a thread's own storage
        return None


@lru_cache(maxsize=_REMEMBERED)
def _read_directory(archive: str, version: str) -> dict[str, Content]:
    return {member.name: member.content for member in reversed(list(list_members(archive, lambda name: False)))}
