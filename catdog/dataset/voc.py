"""PASCAL VOC: one XML file a photo, as Oxford-IIIT Pet, LabelImg and many tools write it. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Final
from xml.parsers import expat

from catdog.dataset.annotations import Annotation, Corners, sort_marks
from catdog.errors import DataError
from catdog.text import first_line, printable

MAX_BYTES: Final = 2**20  # of one file; VOC's own have 3 KB at most
_MAX_DEPTH: Final = 100  # of elements inside each other; an annotation has 4


def parse_voc(data: bytes, path: str) -> Annotation:
    """Return what a VOC file says; raises DataError, which names ``path``, for one that is damaged or something else.

    Pixels are counted from 1 and the last one is inside (the development kit of VOC2012, section 8.1: "the top-left
    pixel in the image has coordinates (1,1)"), so xmin and ymin are one less as edges; xmax and ymax are the same.
    """
    root = _parse_xml(data, path)
    if root.tag != "annotation":
        raise DataError(f"{path}: is no PASCAL VOC annotation but <{printable(root.tag[:40])}>")
    width, height = (_read_side(root, side, path) for side in ("width", "height"))
    marks, others = sort_marks(_read_boxes(root, path))
    # Some tools write 0 where they didn't look.
    return Annotation(path, marks, (width, height) if width and height else None, others=others)


def _read_boxes(root: ET.Element, path: str) -> Iterator[tuple[str, Corners]]:
    for entry in root.findall("object"):
        xmin, ymin, xmax, ymax = (_read_number(entry, f"bndbox/{n}", path) for n in ("xmin", "ymin", "xmax", "ymax"))
        yield (entry.findtext("name") or "").strip(), (xmin - 1, ymin - 1, xmax, ymax)


def _read_number(entry: ET.Element, place: str, path: str) -> float:
    text = entry.findtext(place) or ""
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{path}: {place} has to be a number of pixels, not {text[:40]!r}") from error


def _read_side(root: ET.Element, side: str, path: str) -> int:
    """Return a side of the photo, px; 0 where the file doesn't say it."""
    text = (root.findtext(f"size/{side}") or "0").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise DataError(f"{path}: size/{side} has to be a whole number of pixels, not {text[:40]!r}")
    return int(text)


def _parse_xml(data: bytes, path: str) -> ET.Element:
    """Return the root; a document type, which entity bombs and files from elsewhere need, is refused."""
    builder = ET.TreeBuilder()
    depth = 0

    def refuse(*_: object) -> None:
        raise DataError(f"{path}: has a document type (<!DOCTYPE ...>), which no annotation needs; take it out")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise DataError(f"{path}: over {_MAX_DEPTH} elements inside each other are no annotation")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: encodings that Python lacks
        raise DataError(f"{path}: is no XML ({printable(first_line(error))})") from error
    return builder.close()
