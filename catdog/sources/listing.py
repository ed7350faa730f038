"""SOURCE arguments to inputs, one after the other, from any point on.

    ["photos/", "shards/{000..099}.tar", "s3://bucket/prefix/"], ["more.csv"] -> Input(source, content, ...), ...

Nothing but names is read here, and a million of them never sit in memory. The order is always the same, and every
input carries the cursor at which a later listing goes on behind it: by name, not by count, so that photos which come
or go meanwhile move no other photo's place. Every input also carries a version, which is another one when the photo
was replaced.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from catdog.errors import DataError, ImageError, ImageReason, SettingsError
from catdog.image import SUFFIXES
from catdog.sources.contents import Content, Failed, File, Stdin, Web, file_version
from catdog.sources.names import (
    INSIDE,
    MAGIC,
    Parts,
    expand_braces,
    is_archive_name,
    is_junk,
    is_object_uri,
    is_photo_name,
    is_url,
    matches,
    split_pattern,
)

STDIN: Final = "-"
Position = Any
"""Where in one source a listing goes on, as JSON. None stands for its start, and in an input's cursor for its end."""


class Cursor(NamedTuple):
    """Where a listing goes on."""

    source: int
    """The number of the source among the arguments."""
    position: Position


class Input(NamedTuple):
    """One photo, still unread."""

    source: str
    """Its name in the results: the path, ``photos.zip!/cats/1.jpg`` or ``s3://bucket/key``."""
    content: Content
    cursor: Cursor
    """Where a later listing goes on: behind this input."""
    version: str | None = None
    """Differs when the photo was replaced: time of change and size, an ETag, or a checksum; None if unknown."""


class SourceChangedError(DataError):
    """An archive or a list in which a listing was to go on is another one by now."""


_Listed = tuple[str, Content, Position, str | None]
"""A source, its content, the position behind it, its version; no class, which takes a millisecond to make."""
_Lister = Callable[[Position], Iterator[_Listed]]
"""Lists one source from a position (None: its start) on."""
RecallSources = Callable[[str, str], Sequence[str] | None]
"""Return the sources in an archive of this version, where an earlier listing has left them; None where it hasn't."""


def list_inputs(
    sources: Iterable[str],
    lists: Sequence[str | Path] = (),
    after: Cursor | None = None,
    *,
    stdin: bool = False,
    private_urls: bool = False,
    recall_sources: RecallSources = lambda archive, version: None,
) -> Iterator[Input]:
    """All inputs in order, or those behind ``after``; a source that stands for no photo gives one that fails.

    A source is a file, a folder, a pattern (``*``, ``?``, ``**``, ``{000..099}``, ``{a,b}``), an archive, a member of
    one (``photos.zip!/1.jpg``), a URL, or an ``s3://``, ``gs://`` or ``az://`` address of these; with ``stdin``, ``-``
    is standard input. Lists name one input a line or row; their URLs may lead into a private network, as one that the
    user typed may, only with ``private_urls``. ``recall_sources`` spares reading an archive that can only be read from
    its start. Raises DataError for a bucket that can't be listed, SettingsError for a list that can't be read, and
    SourceChangedError when the archive or list at ``after`` was replaced.
    """
    start = after or Cursor(0, None)
    for number, lister in enumerate(_make_listers(sources, lists, stdin, private_urls, recall_sources)):
        if number < start.source or (after is not None and number == start.source and start.position is None):
            continue
        position = start.position if number == start.source else None
        for source, content, behind, version in lister(position):
            yield Input(source, content, Cursor(number, behind), version)


def can_count(sources: Sequence[str]) -> bool:
    """Whether counting the inputs is much less work than reading them: no archive has to be read from its start."""
    from catdog.sources.archives import must_be_streamed

    for source in itertools.chain.from_iterable(map(expand_braces, sources)):
        if not is_archive_name(source):
            continue
        if MAGIC.search(source) and not os.path.lexists(source):
            return False  # which archives these are, only a listing says
        if (is_object_uri(source) or os.path.lexists(source)) and must_be_streamed(source):
            return False
    return True


def content_for(source: str, *, typed: bool = True) -> Content:
    """What a single source stands for by its name alone: to read a photo again, or one that a list names.

    ``typed``: whether the user named it themselves, so that a URL may lead into their own network.
    """
    if is_url(source):
        return Web(source, typed)
    archive, inside, member = source.partition(INSIDE)
    if inside and is_archive_name(archive):
        from catdog.sources.members import NamedMember

        return NamedMember(archive, member)
    if is_object_uri(source):
        from catdog.sources.addresses import split_uri  # most runs have no object, and need not wait for these two
        from catdog.sources.objects import Object

        try:
            split_uri(source)
        except SettingsError as error:
            return Failed(str(error), "unsupported")
        return Object(source)
    return File(source) if source else Failed("'': an empty path", "missing")


def _make_listers(
    sources: Iterable[str], lists: Sequence[str | Path], stdin: bool, private_urls: bool, recall_sources: RecallSources
) -> Iterator[_Lister]:
    for source in itertools.chain.from_iterable(map(expand_braces, sources)):
        yield _make_lister(source, stdin, recall_sources)
    for path in lists:
        yield partial(_list_entries, str(path), private_urls)


def _make_lister(source: str, stdin: bool, recall_sources: RecallSources) -> _Lister:
    if stdin and source == STDIN:
        return lambda position: _list_one(source, Stdin(), position)
    content = content_for(source)
    if is_object_uri(source) and not isinstance(content, Failed) and not hasattr(content, "archive"):
        return _make_object_lister(source, content, recall_sources)
    if isinstance(content, Web):  # before patterns: its "?" is none
        from catdog.sources.web import redact

        return lambda position: _list_one(redact(source), content, position)
    if os.path.isdir(source):  # noqa: PTH112 - a Path raises an error for a name that is too long
        return lambda position: _list_folder(Path(source), position)
    if MAGIC.search(source) and not os.path.lexists(source):
        return lambda position: _list_pattern(source, position, recall_sources)
    if is_archive_name(source) and os.path.lexists(source):
        return lambda position: _list_archive(source, position, recall_sources)
    if isinstance(content, File) and not is_photo_name(source) and not os.path.lexists(source):
        content = Failed(f"{source}: no such file", "missing", of_listing=True)  # it may be a folder that is away
    return lambda position: _list_one(source, content, position)


def _make_object_lister(source: str, content: Content, recall_sources: RecallSources) -> _Lister:
    from catdog.sources.addresses import split_uri

    root, key = split_uri(source)
    if MAGIC.search(key):
        return lambda position: _list_object_pattern(source, root, key, position, recall_sources)
    if is_archive_name(key):
        return lambda position: _list_archive(source, position, recall_sources)
    if is_photo_name(key):
        return lambda position: _list_one(source, content, position, _find_object_version(source))
    prefix = key if not key or key.endswith("/") else f"{key}/"
    return lambda position: _list_prefix(source, root, prefix, position)


def _list_one(source: str, content: Content, after: Position, version: str | None = None) -> Iterator[_Listed]:
    if after is not None:  # then it was one of the sources below, that hold many photos
        raise DataError(f"{source}: is not there now, and was when the run began; bring it back and start again")
    yield source, content, None, version or _find_version(content)


def _find_version(content: Content) -> str | None:
    """The version of what is named by itself; objects are not asked for theirs, as each would cost a request."""
    path = content.path if isinstance(content, File) else getattr(content, "archive", None)
    return None if path is None or is_object_uri(path) else file_version(path)


def _find_object_version(uri: str) -> str | None:
    from catdog.sources import objects
    from catdog.sources.addresses import ObjectError

    try:
        return objects.object_version(uri)
    except ObjectError:  # its reading will say what is wrong
        return None


def _list_folder(folder: Path, after: Position) -> Iterator[_Listed]:
    yield from _fail_if_empty(_list_tree(folder, after), after, str(folder), "no photo in this folder")


def _list_pattern(pattern: str, after: Position, recall_sources: RecallSources) -> Iterator[_Listed]:
    folder, patterns = split_pattern(pattern)
    found = _list_tree(folder, after, patterns, recall_sources) if folder.is_dir() else iter(())
    yield from _fail_if_empty(found, after, pattern, "no photo matches this pattern")


def _list_tree(
    folder: Path, after: Position, patterns: Parts = (), recall_sources: RecallSources = lambda archive, version: None
) -> Iterator[_Listed]:
    """A position is the parts of a path below ``folder``; in an archive that a pattern names, with a place in it."""
    last, inside = _get_from_position(after, "path", str(folder)), after and after.get("inside")
    archives = bool(patterns) and is_archive_name(patterns[-1])

    def may_enter(parts: Parts, is_folder: bool) -> bool:
        if last and is_folder and _make_sort_key((*parts, ""))[: len(parts)] < _make_sort_key(last)[: len(parts)]:
            return False
        return not patterns or matches(parts, patterns, start=is_folder)

    from catdog.sources.folders import walk

    for path, problem in walk(folder, is_archive_name if archives else is_photo_name, may_enter):
        below = Path(path).relative_to(folder).parts
        parts = [*below, ""] if problem else [*below]  # a folder that can't be listed comes where its files would
        if last and _make_sort_key(parts) < _make_sort_key(last):
            continue
        if problem:
            if parts != last:
                failure = Failed(f"{path}: can't be listed ({problem})", "unreadable", of_listing=True)
                yield path, failure, {"path": parts}, None
        elif archives:
            if parts == last and inside is None:
                continue
            for source, content, behind, version in _list_archive(
                path, inside if parts == last else None, recall_sources
            ):
                place = {"path": parts} | ({} if behind is None else {"inside": behind})
                yield source, content, place, version
        elif parts != last:
            yield path, File(path), {"path": parts}, file_version(path)


def _make_sort_key(parts: Sequence[str]) -> list[tuple[bool, str]]:
    """Return a key that sorts paths as ``walk`` does: a folder's files before its subfolders."""
    return [(i < len(parts) - 1, part) for i, part in enumerate(parts)]


def _list_archive(archive: str, after: Position, recall_sources: RecallSources) -> Iterator[_Listed]:
    """A position is a place in the archive, with the archive's version."""
    from catdog.sources.archives import archive_version

    version = archive_version(archive)
    if after is not None and _get_from_position(after, "state", archive) != version:
        raise SourceChangedError(f"{archive}: has changed since the run began")
    if version and (after is None or "known" in after):
        sources = recall_sources(archive, version)  # those that are left
        if sources is not None:
            for number, source in enumerate(sources, start=after["known"] + 1 if after else 1):
                yield source, content_for(source), {"known": number, "state": version}, version
            return
        if after is not None:
            raise SourceChangedError(f"{archive}: what it held is not known any more")
    found = _list_members(archive, after["at"] if after else 0, version)
    yield from _fail_if_empty(found, after, archive, "no photo in this archive")


def _list_members(archive: str, after: int, version: str | None) -> Iterator[_Listed]:
    from catdog.sources.addresses import MissingObjectError, ObjectError
    from catdog.sources.archives import list_members

    try:
        for member in list_members(archive, is_wanted_member, after):
            if is_wanted_member(member.name) and member.is_plain:
                place = {"at": member.position, "state": version}
                yield f"{archive}{INSIDE}{member.name}", member.content, place, member.version
    except ImageError as error:
        yield archive, Failed(str(error), error.reason, of_listing=True), None, version
    except ObjectError as error:
        reason: ImageReason = "missing" if isinstance(error, MissingObjectError) else "unreadable"
        yield archive, Failed(str(error), reason, of_listing=True), None, version


def is_wanted_member(name: str) -> bool:
    """Whether a member of an archive is a photo by its name, and no junk."""
    return is_photo_name(name) and not is_junk(name)


def _list_prefix(source: str, root: str, prefix: str, after: Position) -> Iterator[_Listed]:
    from catdog.sources import objects

    found = (
        (f"{root}/{item.key}", objects.Object(f"{root}/{item.key}", item.size), {"key": item.key}, item.version)
        for item in objects.list_objects(root, prefix, _get_from_position(after, "key", source) or "")
        if is_photo_name(item.key) and not is_junk(item.key[len(prefix) :])
    )
    yield from _fail_if_empty(found, after, source, "no photo under this prefix")


def _list_object_pattern(
    source: str, root: str, pattern: str, after: Position, recall_sources: RecallSources
) -> Iterator[_Listed]:
    from catdog.sources import objects

    fixed = pattern[: MAGIC.search(pattern).start()]  # type: ignore[union-attr]  # the caller has looked
    archives, parts, folder = is_archive_name(pattern), tuple(pattern.split("/")), fixed.rfind("/") + 1
    last, inside = _get_from_position(after, "key", source) or "", after and after.get("inside")

    def list_found() -> Iterator[_Listed]:
        keys: Iterator[objects.Listed] = objects.list_objects(root, fixed, last)
        if inside is not None:
            keys = itertools.chain([objects.Listed(last, 0, None)], keys)
        for key, size, version in keys:
            if not matches(tuple(key.split("/")), parts) or is_junk(key[folder:]):
                continue
            uri = f"{root}/{key}"
            if archives:
                for found, content, behind, state in _list_archive(
                    uri, inside if key == last else None, recall_sources
                ):
                    place = {"key": key} | ({} if behind is None else {"inside": behind})
                    yield found, content, place, state
            elif is_photo_name(key):
                yield uri, objects.Object(uri, size), {"key": key}, version

    yield from _fail_if_empty(list_found(), after, source, "no photo matches this pattern")


def _list_entries(path: str, private_urls: bool, after: Position) -> Iterator[_Listed]:
    """A position is the number of entries before it, with the list's version."""
    from catdog.sources.archives import archive_version
    from catdog.sources.lists import read_entries
    from catdog.sources.web import redact

    state = archive_version(path)
    if after is not None and _get_from_position(after, "state", path) != state:
        raise SourceChangedError(f"--list {path}: has changed since the run began")
    for number, entry in enumerate(read_entries(path), start=1):
        if number > (after["at"] if after else 0):
            content = content_for(entry, typed=private_urls)
            source = redact(entry) if isinstance(content, Web) else entry
            yield source, content, {"at": number, "state": state}, _find_version(content)


def _fail_if_empty(found: Iterator[_Listed], after: Position, source: str, problem: str) -> Iterator[_Listed]:
    """Yield what was found; where that is nothing from the source's start on, an input that says so."""
    first = next(found, None)
    if first is not None:
        yield first
        yield from found
    elif after is None:
        looked = " ".join(sorted(SUFFIXES))
        yield source, Failed(f"{source}: {problem} (looked for {looked})", "missing", of_listing=True), None, None


def _get_from_position(position: Position, name: str, source: str) -> Any:
    """Return a part of a position, None at the start; raises SourceChangedError for one in a source of another kind."""
    if position is None:
        return None
    if not isinstance(position, dict) or name not in position:
        raise SourceChangedError(f"{source}: is something else than when the run began")
    return position[name]
