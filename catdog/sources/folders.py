"""Folders: their files in one fixed order, from any size of tree, with bounded memory.

walk(Path("photos")) -> ("photos/1.jpg", None), ("photos/a/2.jpg", None), ...
"""

from __future__ import annotations

import heapq
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final, NamedTuple

from catdog.sources.names import Parts, is_junk_part, is_photo_name

SORTED_AT_ONCE: Final = 50_000  # names of one folder; of a larger one sorted runs wait on disk


class Found(NamedTuple):
    """A file, or a folder that can't be listed."""

    path: str
    problem: str | None = None
    """Why the folder can't be listed; None for a file."""


def walk(
    folder: Path,
    is_wanted: Callable[[str], bool] = is_photo_name,
    may_enter: Callable[[Parts, bool], bool] | None = None,
    follow_links: bool = False,
) -> Iterator[Found]:
    """The files under a folder whose names are wanted: its own before those of its subfolders, both sorted by name.

    Junk and hidden files are passed over, and so are links to folders unless ``follow_links``, which enters each
    folder once. ``may_enter`` is given the parts of a path below ``folder`` and whether it is a folder's; False leaves
    it out. Of a million files in one folder, SORTED_AT_ONCE names at most are in memory.
    """
    waiting: list[Parts] = [()]
    seen: set[str] = set()
    while waiting:
        parts = waiting.pop()
        here = folder.joinpath(*parts)
        if follow_links:
            if (real := os.path.realpath(here)) in seen:
                continue
            seen.add(real)
        folders: list[Parts] = []
        try:
            with os.scandir(here) as entries:
                runs = _sort(
                    (e.is_dir(follow_symlinks=follow_links), e.name) for e in entries if not is_junk_part(e.name)
                )
        except OSError as error:
            yield Found(str(here), error.strerror or str(error))
            continue
        for is_folder, name in heapq.merge(*runs):  # files come first
            if may_enter and not may_enter((*parts, name), is_folder):
                continue
            if is_folder:
                folders.append((*parts, name))
            elif is_wanted(name):
                yield Found(str(folder.joinpath(*parts, name)))
        waiting += reversed(folders)


def _sort(items: Iterable[tuple[bool, str]]) -> list[Iterator[tuple[bool, str]]]:
    """Sorted streams to be merged; when there is more than one, they are read from temporary files."""
    items = iter(items)
    runs: list[Iterator[tuple[bool, str]]] = []
    while run := sorted(islice(items, SORTED_AT_ONCE)):
        runs.append(iter(run) if not runs and len(run) < SORTED_AT_ONCE else _spill(run))
    return runs


def _spill(run: list[tuple[bool, str]]) -> Iterator[tuple[bool, str]]:
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
