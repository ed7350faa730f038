"""SOURCE arguments to inputs, one after the other, from any point on.

    ["photos/", "shards/{000..099}.tar", "s3://bucket/prefix/"], ["more.csv"] -> Input(source, content, cursor), ...

Nothing but names is read here, and a million of them never sit in memory. The order is always the same, and every
input carries the cursor at which a later listing goes on behind it: by name, not by count, so that photos which come
or go meanwhile move no other photo's place.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from catdog.dataset.archives import is_archive_name
from catdog.errors import DataError, SettingsError
from catdog.fetch import redact
from catdog.image import SUFFIXES
from catdog.inputs import MAGIC, Parts, matches, scan
from catdog.score import s3
from catdog.score.archives import is_stream, members
from catdog.score.contents import INSIDE, Content, Failed, File, Object, Web, named

COLUMNS: Final = ("source", "path", "file", "filename", "image", "uri", "url")
"""The column of a CSV or Parquet list that holds the paths is the first of these names that it has."""
_BRACES: Final = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")

Position = Any
"""Where in one source a listing goes on, as JSON; None: the source is done."""


class Cursor(NamedTuple):
    """Where a listing goes on: ``source``, its number among the arguments, and the position in it."""

    source: int
    position: Position


class Input(NamedTuple):
    """One photo to answer for, still unread."""

    source: str
    """Its name in the results: the path, ``photos.zip!/cats/1.jpg`` or ``s3://bucket/key``."""
    content: Content
    cursor: Cursor
    """Goes on behind this one."""


Listed = tuple[str, Content, Position]
Lister = Callable[[Position], Iterator[Listed]]
"""From a position (None: the start) -> name, content, and the position behind it."""


def list_inputs(sources: Sequence[str], lists: Sequence[Path] = (), after: Cursor | None = None) -> Iterator[Input]:
    """All inputs in order, or those behind ``after``; a source that stands for no photo gives one that fails.

    A source is a file, a folder, a pattern (``*``, ``?``, ``**``, ``{000..099}``, ``{a,b}``), an archive or an
    ``s3://`` URI of these; lists name one input a line or row. Raises DataError for a bucket that can't be listed and
    SettingsError for a list that can't be read.
    """
    start = after or Cursor(0, None)
    for number, lister in enumerate(_listers(sources, lists)):
        if number < start.source or (after is not None and number == start.source and start.position is None):
            continue
        position = start.position if number == start.source else None
        for name, content, behind in lister(position):
            yield Input(name, content, Cursor(number, behind))


def can_count(sources: Sequence[str]) -> bool:
    """Whether counting the inputs is much less work than reading them."""
    return not any(is_archive_name(s) and (s.startswith("s3://") or "*" in s or _is_stream(s)) for s in sources)


def _is_stream(path: str) -> bool:
    try:
        return is_stream(path)
    except Exception:  # its listing will say what is wrong with it
        return False


def _listers(sources: Sequence[str], lists: Sequence[Path]) -> Iterator[Lister]:
    for source in itertools.chain.from_iterable(map(expand_braces, sources)):
        yield _lister(source)
    for path in lists:
        yield partial(_list, path)


def _lister(source: str) -> Lister:
    if source.startswith("s3://"):
        bucket, key = s3.split_uri(source)
        if MAGIC.search(key):
            return lambda position: _bucket_pattern(source, bucket, key, position)
        if is_archive_name(key):
            return lambda position: _archive(source, position)
        if Path(key).suffix.lower() in SUFFIXES:
            return lambda position: _one(source, Object(bucket, key))
        prefix = key if not key or key.endswith("/") else f"{key}/"
        return lambda position: _bucket(source, bucket, prefix, position)
    if isinstance(content := named(source), Web):  # before patterns: its "?" is none
        return lambda position: _one(redact(source), content)
    if source and Path(source).is_dir():
        return lambda position: _folder(Path(source), position)
    if MAGIC.search(source) and not os.path.lexists(source):
        return lambda position: _pattern(source, position)
    if is_archive_name(source) and os.path.lexists(source):
        return lambda position: _archive(source, position)
    return lambda position: _one(source, content)


def expand_braces(source: str) -> Iterator[str]:
    """``a{1,2}/{08..10}.tar`` -> a1/08.tar, a1/09.tar, a1/10.tar, a2/08.tar, ...; a file so named wins."""
    found = None if os.path.lexists(source) else _BRACES.search(source)
    if found is None:
        yield source
        return
    numbers = _RANGE.fullmatch(found[1])
    words: Iterable[str] = found[1].split(",")
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = max(map(len, numbers.groups())) if any(text.startswith("0") for text in numbers.groups()) else 0
        step = 1 if first <= last else -1  # as bash does
        words = (f"{n:0{width}}" for n in range(first, last + step, step))
    elif "," not in found[1]:
        raise SettingsError(f"{source}: {found[0]} is no range of numbers; write {{000..099}} or {{a,b}}")
    for word in words:
        yield from expand_braces(source[: found.start()] + word + source[found.end() :])


def _one(source: str, content: Content) -> Iterator[Listed]:
    yield source, content, None


def _folder(folder: Path, after: Position) -> Iterator[Listed]:
    yield from _or_failure(_tree(folder, after), after, str(folder), "no photo in this folder")


def _pattern(pattern: str, after: Position) -> Iterator[Listed]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    folder, patterns = Path(*parts[:fixed]), parts[fixed:]
    found = _tree(folder, after, patterns) if folder.is_dir() else iter(())
    yield from _or_failure(found, after, pattern, "no photo matches this pattern")


def _tree(folder: Path, after: Position, patterns: Parts = ()) -> Iterator[Listed]:
    """A position is the parts of a path below ``folder``; in an archive that a pattern names, with a place in it."""
    last, inside = (after["path"], after.get("inside")) if after else (None, None)
    archives = bool(patterns) and is_archive_name(patterns[-1])

    def wanted(parts: Parts, is_folder: bool) -> bool:
        if last and is_folder and _order((*parts, ""))[: len(parts)] < _order(last)[: len(parts)]:
            return False
        return not patterns or matches(parts, patterns, start=is_folder)

    for found in scan(folder, wanted, is_archive_name if archives else _is_photo_name):
        failed = not isinstance(found.content, str)
        below = Path(found.source).relative_to(folder).parts
        parts = [*below, ""] if failed else [*below]  # a folder that can't be listed comes where its files would
        if last and _order(parts) < _order(last):
            continue
        if failed:
            content = Failed(str(found.content), "unreadable")
            if parts != last:
                yield found.source, content, {"path": parts}
        elif archives:
            if parts == last and inside is None:
                continue
            for name, member, behind in _archive(found.source, inside if parts == last else None):
                yield name, member, {"path": parts} | ({} if behind is None else {"inside": behind})
        elif parts != last:
            yield found.source, File(found.source), {"path": parts}


def _order(parts: Sequence[str]) -> list[tuple[bool, str]]:
    """A key that sorts paths as ``scan`` does: a folder's files before its subfolders."""
    return [(i < len(parts) - 1, part) for i, part in enumerate(parts)]


def _archive(archive: str, after: Position) -> Iterator[Listed]:
    """A position is a place in the archive, with its size and time of change where it is a file."""
    state = file_state(Path(archive))
    if after is not None and after["state"] != state:
        raise DataError(f"{archive}: has changed since the run began; give --restart to begin anew")
    found = (
        (
            f"{archive}{INSIDE}{m.name}" if m.name else archive,
            m.content,
            None if m.position is None else {"at": m.position, "state": state},
        )
        for m in members(archive, after["at"] if after else 0)
    )
    yield from _or_failure(found, after, archive, "no photo in this archive")


def file_state(path: Path) -> list[int] | None:
    """Size and time of change, by which a list or an archive that was replaced is known; None for other things."""
    try:
        info = path.stat()
    except (OSError, ValueError):
        return None
    return [info.st_size, info.st_mtime_ns] if stat.S_ISREG(info.st_mode) else None


def _bucket(source: str, bucket: str, prefix: str, after: Position) -> Iterator[Listed]:
    found = (
        (f"s3://{bucket}/{key}", Object(bucket, key, size), key)
        for key, size in s3.list_objects(bucket, prefix, after or "")
        if _is_photo_name(key)
    )
    yield from _or_failure(found, after, source, "no photo under this prefix")


def _bucket_pattern(source: str, bucket: str, pattern: str, after: Position) -> Iterator[Listed]:
    fixed = pattern[: MAGIC.search(pattern).start()]  # type: ignore[union-attr]  # the caller has looked
    archives, parts = is_archive_name(pattern), tuple(pattern.split("/"))
    last, inside = (after["key"], after.get("inside")) if after else ("", None)

    def found() -> Iterator[Listed]:
        keys = s3.list_objects(bucket, fixed, last)
        if inside is not None:
            keys = itertools.chain([(last, 0)], keys)
        for key, size in keys:
            if not matches(tuple(key.split("/")), parts, start=False):
                continue
            if archives:
                for name, member, behind in _archive(f"s3://{bucket}/{key}", inside if key == last else None):
                    yield name, member, {"key": key} | ({} if behind is None else {"inside": behind})
            elif _is_photo_name(key):
                yield f"s3://{bucket}/{key}", Object(bucket, key, size), {"key": key}

    yield from _or_failure(found(), after, source, "no photo matches this pattern")


def _list(path: Path, after: Position) -> Iterator[Listed]:
    """A position is the number of entries before it."""
    try:
        for number, entry in enumerate(_entries(path), start=1):
            if number > (after or 0):
                content = named(entry)
                yield redact(entry) if isinstance(content, Web) else entry, content, number
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"--list {path}: can't be read ({getattr(error, 'strerror', None) or error})") from error


def _entries(path: Path) -> Iterator[str]:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe can be read only once: not to count, not to go on
        raise SettingsError(f"--list {path}: is not a regular file; save the list to one")
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_column(path)
        return
    with path.open(
        encoding="utf-8-sig", errors="surrogateescape", newline="" if kind in (".csv", ".tsv") else None
    ) as file:
        if kind in (".csv", ".tsv"):
            table = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",")
            column = _column(path, list(table.fieldnames or ()))
            yield from (row[column] or "" for row in table)
        else:
            yield from (line for text in file if (line := text.rstrip("\r\n")))


def _parquet_column(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            column = _column(path, file.schema_arrow.names)
            for batch in file.iter_batches(columns=[column]):
                yield from map(_as_path, batch.column(0).to_pylist())
    except pa.ArrowInvalid as error:
        raise SettingsError(f"--list {path}: not a Parquet file that can be read ({error})") from error


def _as_path(value: object) -> str:
    if isinstance(value, bytes):  # as names that are not UTF-8 have to be kept
        return os.fsdecode(value)
    return "" if value is None else str(value)


def _column(path: Path, names: Sequence[str]) -> str:
    by_lower = {name.lower(): name for name in reversed(names)}
    for name in COLUMNS:
        if name in by_lower:
            return by_lower[name]
    raise SettingsError(
        f"--list {path}: needs a column named {' or '.join(COLUMNS)}; it has {', '.join(names) or 'none'}"
    )


def _or_failure(found: Iterator[Listed], after: Position, source: str, problem: str) -> Iterator[Listed]:
    first = next(found, None)
    if first is not None:
        yield first
        yield from found
    elif after is None:
        looked = " ".join(sorted(SUFFIXES))
        yield source, Failed(f"{source}: {problem} (looked for {looked})", "missing"), None


def _is_photo_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - a Path for each of a million names takes seconds
