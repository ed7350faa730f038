"""Which files of a source annotate which of its photos, told apart by their names. Reads annotations, and no photo.

COCO           instances_train.json, _annotations.coco.json, any .json in a folder annotations/
PASCAL VOC     an .xml called like a photo, or in a folder Annotations/ or xmls/
YOLO           labels/1.txt for images/1.jpg, or 1.txt beside 1.jpg; with data.yaml, classes.txt or obj.names
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Final, TypeVar

from catdog.dataset import coco, voc, yolo
from catdog.dataset.annotations import Annotation, Flaw, known_class
from catdog.errors import DataError, ImageError
from catdog.sources.trees import Tree

_COCO_NAME: Final = re.compile(r"(^|/)(annotations/[^/]*|instances[^/]*|[^/]*annotations[^/]*)\.json$", re.IGNORECASE)
_VOC_FOLDERS: Final = ("annotations", "xmls")

Parsed = TypeVar("Parsed")


@dataclass
class Annotations:
    """What a source says of its photos."""

    of: dict[str, Annotation] = field(default_factory=dict)
    """By the photo's path inside the source."""
    files: set[str] = field(default_factory=set)
    """The annotations themselves, which nobody may take for damaged photos."""
    flaws: list[Flaw] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str | None]:
        """What the annotations say that each photo shows; None where they can't be used."""
        return {photo: annotation.label for photo, annotation in self.of.items()}

    def add(self, photo: str, annotation: Annotation) -> None:
        """Enter what a file says of a photo; where another one has said something before, that stays."""
        if (first := self.of.setdefault(photo, annotation)) is not annotation:
            message = f"{annotation.path}: {photo} is annotated already, by {first.path}"
            self.flaws.append(Flaw(annotation.path, "annotated_twice", message))


def read_annotations(notes: Tree, photos: Iterable[str]) -> Annotations:
    """Return what the files in ``notes`` say of photos with these paths, which may be in another tree.

    What is wrong is listed. Raises DataError for an archive that can't be read, and SettingsError where reading YAML
    takes a package that isn't there.
    """
    found = Annotations()
    paths = _Photos(photos)
    _read_coco(notes, paths, found)
    _read_voc(notes, paths, found)
    _read_yolo(notes, paths, found)
    found.flaws += _count_others(found.of.values())
    return found


class _Photos:
    """The paths of photos, looked up by what annotations call them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = paths

    @cached_property
    def _by_stem(self) -> dict[str, list[PurePosixPath]]:
        """Made when it is needed, since most sources have many photos and no annotations."""
        by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in map(PurePosixPath, self._paths):
            by_stem[_compose(path.stem)].append(path)
        return by_stem

    def __iter__(self) -> Iterator[PurePosixPath]:
        return (path for paths in self._by_stem.values() for path in paths)

    def has_stem(self, stem: str) -> bool:
        return _compose(stem) in self._by_stem

    def find(self, name: str, file: str, by_stem: bool = False) -> str | Flaw:
        """Return the path of the photo that ``file`` calls ``name``, or why there isn't one.

        Tools disagree on which folder a name begins in. Of several photos it is the one that shares most of the name
        from its end; of those, the one beside the file. ``by_stem``: the name is without folders and ending.
        """
        composed = _compose(name)
        parts = PurePosixPath(composed.replace("\\", "/")).parts
        stem = composed if by_stem else PurePosixPath(parts[-1]).stem if parts else ""
        candidates = self._by_stem.get(stem, [])
        if not by_stem:
            shared = [_count_shared(parts, [*map(_compose, path.parts)]) for path in candidates]
            best = max(shared, default=0)
            candidates = [path for path, count in zip(candidates, shared, strict=True) if 0 < count == best]
        beside = [path for path in candidates if path.parent == PurePosixPath(file).parent]
        if len(beside or candidates) == 1:
            return str((beside or candidates)[0])
        if not candidates:
            return Flaw(file, "no_photo", f"{file}: its photo {name[:200]!r} isn't in the source")
        several = f"may mean {candidates[0]} or {candidates[1]}"
        return Flaw(file, "ambiguous", f"{file}: by {name[:200]!r} it {several}")


def _read_coco(notes: Tree, photos: _Photos, found: Annotations) -> None:
    files = {name for name in notes.names if _COCO_NAME.search(f"{notes.name}/{name}")}
    for name, (named, flaws) in _parse_each(notes, files, coco.MAX_BYTES, coco.parse_coco, found):
        found.files.add(name)
        found.flaws += flaws
        for photo, annotation in named:
            _enter(photos.find(photo, name), annotation, found)


def _read_voc(notes: Tree, photos: _Photos, found: Annotations) -> None:
    paths = [PurePosixPath(f"{notes.name}/{name}") for name in notes.names if name.lower().endswith(".xml")]
    ours = [path for path in paths if path.parent.name.lower() in _VOC_FOLDERS or photos.has_stem(path.stem)]
    files = {str(PurePosixPath(*path.parts[1:])) for path in ours}
    found.files |= files
    for name, annotation in _parse_each(notes, files, voc.MAX_BYTES, voc.parse_voc, found):
        _enter(photos.find(PurePosixPath(name).stem, name, by_stem=True), annotation, found)


def _read_yolo(notes: Tree, photos: _Photos, found: Annotations) -> None:
    """Read the text files that lie where YOLO's do, each by the classes' names in the nearest folder above it."""
    texts = {name for name in notes.names if name.lower().endswith(".txt") and not yolo.is_names_file(name)}
    if not texts:
        return
    in_labels = {name for name in texts if "labels" in PurePosixPath(name.lower()).parts[:-1]}
    files = {photo: file for photo in photos for file in _list_yolo_files(photo)[::-1] if file in texts}
    if not files and not in_labels:
        return
    names: dict[PurePosixPath, dict[int, str]] = {}
    names_files = {name for name in notes.names if yolo.is_names_file(name)}
    for name, classes in _parse_each(notes, names_files, yolo.MAX_NAMES_BYTES, yolo.parse_names, found):
        if classes is not None:
            found.files.add(name)
            names.setdefault(PurePosixPath(name).parent, classes)
    if not names and not in_labels:
        return  # captions, say
    partners: dict[str, list[str]] = defaultdict(list)
    for photo, file in files.items():
        partners[file].append(str(photo))
    found.files |= partners.keys() | in_labels

    def parse(data: bytes, path: str) -> Annotation:
        classes = next((names[folder] for folder in PurePosixPath(path).parents if folder in names), None)
        if classes is None and len(names) == 1:
            (classes,) = names.values()
        if classes is None or not any(map(known_class, classes.values())):
            raise DataError(f"{path}: no data.yaml, classes.txt or obj.names above it names a class cat or dog")
        return yolo.parse_yolo(data, path, classes)

    for name, annotation in _parse_each(notes, partners.keys() | in_labels, yolo.MAX_BYTES, parse, found):
        if name not in partners:
            found.flaws.append(Flaw(name, "no_photo", f"{name}: its photo isn't in the source"))
        for annotated in partners.get(name, ()):
            found.add(annotated, annotation)


def _parse_each(
    notes: Tree, files: set[str], most_bytes: int, parse: Callable[[bytes, str], Parsed], found: Annotations
) -> Iterator[tuple[str, Parsed]]:
    """Yield each of the files with what ``parse`` makes of it; those that can't be read are listed instead."""
    if not files:  # an archive need not be read once more
        return
    for name, content in notes.contents(files):
        try:
            yield name, parse(content.read(name, most_bytes), name)
        except ImageError as error:
            found.flaws.append(Flaw(name, "unreadable", str(error)))
        except DataError as error:
            found.flaws.append(Flaw(name, "damaged", str(error)))


def _enter(photo: str | Flaw, annotation: Annotation, found: Annotations) -> None:
    if isinstance(photo, Flaw):
        found.flaws.append(photo)
    else:
        found.add(photo, annotation)


def _list_yolo_files(photo: PurePosixPath) -> list[str]:
    """Return the paths that a photo's text file may have: beside it, and with the last ``images`` made ``labels``."""
    beside = photo.with_suffix(".txt")
    parts = beside.parts
    last = next((i for i in range(len(parts) - 2, -1, -1) if parts[i].lower() == "images"), None)
    moved = [] if last is None else [str(PurePosixPath(*parts[:last], "labels", *parts[last + 1 :]))]
    return [*moved, str(beside)]


def _compose(name: str) -> str:
    """Return a name with each accented letter as one character: macOS writes two into archives, most tools one."""
    return unicodedata.normalize("NFC", name)


def _count_shared(some: Sequence[str], others: Sequence[str]) -> int:
    """Return how many parts two paths share, from their ends."""
    pairs = zip(reversed(some), reversed(others), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(some), len(others)))


def _count_others(annotations: Iterable[Annotation]) -> Iterator[Flaw]:
    """Yield a flaw for each class that is no cat and no dog, as there may be thousands of boxes of it."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for annotation in annotations:
        for name in annotation.others:
            first.setdefault(name, annotation.path)
            counts[name] += 1
    for name, count in counts.items():
        message = f"{first[name]}: {count} boxes in this source are of {name[:40]!r}, which is no cat and no dog"
        yield Flaw(first[name], "unknown_class", message)
