"""PASCAL VOC: one XML file a photo, as Oxford-IIIT Pet, LabelImg and many tools write it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Final
from xml.parsers import expat

from catdog.dataset.annotations import Annotation, Mark
from catdog.errors import DataError
from catdog.text import first_line

MAX_BYTES: Final = 2**20  # of one file; VOC's own have 3 KB at most


def parse_voc(data: bytes, path: str) -> Annotation:
    """Return what a VOC file says; raises DataError, which names ``path``, for one that is damaged or something else.

    Pixels are counted from 1 and the last one is inside (the development kit of VOC2012, section 8.1: "the top-left
    pixel in the image has coordinates (1,1)"), so xmin and ymin are one less as edges; xmax and ymax are the same.
    """
    root = _parse_xml(data, path)
    if root.tag != "annotation":
        raise DataError(f"{path}: is no PASCAL VOC annotation but <{root.tag[:40]}>")
    width, height = (_read_number(root, f"size/{side}", path, default=0) for side in ("width", "height"))
    marks = []
    for entry in root.iter("object"):
        xmin, ymin, xmax, ymax = (_read_number(entry, f"bndbox/{n}", path) for n in ("xmin", "ymin", "xmax", "ymax"))
        marks.append(Mark((entry.findtext("name") or "").strip(), xmin - 1, ymin - 1, xmax, ymax))
    # Some tools write 0 where they didn't look.
    return Annotation(path, tuple(marks), (int(width), int(height)) if width and height else None)


def _parse_xml(data: bytes, path: str) -> ET.Element:
    """Return the root; a document type, which entity bombs and files from elsewhere need, is refused."""

    def refuse(*_: object) -> None:
        raise DataError(f"{path}: has a document type (<!DOCTYPE ...>), which no annotation needs; it isn't read")

    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: encodings that Python lacks
        raise DataError(f"{path}: is no XML ({first_line(error)})") from error
    return builder.close()


def _read_number(entry: ET.Element, place: str, path: str, default: float | None = None) -> float:
    text = entry.findtext(place)
    if text is None and default is not None:
        return default
    try:
        number = float(text or "")
        if abs(number) < 1e9:  # false of NaN, too
            return number
    except ValueError:
        pass
    raise DataError(f"{path}: {place} has to be a number of pixels, not {(text or '')[:40]!r}")
