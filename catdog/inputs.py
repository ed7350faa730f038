"""PATH arguments to photos: files, folders, patterns, URLs and standard input, one after the other.

    ["cat.jpg", "photos/", "b/**/*.png", "https://...", "-"] -> Photo(source, content), ...

Nothing is opened here. Folders are read one at a time, so that the first photo of a huge tree comes at once.
"""

from __future__ import annotations

import fnmatch
import heapq
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Final, NamedTuple

from catdog.errors import ImageError
from catdog.image import MAX_BYTES, SUFFIXES

SORTED_AT_ONCE: Final = 50_000  # names of one folder; of a larger one sorted runs wait on disk
JUNK: Final = frozenset({"__MACOSX", "@eaDir"})  # macOS and Synology put copies and thumbnails there
STDIN: Final = "-"
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
MAGIC: Final = re.compile(r"[*?[]")

Parts = tuple[str, ...]


class Photo(NamedTuple):
    """One photo to answer for, still unread."""

    source: str
    """As it is named in the answer: the path, the URL without its password, or ``-``."""
    content: str | ImageError | Callable[[], bytes]
    """A path, a reason why there is none, or what gives the bytes when it is called (and may raise ImageError)."""


def expand(paths: Iterable[str]) -> Iterator[Photo]:
    """The photos that each of ``paths`` stands for, in order; one that stands for none gives a Photo with an error.

    A folder stands for the files under it whose ending is a photo's, sorted folder by folder; hidden files and
    symbolic links to folders are passed over. A pattern (``*``, ``?``, ``[...]``, ``**`` for any number of folders)
    stands for those of the same files that match; a file that is really so named wins over the pattern.
    """
    for path in paths:
        if path == STDIN:
            yield Photo(path, read_stdin)
        elif _URL.match(path):
            from catdog import fetch  # most runs have no URL and need not wait for ssl

            yield Photo(fetch.redact(path), partial(fetch.fetch, path))
        elif path and Path(path).is_dir():
            yield from _or_error(scan(Path(path)), path, "no photo in this folder")
        elif MAGIC.search(path) and not os.path.lexists(path):
            yield from _or_error(_glob(path), path, "no photo matches this pattern")
        else:
            yield Photo(path, path) if path else Photo(path, ImageError("'': an empty path", "missing"))


def scan(
    folder: Path,
    wanted: Callable[[Parts, bool], bool] | None = None,
    is_photo: Callable[[str], bool] = lambda name: Path(name).suffix.lower() in SUFFIXES,
) -> Iterator[Photo]:
    """The photos under a folder, its own before those of its subfolders, both sorted by name.

    ``wanted``: is given the parts of a path below ``folder`` and whether it is a folder's; False leaves it out.
    Of a million files in one folder, SORTED_AT_ONCE names at most are in memory.
    """
    waiting: list[Parts] = [()]
    while waiting:
        parts = waiting.pop()
        here = folder.joinpath(*parts)
        folders: list[Parts] = []
        try:
            with os.scandir(here) as found:
                entries = _sorted_runs((e.is_dir(follow_symlinks=False), e.name) for e in found if _visible(e))
        except OSError as error:
            yield Photo(str(here), ImageError(f"{here}: can't be listed ({error.strerror})", "unreadable"))
            continue
        for is_folder, name in heapq.merge(*entries):  # files come first
            if wanted and not wanted((*parts, name), is_folder):
                continue
            if is_folder:
                folders.append((*parts, name))
            elif is_photo(name):
                path = str(folder.joinpath(*parts, name))
                yield Photo(path, path)
        waiting += reversed(folders)


def read_stdin() -> bytes:
    """All of standard input, which is one photo; raises ImageError over MAX_BYTES."""
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{STDIN}: over the limit of {MAX_BYTES} bytes", "too_large")
    return data


def _sorted_runs(items: Iterable[tuple[bool, str]]) -> list[Iterator[tuple[bool, str]]]:
    """Sorted streams, to be merged; when there is more than one, they are read from temporary files."""
    items = iter(items)
    runs: list[Iterator[tuple[bool, str]]] = []
    while run := sorted(islice(items, SORTED_AT_ONCE)):
        runs.append(iter(run) if not runs and len(run) < SORTED_AT_ONCE else _spilled(run))
    return runs


def _spilled(run: list[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the last name was read
    blocks = [run[start : start + 1000] for start in range(0, len(run), 1000)]
    for block in blocks:
        pickle.dump(block, file)
    file.seek(0)
    return _read_back(file, len(blocks))


def _read_back(file: IO[bytes], blocks: int) -> Iterator[tuple[bool, str]]:
    with file:
        for _ in range(blocks):
            yield from pickle.load(file)  # noqa: S301 - our own, written to a file that has no name


def _visible(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name not in JUNK


def _or_error(photos: Iterator[Photo], path: str, problem: str) -> Iterator[Photo]:
    first = next(photos, None)
    if first is None:
        endings = " ".join(sorted(SUFFIXES))
        yield Photo(path, ImageError(f"{path}: {problem} (looked for {endings})", "missing"))
    else:
        yield first
        yield from photos


def _glob(pattern: str) -> Iterator[Photo]:
    # glob.glob follows links round and round, and gives no order; pathlib's differs from Python to Python.
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    folder, patterns = Path(*parts[:fixed]), parts[fixed:]
    if not folder.is_dir():
        return iter(())
    return scan(folder, lambda below, is_folder: matches(below, patterns, start=is_folder))


def matches(parts: Parts, patterns: Parts, start: bool) -> bool:
    """Whether the parts fit the patterns, or with ``start`` could once they go on."""
    if not patterns:
        return not parts
    if not parts:
        return start or all(pattern == "**" for pattern in patterns)
    if patterns[0] == "**":
        return matches(parts, patterns[1:], start) or matches(parts[1:], patterns, start)
    return fnmatch.fnmatch(parts[0], patterns[0]) and matches(parts[1:], patterns[1:], start)
