"""COCO: one JSON file for many photos, as CVAT, Label Studio, Roboflow and COCO itself write it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any, Final

from catdog.dataset.annotations import Annotation, Corners, Flaw, Mark, known_class
from catdog.errors import DataError
from catdog.machine import free_memory
from catdog.text import count_json_items

MAX_BYTES: Final = 2**29  # of one file; COCO's own instances_train2017.json has 448 MiB
BYTES_PER_ITEM: Final = 100
"""Of memory, for each character that opens an object or a list or parts its items: COCO's own files take 40, lists of
two letters 60, objects of short keys and texts 160. Half a megabyte of zip can hold a file that takes 10 GB so."""
_BROKEN: Final = (math.nan, math.nan, math.nan, math.nan)  # which no photo has room for


def parse_coco(
    data: bytes, path: str, free_bytes: float | None = None
) -> tuple[list[tuple[str, Annotation]], list[Flaw]]:
    """Return (a photo's ``file_name``, what the file says of it) for each photo, and what is wrong with the file.

    A ``bbox`` is [x, y, width, height], px from the top left corner, counted from 0 (cocodataset.org, "Data format",
    1. Object Detection). Raises DataError, which names ``path``, for a file that is damaged or something else, and for
    one that has a category for neither cats nor dogs, as it doesn't say where there are none, and for one that may take
    more than ``free_bytes`` of memory, by default what is free.
    """
    needed, free = _estimate_memory(data), free_memory() if free_bytes is None else free_bytes
    if needed > free:
        sizes = f"{needed / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} are free"
        raise DataError(f"{path}: may take {sizes}; divide it into several files")
    images, categories, boxes = _parse_lists(data, path)
    names = {_check_id(entry, "id", path): str(entry.get("name")) for entry in categories}
    if not any(map(known_class, names.values())):
        raise DataError(f"{path}: none of its {len(names)} categories is called cat or dog")
    marks: dict[int | str, list[Mark]] = defaultdict(list)
    others: dict[int | str, list[str]] = defaultdict(list)
    for entry in boxes:
        image, name = _check_id(entry, "image_id", path), names.get(_check_id(entry, "category_id", path), "nothing")
        if label := known_class(name):
            marks[image].append(Mark(label, _read_bbox(entry.get("bbox")), entry.get("iscrowd") in (1, True)))
        else:
            others[image].append(name)
    photos: dict[int | str, tuple[str, Annotation]] = {}
    flaws = []
    for entry in images:
        identity, file_name = _check_id(entry, "id", path), entry.get("file_name")
        if not isinstance(file_name, str):
            raise DataError(f"{path}: the image {identity!r} has no file_name")
        width, height = (_read_side(entry.get(side)) for side in ("width", "height"))
        size = (width, height) if width and height else None
        found = Annotation(path, tuple(marks[identity]), size, others=tuple(others[identity]))
        if photos.setdefault(identity, (file_name, found))[1] is not found:
            message = f"{path}: a second image has the id {identity!r}, {file_name[:200]!r}"
            flaws.append(Flaw(path, "annotated_twice", message))
    if astray := sum(len(found) for image, found in marks.items() if image not in photos):
        flaws.append(Flaw(path, "no_photo", f"{path}: {astray} boxes are in images that it doesn't list"))
    return list(photos.values()), flaws


def _estimate_memory(data: bytes) -> int:
    return len(data) + BYTES_PER_ITEM * count_json_items(data)


def _parse_lists(data: bytes, path: str) -> list[list[dict[str, Any]]]:
    """Return the images, categories and annotations, each of them some objects."""
    try:
        loaded = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON") from error
    lists = []
    for key in ("images", "categories", "annotations"):
        entries = loaded.get(key) if isinstance(loaded, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path}: is no COCO file with lists of images, categories and annotations")
        lists.append(entries)
    return lists


def _check_id(entry: dict[str, Any], key: str, path: str) -> int | str:
    value = entry.get(key)
    if not isinstance(value, (int, str)):
        raise DataError(f"{path}: {key} has to be a number, not {str(value)[:40]!r}")
    return value


def _read_bbox(bbox: Any) -> Corners:
    """Return the corners; NaN where it isn't four numbers, so that the box alone is left out."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
        return _BROKEN
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:
        return _BROKEN
    return x, y, x + width, y + height


def _read_side(value: Any) -> int:
    """Return a side of the photo, px; 0 where the file doesn't say it."""
    return int(value) if isinstance(value, (int, float)) and 0 < value < 1e9 else 0
