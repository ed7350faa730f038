"""What names say, before anything is opened: photo, archive, junk, pattern. One rule for every room."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from catdog.errors import SettingsError
from catdog.image import SUFFIXES

INSIDE: Final = "!/"  # between an archive and a member of it, as in "photos.zip!/cats/1.jpg" (after Java's jar: URLs)
OBJECT_SCHEMES: Final = ("s3://", "gs://", "az://")
MAGIC: Final = re.compile(r"[*?[]")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ARCHIVE_ENDING: Final = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
# macOS and Synology keep copies and thumbnails in folders of these names, Windows its own files beside photos.
_JUNK: Final = frozenset(("__macosx", "@eadir", "thumbs.db", "desktop.ini"))
_BRACES: Final = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_RANGE: Final = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MOST_BRACES: Final = 50  # of one source, since each is expanded inside the one before

Parts = tuple[str, ...]


def is_photo_name(name: str) -> bool:
    """Whether a file's ending says that it is a photo."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - a Path for each of a million names takes seconds


def is_archive_name(name: str) -> bool:
    """Whether a file's ending says that it is an archive."""
    return bool(_ARCHIVE_ENDING.search(name))


def strip_archive_ending(name: str) -> str:
    """The name of an archive without ``.zip``, ``.tar.gz`` and the like."""
    return _ARCHIVE_ENDING.sub("", name) or name


def is_junk_part(part: str) -> bool:
    """Whether a file or folder of this name is one that systems leave behind, or hidden."""
    return part.startswith(".") or part.lower() in _JUNK


def is_junk(name: str) -> bool:
    """Whether any part of a path below a source is junk; ``.`` and ``..`` are none (``tar c .`` makes "./1.jpg")."""
    return any(is_junk_part(part) for part in name.replace("\\", "/").split("/") if part not in (".", ".."))


def is_object_uri(place: str) -> bool:
    """Whether this is the address of an object, or a prefix of some, in an object store."""
    return place[:5].lower() in OBJECT_SCHEMES


def is_url(place: str) -> bool:
    """Whether this is a URL of any scheme that is no object store's."""
    return bool(_URL.match(place)) and not is_object_uri(place)


def safe_member_name(name: str) -> str | None:
    """An archive member's path with ``/`` and no empty parts; None when it leads out of the archive."""
    name = name.replace("\\", "/")  # archives made on Windows; a drive or .. behind a backslash shows up below
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", parts[0]) or "\0" in name:
        return None
    return "/".join(parts)


def matches(parts: Parts, patterns: Parts, start: bool = False) -> bool:
    """Whether the parts of a path fit the patterns; with ``start``, whether they could once they go on."""
    reached = _pass_stars({0}, patterns)
    for part in parts:
        stayed = {at for at in reached if patterns[at : at + 1] == ("**",)}
        moved = {at + 1 for at in reached - stayed if at < len(patterns) and fnmatch.fnmatch(part, patterns[at])}
        reached = _pass_stars(stayed | moved, patterns)
    return bool(reached) if start else len(patterns) in reached


def _pass_stars(reached: set[int], patterns: Parts) -> set[int]:
    """The places among the patterns that are reached, and those behind a ``**``, which may stand for nothing."""
    for at, pattern in enumerate(patterns):
        if at in reached and pattern == "**":
            reached.add(at + 1)
    return reached


def expand_braces(source: str) -> Iterator[str]:
    """``a{1,2}/{08..10}.tar`` -> a1/08.tar, a1/09.tar, a1/10.tar, a2/08.tar, ...; a file that is so named wins."""
    found = None if is_url(source) or os.path.lexists(source) else _BRACES.search(source)
    if found is None:
        yield source
        return
    if source.count("{") > _MOST_BRACES:
        raise SettingsError(f"{source[:100]}...: more than {_MOST_BRACES} brace sets; write a --list")
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


def check_apart(flag: str, out: Path, sources: Iterable[str | Path]) -> None:
    """Raise SettingsError where a source leads into ``out``: what is written there would be its photos the next time.

    A source is a folder or a pattern; others hold nothing that this machine writes.
    """
    patterns: tuple[str, ...]
    for source in chain.from_iterable(map(expand_braces, map(str, sources))):
        if os.path.isdir(source):  # noqa: PTH112 - a Path raises an error for a name that is too long
            found: tuple[Path, Parts] = Path(source), ("**",)
        elif MAGIC.search(source) and not (is_url(source) or is_object_uri(source) or os.path.lexists(source)):
            found = split_pattern(source)
        else:
            continue
        folder, patterns = found
        here, there = out.resolve(), folder.resolve()
        if here.is_relative_to(there) and matches(here.relative_to(there).parts, patterns, start=True):
            raise SettingsError(
                f"{flag} {out}: lies in {source}, so the next run would take for photos what is written there; "
                "give a place outside of it"
            )


def split_pattern(pattern: str) -> tuple[Path, Parts]:
    """A local pattern as the folder before its first special character and the patterns below it."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    return Path(*parts[:fixed]), parts[fixed:]
