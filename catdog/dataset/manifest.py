"""The manifest: which photo has which label and which split. The one file that training and evaluation read.

DIR/manifest.json   {"version": 1, "class_names": ["cat", "dog"], "photos": [one object a line]}
DIR/photos/...      the photos, under the paths that the manifest gives
DIR/report.json     what was left out and why; for people, read by nothing
DIR/sheet.png       some of the photos with their boxes, where somebody asked to see them; likewise
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from catdog.boxes import Box
from catdog.contract import NEITHER
from catdog.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
PETS: Final = ("cat", "dog")
"""The order of the model's outputs; by name, never by the order of folders. A dataset may have NEITHER after them."""
MANIFEST_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
SHEET_NAME: Final = "sheet.png"


@dataclass(frozen=True)
class Photo:
    """One checked photo."""

    path: str
    """Relative to the manifest's folder, with ``/``."""
    label: str
    """One of the manifest's class names."""
    split: Split
    width: int
    """px, of the upright image."""
    height: int
    """px, of the upright image."""
    sha256: str
    """Of the file's bytes, 64 hexadecimal digits."""
    cluster: str
    """The same for all copies of one picture: the first digits of the smallest ``sha256`` among them."""
    source: str
    """The folder under ``photos/`` that holds the photos of one source."""
    boxes: tuple[Box, ...] | None = None
    """The pets' heads as people marked them, px of the upright image; None where nobody looked."""

    @property
    def is_marked(self) -> bool:
        """Whether it is known where its pets' heads are: somebody looked, or it shows neither cat nor dog."""
        return self.boxes is not None or self.label == NEITHER

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as the manifest holds them; without ``boxes`` where nobody looked for any."""
        entry = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "boxes"}
        return entry if self.boxes is None else entry | {"boxes": [box.to_dict() for box in self.boxes]}


@dataclass(frozen=True)
class Manifest:
    """The photos of a dataset folder, in the order of their paths."""

    root: Path
    class_names: tuple[str, ...]
    photos: tuple[Photo, ...]

    def of(self, split: Split) -> list[Photo]:
        """The photos of one split, in manifest order."""
        return [photo for photo in self.photos if photo.split == split]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted (sha256, label, split, boxes): the same where the same data is split the same way."""
        lines = sorted(_describe(photo) + "\n" for photo in self.photos)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest in a dataset folder; raises DataError where it is missing, damaged or of another version."""
        path = Path(folder) / MANIFEST_NAME
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(
                f"{folder}: is no dataset, it has no {MANIFEST_NAME}; make one with catdog dataset SOURCE... --out DIR"
            ) from error
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON, so damaged or no manifest; build the dataset again") from error
        if not isinstance(data, dict) or data.get("version") != MANIFEST_VERSION:
            version = data.get("version") if isinstance(data, dict) else None
            raise DataError(
                f"{path}: manifest version {version!r}, but this catdog reads version {MANIFEST_VERSION}; "
                "build the dataset again"
            )
        try:
            names = tuple(data["class_names"])
            if (
                not isinstance(data["class_names"], list)
                or len(names) < 2
                or len(set(names)) != len(names)
                or not all(isinstance(n, str) and n and n.isprintable() for n in names)
            ):
                raise ValueError("class_names needs two different names or more")
            photos = tuple(_parse_photo(entry, names) for entry in data["photos"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: damaged manifest ({error}); build the dataset again") from error
        return cls(Path(folder), names, photos)

    def write(self) -> None:
        """Write ``manifest.json`` into ``root``, under a temporary name first; the photos have to be there already."""
        head = json.dumps({"version": MANIFEST_VERSION, "class_names": self.class_names}, ensure_ascii=False)
        lines = ",\n".join(json.dumps(photo.to_dict(), ensure_ascii=False) for photo in self.photos)
        temporary = self.root / f".{MANIFEST_NAME}.tmp"
        temporary.write_text(f'{head[:-1]}, "photos": [\n{lines}\n]}}\n', encoding="utf-8")
        temporary.replace(self.root / MANIFEST_NAME)


def is_dataset(path: str | Path) -> bool:
    """Whether a folder holds a manifest; ``Manifest.read`` says whether it is a good one."""
    return (Path(path) / MANIFEST_NAME).is_file()


def _is_unicode(value: object) -> bool:
    """Whether UTF-8 can say this: JSON's text may hold half of a surrogate pair."""
    return not isinstance(value, str) or value == value.encode("utf-8", "replace").decode()


def _describe(photo: Photo) -> str:
    """Return what of a photo makes a model another one."""
    words = [photo.sha256, photo.label, photo.split]
    if photo.boxes is not None:
        words += ["boxes", *(f"{box.label}:{','.join(map(repr, map(float, box.corners)))}" for box in photo.boxes)]
    return " ".join(words)


_FIELD_TYPES: Final[Mapping[str, type]] = {
    f.name: int if f.name in ("width", "height") else str for f in fields(Photo) if f.name != "boxes"
}


def _parse_photo(entry: Any, class_names: tuple[str, ...]) -> Photo:
    """One checked entry; raises ValueError or TypeError saying what is wrong with it."""
    if not isinstance(entry, dict) or entry.keys() - {"boxes"} != _FIELD_TYPES.keys():
        raise ValueError(f"a photo needs exactly the fields {', '.join(_FIELD_TYPES)}, and may have boxes")
    path = entry["path"]
    for name, kind in _FIELD_TYPES.items():
        if type(entry[name]) is not kind or entry[name] in ("", 0) or not _is_unicode(entry[name]):
            raise ValueError(f"{path!r}: bad {name} {entry[name]!r}")
    if entry["label"] not in class_names:
        raise ValueError(f"{path!r}: unknown label {entry['label']!r}")
    if entry["split"] not in SPLITS:
        raise ValueError(f"{path!r}: unknown split {entry['split']!r}")
    # A manifest may come from a stranger; none of its paths may lead out of its folder, on any system.
    if path.startswith("/") or "\\" in path or ":" in path.split("/")[0] or ".." in path.split("/") or "\0" in path:
        raise ValueError(f"{path!r}: the path leaves the dataset's folder")
    values = cast(dict[str, Any], entry)
    return Photo(**values | ({"boxes": _parse_boxes(values)} if "boxes" in values else {}))


def _parse_boxes(entry: dict[str, Any]) -> tuple[Box, ...]:
    """Return a photo's checked boxes; raises ValueError, TypeError or KeyError saying what is wrong with them."""
    boxes = tuple(map(Box.from_dict, entry["boxes"]))
    for box in boxes:
        if box.label not in PETS:
            raise ValueError(f"{entry['path']!r}: a box around {box.label!r}, and not around one of {', '.join(PETS)}")
        if min(box.corners) < 0 or box.xmax > entry["width"] or box.ymax > entry["height"]:
            raise ValueError(f"{entry['path']!r}: the box {box.corners} is not inside the photo")
    return boxes
