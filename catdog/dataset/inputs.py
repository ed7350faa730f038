"""The paths that a user gives -> opened sources with labels for their files. Reads names, and no photo."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catdog.dataset.archives import Load, is_archive_name
from catdog.dataset.layouts import SPECIES_FILE, Item, Layout, is_photo_name, parse_species, understand
from catdog.dataset.manifest import SPLITS, Split
from catdog.dataset.sources import Source, open_source
from catdog.errors import DataError, ImageError, SettingsError
from catdog.image import read_file

GivenSource = str | Path | tuple[str | Path, Split]
"""A path, or a path and the split that all its photos go into."""

_MAX_NAME: Final = 100  # characters of one part of a path; file systems allow 255 bytes, UTF-8 takes up to 4 each
_UNSAFE: Final = re.compile(r'[<>:"|?*\\/\x00-\x1f\x7f\ud800-\udfff]')  # for Windows; surrogates: no valid UTF-8
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # Windows' devices


@dataclass(frozen=True)
class Input:
    """A source that is ready to be read."""

    source: Source
    name: str
    """Unique among the inputs, and safe as a folder's name."""
    layout: Layout
    forced: Split | None

    def given(self, item: Item) -> Split | None:
        """The split that a file's photo was given, by the caller or by its source."""
        return self.forced or item.split


def open_inputs(given: Sequence[GivenSource]) -> list[Input]:
    """All sources, opened and understood; raises DataError for the first that can't be used."""
    if not given:
        raise DataError("no source was given; give folders or archives of photos")
    inputs: list[Input] = []
    names: set[str] = set()
    for entry in given:
        path, forced = entry if isinstance(entry, tuple) else (entry, None)
        if forced is not None and forced not in SPLITS:
            raise SettingsError(f"{path}: unknown split {forced!r}; it is one of {', '.join(SPLITS)}")
        for source, layout in _understood(Path(path)):
            inputs.append(Input(source, unique(safe_part(source.name), names), layout, forced))
    return inputs


def safe_part(part: str) -> str:
    """One part of a path, made safe as a name on Linux, macOS and Windows."""
    part = _UNSAFE.sub("_", unicodedata.normalize("NFC", part))
    if len(part) > _MAX_NAME:
        stem, dot, ending = part.rpartition(".")
        part = part[:_MAX_NAME] if not dot or len(ending) > 8 else f"{stem[: _MAX_NAME - len(ending) - 1]}.{ending}"
    part = part.rstrip(". ") or "_"
    return f"_{part}" if _RESERVED.match(part) else part


def unique(name: str, taken: set[str]) -> str:
    """``name``, or with a number before its ending where it is taken already (in any case); then it is taken, too."""
    candidate, number = name, 2
    stem, ending = re.fullmatch(r"(.+?)(\.[^./]*)?", name, re.DOTALL).groups("")  # type: ignore[union-attr]
    while candidate.casefold() in taken:
        candidate, number = f"{stem}~{number}{ending}", number + 1
    taken.add(candidate.casefold())
    return candidate


def _understood(path: Path) -> list[tuple[Source, Layout]]:
    """The sources at a path: itself, or the archives that lie in it if it is a folder of archives."""
    source = open_source(path)
    inside = [name for name in source.names if is_archive_name(name) and "/" not in name]
    if path.is_dir() and inside and not any(map(is_photo_name, source.names)):
        return _archives_in(path, source.name, inside)
    return [(source, _layout(source))]


def _archives_in(folder: Path, folder_name: str, names: Sequence[str]) -> list[tuple[Source, Layout]]:
    found, problems = [], []
    for name in names:
        source = open_source(folder / name)
        try:
            layout = _layout(source)
        except DataError as error:  # beside a set of photos: one without labels, or other things altogether
            problems.append((name, error))
            continue
        if layout.items:
            source.name = f"{folder_name}-{source.name}"
            found.append((source, layout))
    if not found:
        raise problems[0][1] if problems else DataError(f"{folder}: its archives hold no photos")
    found[0][0].refused += [(name, str(error)) for name, error in problems]
    return found


def _layout(source: Source) -> Layout:
    if SPECIES_FILE in _tails(source.names) and not any(map(is_photo_name, source.names)):
        return Layout("Oxford-IIIT Pet", ())  # its annotations alone: they are read beside the photos
    try:
        return understand(source.names, source.name, _species(source))
    except DataError as error:
        if any(map(is_archive_name, source.names)):
            raise DataError(f"{error}; it holds archives: unpack it and give the folder or those archives") from error
        raise


def _species(source: Source) -> Mapping[str, str] | None:
    """Oxford's table of species from the source itself, or from what lies beside it; None where there is none."""
    if (text := _species_text(source)) is not None:
        return parse_species(text, str(source.path))
    folder = source.path.resolve().parent
    if (folder / SPECIES_FILE).is_file():
        return parse_species(_text(lambda: read_file(folder / SPECIES_FILE)), str(folder))
    for ending in (".tar.gz", ".tgz", ".tar", ".zip"):
        beside = folder / f"annotations{ending}"
        if beside.is_file() and beside != source.path.resolve():
            text = _species_text(open_source(beside))
            return None if text is None else parse_species(text, str(beside))
    return None


def _species_text(source: Source) -> str | None:
    name = _tails(source.names).get(SPECIES_FILE)
    if name is None:
        return None
    return next((_text(load) for _, load in source.read({name})), None)


def _tails(names: Iterable[str]) -> dict[str, str]:
    """{the last two parts of a path: the path} of the text files called ``list.txt``."""
    return {"/".join(name.split("/")[-2:]): name for name in names if name.endswith("/list.txt")}


def _text(load: Load) -> str:
    try:
        return load().decode("utf-8", "replace")
    except ImageError as error:
        raise DataError(str(error)) from error
