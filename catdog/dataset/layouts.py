"""What a source's file names mean: names -> labels and given splits. Pure; opens no file.

Four layouts are told apart by what the names hold, wherever they are nested:

    class folders    cats/1.jpg  PetImages/Dog/2.jpg  train/cats/3.jpg + test/cats/4.jpg (a given split)
                     neither/toaster.jpg: no cat and no dog in it
    Kaggle's names   train/cat.0.jpg  dog.12.jpg
    Oxford-IIIT Pet  images/Abyssinian_1.jpg + annotations/list.txt
    annotated        photos whose boxes alone say what they show; see annotated.py
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final, Literal

from catdog.contract import NEITHER
from catdog.dataset.manifest import Split
from catdog.errors import DataError
from catdog.sources.names import is_photo_name

LayoutKind = Literal["class folders", "Kaggle names", "Oxford-IIIT Pet", "annotated"]
SPECIES_FILE: Final = "annotations/list.txt"

_CLASS_FOLDERS: Final = {"cat": "cat", "cats": "cat", "dog": "dog", "dogs": "dog", NEITHER: NEITHER}
_SPLIT_FOLDERS: Final[dict[str, Split]] = {
    **dict.fromkeys(("train", "training", "train_set", "training_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val_set", "validation_set"), "val"),
    **dict.fromkeys(("test", "testing", "test_set", "testing_set"), "test"),
}
_KAGGLE_NAME: Final = re.compile(r"(cat|dog)s?[ ._-]*\(?\d", re.IGNORECASE)
_OXFORD_NAME: Final = re.compile(r"([A-Za-z])[A-Za-z_]*_\d+")  # breed_number; the README of its annotations.tar.gz
_OXFORD_SPECIES: Final = {"1": "cat", "2": "dog"}
UNDERSTOOD: Final = (
    "class folders (cats/, dogs/, neither/), the same inside train/, val/ and test/, Kaggle's names (cat.0.jpg, "
    "dog.12.jpg), Oxford-IIIT Pet (images/ with annotations/list.txt), and photos with boxes around cats and dogs "
    "(COCO, PASCAL VOC, YOLO)"
)


@dataclass(frozen=True)
class Item:
    """A file that has to be looked at."""

    name: str
    """Path inside the source, with ``/``."""
    label: str | None
    """A class name; None when the file belongs to no class that is known."""
    split: Split | None = None
    """The split that the source gives it, if it gives one."""


@dataclass(frozen=True)
class Layout:
    """A source's kind and the files to look at, in the order they were given."""

    kind: LayoutKind
    items: tuple[Item, ...]


def understand(
    names: Sequence[str],
    source: str,
    species: Mapping[str, str] | None = None,
    annotated: Mapping[str, str | None] = MappingProxyType({}),
) -> Layout:
    """The layout of a source from the paths inside it.

    ``source``: its name, which may be a class's own (a folder ``cats`` with nothing but photos in it).
    ``species``: from ``parse_species``, where there is such a file. ``annotated``: what annotations say that photos
    show, which counts where no folder says it. Raises DataError if no layout fits.
    """
    if species is not None and any(PurePosixPath(name).stem in species for name in names):
        photos = [name for name in names if is_photo_of_oxford(name)]
        return Layout("Oxford-IIIT Pet", tuple(Item(name, _oxford_label(name, species)) for name in photos))
    whole = _CLASS_FOLDERS.get(source.lower())
    in_folders = [(name, _folder_label(name)) for name in names]
    if any(label for _, label in in_folders):
        return Layout("class folders", _with_splits((name, label or annotated.get(name)) for name, label in in_folders))
    if any(annotated.values()):
        by_boxes = ((name, annotated[name] if name in annotated else whole or _kaggle_label(name)) for name in names)
        return Layout("annotated", _with_splits(by_boxes))
    in_names = [(name, _kaggle_label(name)) for name in names]
    if any(label for _, label in in_names):
        return Layout("Kaggle names", _with_splits(in_names))
    if whole and any(is_photo_name(name) for name in names):
        return Layout("class folders", _with_splits((name, whole) for name in names))
    raise DataError(f"{source}: no layout fits, {_describe(names)}; understood are {UNDERSTOOD}")


def parse_species(text: str, source: str) -> dict[str, str]:
    """Oxford's ``annotations/list.txt`` as {file stem: class name}; raises DataError naming a bad line.

    Its lines are ``Abyssinian_100 1 1 1``: name, breed 1..37, species (1 cat, 2 dog), number within the species.
    """
    species = {}
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split()
        if not columns or columns[0].startswith("#"):
            continue
        if len(columns) != 4 or columns[2] not in _OXFORD_SPECIES:
            raise DataError(f"{source}: line {number} of {SPECIES_FILE} is not 'name breed species number'")
        species[columns[0]] = _OXFORD_SPECIES[columns[2]]
    return species


def is_photo_of_oxford(name: str) -> bool:
    """Whether this is a photo of Oxford's, and not one of the masks (trimaps) among its annotations."""
    return is_photo_name(name) and "trimaps" not in _folders(name)


def _with_splits(labelled: Iterable[tuple[str, str | None]]) -> tuple[Item, ...]:
    # Without a label, only what calls itself a photo is worth a line in the report: not a README, not a CSV table.
    items = [Item(name, label, _split(name)) for name, label in labelled if label or is_photo_name(name)]
    # One name alone is what remains of a competition's training half, not a split.
    if len({item.split for item in items if item.label and item.split}) < 2:
        items = [replace(item, split=None) for item in items]
    return tuple(items)


def _folder_label(name: str) -> str | None:
    return next((_CLASS_FOLDERS[f] for f in _folders(name) if f in _CLASS_FOLDERS), None)


def _kaggle_label(name: str) -> str | None:
    match = _KAGGLE_NAME.match(PurePosixPath(name).name)
    return match[1].lower() if match else None


def _oxford_label(name: str, species: Mapping[str, str]) -> str | None:
    """By the list; for the 41 photos that it lacks, by its README's rule: a capital begins a cat's breed."""
    stem = PurePosixPath(name).stem
    match = _OXFORD_NAME.fullmatch(stem)
    by_case = None if match is None else "cat" if match[1].isupper() else "dog"
    return species.get(stem, by_case)


def _split(name: str) -> Split | None:
    return next((_SPLIT_FOLDERS[f] for f in _folders(name) if f in _SPLIT_FOLDERS), None)


def _folders(name: str) -> list[str]:
    """The folders of a path, the nearest first, in lower case."""
    return [part.lower() for part in reversed(name.split("/")[:-1])]


def _describe(names: Sequence[str]) -> str:
    if not names:
        return "it holds no files"
    photos = sum(map(is_photo_name, names))
    top = Counter(name.split("/")[0] + ("/" if "/" in name else "") for name in names)
    shown = ", ".join(name for name, _ in top.most_common(5)) + (", ..." if len(top) > 5 else "")
    hint = ""
    if any(_OXFORD_NAME.fullmatch(PurePosixPath(name).stem) and "images/" in name for name in names):
        hint = f" (if this is Oxford-IIIT Pet, {SPECIES_FILE} or annotations.tar.gz is missing beside it)"
    return f"it holds {len(names)} files, {photos} of them photos: {shown}{hint}"
