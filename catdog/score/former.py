"""The rows of an earlier run, to be taken over for photos that are still the same.

    former = FormerRows([(store, "results.parquet")], class_names)
    former.take("photos/1.jpg", "17d2f-3a0c") -> "kept", Row(...)     or "new", None when it has to be scored

A result of any size is read once, in its own order, beside a listing in the same order: what is held in memory is
some bytes a row, and the rows that the listing has not come to yet. Sources in another order cost memory, nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import compress
from typing import Any, Literal

import numpy as np

from catdog.detection.answers import BOX_COLUMNS, HEAD, begins_photo
from catdog.detection.decoding import DetectedObject
from catdog.score import output
from catdog.score.rows import Row, join_heads
from catdog.sources.names import INSIDE, is_archive_name
from catdog.sources.stores import Store
from catdog.text import escape_name, restore_name

Kind = Literal["kept", "new", "changed", "retried"]
Table = tuple[Store, str]
"""A store and the name of a table of rows in it."""


class FormerRows:
    """Rows of finished tables, each of which can be taken once."""

    def __init__(
        self, tables: Sequence[Table], class_names: Sequence[str], retry_failed: bool, has_whole_archives: bool
    ) -> None:
        """``retry_failed``: rows without an answer are not taken over. ``has_whole_archives``: whether an archive that
        has a row has one for every member. Raises DataError for a damaged table.
        """
        self._tables, self._class_names, self._retry_failed = tables, class_names, retry_failed
        self._has_versions = True  # which results of earlier catdogs lack
        self._archives: dict[tuple[str, str], int] = {}
        """Rows that are left of each archive that is known by its own version and listed once."""
        hashes = self._survey(has_whole_archives)
        self._hashes, self._left = np.unique(hashes, return_counts=True)
        self._asked = np.zeros(len(self._hashes), bool)
        self.is_in_order = self._has_versions
        """Whether all rows that were taken so far lay one directly behind the other."""
        self._coming = enumerate(self._read_rows())
        self._next = 0
        self._passed: dict[str, deque[tuple[int, Row]]] = {}
        """Rows that the listing has not come to yet, by their source."""

    def take(self, source: str, version: str | None) -> tuple[Kind, Row | None]:
        """Say how a source compares with its former row, and return that row where it can be taken over."""
        row = self._pop(escape_name(source))
        if row is None:
            return "new", None
        if row.status != "ok" and self._retry_failed:
            return "retried", None
        if row.version != version and self._has_versions:
            return "changed", None
        return "kept", row._replace(version=version)

    def forget(self, source: str) -> None:
        """Leave out a row of this source, since a part has one already; ``source`` is as it stands in a table."""
        self._pop(source)

    def sources_of(self, archive: str, version: str) -> list[str] | None:
        """Return the sources of the rows that are left of an archive in this version; None where it has to be read."""
        archive = escape_name(archive)
        count = 0 if self._retry_failed else self._archives.get((archive, version), 0)
        found = [source for source, rows in self._passed.items() for _ in rows if _archive_of(source) == archive]
        while len(found) < count and (source := self._read_on()) is not None:
            if _archive_of(source) == archive:
                found.append(source)
        return [restore_name(source) for source in found] or None

    def count_gone(self) -> int:
        """Count the sources that have rows and were not asked for."""
        return int(len(self._asked) - self._asked.sum())

    def _pop(self, source: str) -> Row | None:
        key = _hash(source)
        at = int(np.searchsorted(self._hashes, key))
        if at == len(self._hashes) or self._hashes[at] != key:
            return None
        self._asked[at] = True
        if not self._left[at]:
            return None
        while source not in self._passed:
            if self._read_on() is None:  # a hash that two sources share
                return None
        number, row = self._passed[source].popleft()
        if not self._passed[source]:
            del self._passed[source]
        self._left[at] -= 1
        self.is_in_order &= number == self._next
        self._next = number + 1
        archive = _archive_of(source), row.version
        if archive in self._archives:
            self._archives[archive] -= 1
        return row

    def _read_on(self) -> str | None:
        number, (source, row) = next(self._coming, (0, (None, None)))
        if source is not None and row is not None:
            self._passed.setdefault(source, deque()).append((number, row))
        return source

    def _survey(self, has_whole_archives: bool) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """Hash all sources, and count the rows of each archive."""
        blocks = [np.empty(0, np.uint64)]
        listed_twice: set[tuple[str, str]] = set()
        current: tuple[str, str] | None = None
        members: set[str] = set()
        for store, name in self._tables:
            for batch in map(_keep_first_rows, output.read_columns(store, name)):
                blocks.append(np.fromiter(map(_hash, batch["source"]), np.uint64, len(batch["source"])))
                self._has_versions &= "version" in batch
                for source, version in zip(batch["source"], batch.get("version", ()), strict=False):
                    archive = _archive_of(source) if version and has_whole_archives else None
                    if archive is None:
                        current = None
                        continue
                    key = archive, version
                    if key != current:
                        current, members = key, set()
                        if key in self._archives:
                            listed_twice.add(key)
                    if source in members:
                        listed_twice.add(key)
                    members.add(source)
                    self._archives[key] = self._archives.get(key, 0) + 1
        for key in listed_twice:  # which of its rows belong to which listing can't be told
            del self._archives[key]
        return np.concatenate(blocks)

    def _read_rows(self) -> Iterator[tuple[str, Row]]:
        for store, name in self._tables:
            try:
                yield from join_heads(_read_values(store, name), self._class_names)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise output.damaged(name) from error


def read_sources(store: Store, name: str) -> Iterator[str]:
    """The sources of a table, once for all rows of a photo. Raises DataError for a damaged file."""
    for batch in map(_keep_first_rows, output.read_columns(store, name)):
        yield from batch["source"]


def read_heads(store: Store, name: str, sources: set[str]) -> Iterator[tuple[str, tuple[DetectedObject, ...]]]:
    """The heads in some of the photos of a detector's table, by their sources as they stand there."""
    values = (row for row in _read_values(store, name) if row["source"] in sources)
    for source, row in join_heads(values, BOX_COLUMNS):
        yield source, row.heads


def _read_values(store: Store, name: str) -> Iterator[dict[str, Any]]:
    """A table's rows by column name."""
    for batch in output.read_columns(store, name):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _keep_first_rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The same columns, with the first row of each photo alone."""
    if HEAD not in batch:
        return batch
    firsts = list(map(begins_photo, batch[HEAD]))
    return {column: list(compress(values, firsts)) for column, values in batch.items()}


def _hash(source: str) -> int:
    return int.from_bytes(blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _archive_of(source: str) -> str | None:
    archive = source.partition(INSIDE)[0]
    return archive if is_archive_name(archive) else None
