"""The sources that a user gives -> trees of files with labels. Reads names, and no photo."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catdog.dataset.annotated import Annotations, read_annotations
from catdog.dataset.layouts import SPECIES_FILE, Item, Layout, is_photo_of_oxford, parse_species, understand
from catdog.dataset.manifest import SPLITS, Split
from catdog.errors import DataError, ImageError, SettingsError
from catdog.sources.contents import Content
from catdog.sources.names import is_archive_name, is_object_uri, is_photo_name
from catdog.sources.trees import Tree, open_tree

GivenSource = str | Path | tuple[str | Path, Split]
"""A path, or a path and the split that all its photos go into."""

_MAX_NAME: Final = 100  # characters of one part of a path
_MAX_NAME_BYTES: Final = 240  # file systems allow 255, of which the number of a second one takes some
_UNSAFE: Final = re.compile(r'[<>:"|?*\\/\x00-\x1f\x7f\ud800-\udfff]')  # for Windows; surrogates: no valid UTF-8
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # Windows' devices


_Opened = tuple[Tree, Layout, Annotations]


@dataclass(frozen=True)
class LabelledTree:
    """A source that is ready to be read."""

    tree: Tree
    name: str
    """Unique among the sources, and safe as a folder's name."""
    layout: Layout
    annotations: Annotations
    forced: Split | None

    def split_of(self, item: Item) -> Split | None:
        """The split that a file's photo was given, by the caller or by its source; None where it was given none."""
        return self.forced or item.split


def open_trees(given: Sequence[GivenSource]) -> list[LabelledTree]:
    """Open all sources and find out what their names mean; raises DataError for the first that can't be used."""
    if not given:
        raise DataError("no source was given; give folders or archives of photos")
    trees: list[LabelledTree] = []
    names: set[str] = set()
    seen: set[str] = set()
    for entry in given:
        place, forced = entry if isinstance(entry, tuple) else (entry, None)
        if forced is not None and forced not in SPLITS:
            raise SettingsError(f"{place}: unknown split {forced!r}; it is one of {', '.join(SPLITS)}")
        found = _open_with_layout(str(place))
        real = str(place) if is_object_uri(str(place)) else str(Path(place).resolve())
        if real in seen:
            raise SettingsError(f"{place}: was given twice; give each source once")
        seen.add(real)
        for tree, layout, marked in found:
            name = unique(safe_part(tree.name).lstrip(".") or "_", names)
            trees.append(LabelledTree(tree, name, layout, marked, forced))
    return trees


def safe_part(part: str) -> str:
    """One part of a path, made safe as a name on Linux, macOS and Windows."""
    part = _UNSAFE.sub("_", unicodedata.normalize("NFC", part))
    if len(part) > _MAX_NAME or len(part.encode()) > _MAX_NAME_BYTES:
        found = re.fullmatch(r"(.*)(\.[^.]{0,8})", part, re.DOTALL)
        stem, ending = found.groups() if found else (part, "")
        stem = stem[: _MAX_NAME - len(ending)].encode()[: _MAX_NAME_BYTES - len(ending.encode())]
        part = stem.decode("utf-8", "ignore") + ending
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


def _open_with_layout(place: str) -> list[_Opened]:
    """The trees at a place: the source itself, or the archives that lie in it if it is a folder of archives."""
    tree = open_tree(place)
    inside = [name for name in tree.names if is_archive_name(name) and "/" not in name]
    is_folder = is_object_uri(place) or Path(place).is_dir()
    if is_folder and inside and not any(map(is_photo_name, tree.names)):
        return _open_archives_in(tree, inside)
    return [(tree, *_find_layout(tree))]


def _open_archives_in(folder: Tree, names: Sequence[str]) -> list[_Opened]:
    found, problems = [], []
    for name in names:
        tree = open_tree(f"{folder.place.rstrip('/')}/{name}")
        try:
            layout, annotations = _find_layout(tree)
        except DataError as error:  # beside a set of photos: one without labels, or other things altogether
            problems.append((name, error))
            continue
        if layout.items:
            tree.name = f"{folder.name}-{tree.name}"
            found.append((tree, layout, annotations))
    if not found:
        raise problems[0][1] if problems else DataError(f"{folder.place}: its archives hold no photos")
    found[0][0].refused += [(name, str(error)) for name, error in problems]
    return found


def _find_layout(tree: Tree) -> tuple[Layout, Annotations]:
    if _find_species_file(tree) and not any(map(is_photo_of_oxford, tree.names)):
        return Layout("Oxford-IIIT Pet", ()), Annotations()  # its annotations alone: they are read beside the photos
    if not tree.names and tree.refused:
        name, why = tree.refused[0]
        raise DataError(
            f"{tree.place}: none of its {len(tree.refused)} files can be used; the first one, {name}: {why}"
        )
    try:
        notes = _find_oxford_notes(tree)
        species = None if notes is None else _read_species(notes)
        annotations = read_annotations(notes or tree, filter(is_photo_of_oxford, tree.names))
        names = [name for name in tree.names if notes or name not in annotations.files]
        return understand(names, tree.name, species, annotations.labels), annotations
    except DataError as error:
        if any(map(is_archive_name, tree.names)):
            raise DataError(f"{error}; it holds archives: unpack it and give the folder or those archives") from error
        raise


def _find_oxford_notes(tree: Tree) -> Tree | None:
    """The source itself or what lies beside it, if Oxford's table of species is there; None where it isn't."""
    if _find_species_file(tree):
        return tree
    if is_object_uri(tree.place):
        return None
    source = Path(tree.place).resolve()
    for name in ("annotations", *(f"annotations{ending}" for ending in (".tar.gz", ".tgz", ".tar", ".zip"))):
        beside = source.parent / name
        if beside.exists() and beside != source:
            notes = open_tree(beside)
            return notes if _find_species_file(notes) else None
    return None


def _read_species(tree: Tree) -> Mapping[str, str]:
    """Oxford's table of species."""
    (name,) = filter(None, [_find_species_file(tree)])
    text = next((_decode(content, name) for _, content in tree.contents({name})), "")
    return parse_species(text, tree.place)


def _find_species_file(tree: Tree) -> str | None:
    """The path of ``annotations/list.txt``; in a folder or an archive ``annotations`` that may be its own."""
    return next((name for name in tree.names if f"/{tree.name}/{name}".endswith(f"/{SPECIES_FILE}")), None)


def _decode(content: Content, name: str) -> str:
    try:
        return content.read(name).decode("utf-8", "replace")
    except ImageError as error:
        raise DataError(str(error)) from error
