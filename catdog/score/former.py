"""The rows of an earlier run, to be taken over for photos that are still the same.

    former = FormerRows([(store, "results.parquet")], class_names)
    former.take("photos/1.jpg", "17d2f-3a0c") -> "kept", Row(...)     or "new", None when it has to be scored

A result of any size is gone through once, in its own order, beside a listing in the same order: what is held in memory
is eight bytes a row, and the rows that were passed over. Sources in another order cost memory, and nothing else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from catdog.score import output
from catdog.score.rows import Row, encode_source
from catdog.sources import Input
from catdog.sources.names import INSIDE, is_archive_name
from catdog.sources.stores import Store

Kind = Literal["kept", "new", "changed", "retried"]
Place = tuple[Store, str]
"""A store and the name of a table of rows in it."""


class FormerRows:
    """Rows of finished tables, each of which can be taken once."""

    def __init__(
        self,
        places: Sequence[Place],
        class_names: Sequence[str],
        retry_failed: bool = False,
        whole_archives: bool = True,
    ) -> None:
        """``retry_failed``: rows without an answer are not taken over. ``whole_archives``: whether all members of an
        archive that has rows have one, so that it need not be read again. Raises DataError for a damaged table.
        """
        self._places, self._class_names, self._retry_failed = places, class_names, retry_failed
        self.rows = 0
        """How many there are."""
        self._archives: Counter[tuple[str, str]] = Counter()
        """Rows of each archive that is known by its own version."""
        self._has_versions = True  # which results of earlier catdogs lack
        self._hashes = self._read_hashes(whole_archives)
        self._coming = self._read_rows()
        self._passed: dict[str, deque[Row]] = {}
        """Rows that the listing has not come to yet, by their source."""

    def take(self, source: str, version: str | None) -> tuple[Kind, Row | None]:
        """How a source compares with its former row, and that row where it can be taken over."""
        row = self._next_of(encode_source(source))
        if row is None:
            return "new", None
        if row.status != "ok" and self._retry_failed:
            return "retried", None
        if row.version != version and self._has_versions:
            return "changed", None
        return "kept", row._replace(version=version)

    def pass_over(self, source: str) -> bool:
        """Forget the rows up to this one, whose name is as it stands in a table; return False where there is none."""
        if not self._holds(source):
            return False
        while next(self._coming, (source, None))[0] != source:
            pass
        return True

    def _holds(self, source: str) -> bool:
        key = _hash(source)
        at = int(np.searchsorted(self._hashes, key))
        return at < len(self._hashes) and bool(self._hashes[at] == key)

    def sources_of(self, archive: str, version: str) -> list[str] | None:
        """The sources of all rows of an archive in this version; None where its members have to be listed."""
        archive = encode_source(archive)
        count = self._archives[archive, version]
        if not count or self._retry_failed:
            return None
        found: list[str] = []
        for source, rows in self._passed.items():
            found += [source] * sum(row.version == version for row in rows if _archive_of(source) == archive)
        while len(found) < count:
            source, row = self._pass_one()
            if row.version == version and _archive_of(source) == archive:
                found.append(source)
        return found

    def is_complete(self, inputs: Iterable[Input]) -> bool:
        """Whether there is a row for each input in the same version and order, and no other."""
        if not self._has_versions:
            return False
        for item, found in zip_longest(inputs, self._read_rows()):
            if item is None or found is None:
                return False
            source, row = found
            if source != encode_source(item.source) or row.version != item.version:
                return False
            if row.status != "ok" and self._retry_failed:
                return False
        return True

    def _next_of(self, source: str) -> Row | None:
        if source not in self._passed:
            if not self._holds(source):
                return None
            try:
                while self._pass_one()[0] != source:
                    pass
            except StopIteration:
                return None
        rows = self._passed[source]
        row = rows.popleft()
        if not rows:
            del self._passed[source]
        return row

    def _pass_one(self) -> tuple[str, Row]:
        source, row = next(self._coming)
        self._passed.setdefault(source, deque()).append(row)
        return source, row

    def _read_hashes(self, whole_archives: bool) -> Any:
        blocks = [np.empty(0, np.uint64)]
        for store, name in self._places:
            for batch in output.read_columns(store, name):
                blocks.append(np.fromiter(map(_hash, batch["source"]), np.uint64, len(batch["source"])))
                self.rows += len(batch["source"])
                self._has_versions &= "version" in batch
                if whole_archives:
                    for source, version in zip(batch["source"], batch.get("version", ()), strict=False):
                        if version and (archive := _archive_of(source)):
                            self._archives[archive, version] += 1
        return np.sort(np.concatenate(blocks))

    def _read_rows(self) -> Iterator[tuple[str, Row]]:
        for store, name in self._places:
            for batch in output.read_columns(store, name):
                for i, source in enumerate(batch["source"]):
                    yield source, Row.from_columns({column: batch[column][i] for column in batch}, self._class_names)


def _hash(source: str) -> int:
    return int.from_bytes(blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _archive_of(source: str) -> str | None:
    archive = source.partition(INSIDE)[0]
    return archive if is_archive_name(archive) else None
