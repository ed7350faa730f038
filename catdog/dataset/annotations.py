"""What annotators wrote -> boxes of a photo: the marks as a file gives them, checked against the photo. Pure.

    voc.py, coco.py, yolo.py: a file's bytes -> Annotation -> fit_boxes, once the photo is decoded -> Box

Nothing that is wrong is guessed at: it becomes a Flaw, which report.json lists, and the photo stays without that box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from PIL import Image

from catdog.boxes import Box
from catdog.contract import NEITHER
from catdog.image import SIDEWAYS, Size, turn_point

FlawKind = Literal[
    "unreadable", "damaged", "no_photo", "ambiguous", "annotated_twice", "wrong_size",
    "unknown_class", "outside", "empty", "duplicate", "crowd", "contradiction",
]  # fmt: skip
Corners = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax."""
SLACK_PX: Final = 1.0  # that a box may lie outside of its photo, since tools round, and count from 0 or from 1

_CLASSES: Final = {"cat": "cat", "cats": "cat", "dog": "dog", "dogs": "dog"}


class Flaw(NamedTuple):
    """Something that is wrong with an annotation."""

    path: str
    """Of the annotation, inside the source."""
    kind: FlawKind
    message: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A box as a file gives it: its label is known, and nothing is checked of the rest."""

    label: str
    corners: Corners
    is_crowd: bool = False
    """Whether it is around several pets that nobody told apart (COCO)."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one file says of one photo."""

    path: str
    """Of the file, inside the source."""
    marks: tuple[Mark, ...]
    size: Size | None = None
    """px, of the photo as the annotator saw it; None where the file doesn't say it."""
    in_shares: bool = False
    """Whether the corners are shares of the photo's sides, [0, 1], and not px."""
    others: tuple[str, ...] = ()
    """The classes of boxes around what is no cat and no dog."""

    @property
    def label(self) -> str | None:
        """The class of the largest box, ``neither`` where nothing is marked, None where no box can be used."""
        if not self.marks:
            return NEITHER
        areas = {mark.label: 0.0 for mark in self.marks}
        for mark in self.marks:
            width, height = (high - low for low, high in zip(mark.corners[:2], mark.corners[2:], strict=True))
            if not mark.is_crowd and width > 0 and height > 0 and math.isfinite(width * height):
                areas[mark.label] = max(areas[mark.label], width * height)
        largest = max(areas, key=areas.__getitem__)
        return largest if areas[largest] else None


class Fitted(NamedTuple):
    """What an annotation comes to for its photo."""

    boxes: tuple[Box, ...] | None
    """None where nothing that it says can be believed."""
    flaws: tuple[Flaw, ...]


def known_class(name: str) -> str | None:
    """Return ``cat`` or ``dog`` for what an annotator called a class, None for other classes."""
    return _CLASSES.get(name.strip().lower())


def sort_marks(boxes: Iterable[tuple[str, Corners]]) -> tuple[tuple[Mark, ...], tuple[str, ...]]:
    """Return the boxes around cats and dogs, by what their classes are called, and the classes of all the others."""
    named = [(name, known_class(name), corners) for name, corners in boxes]
    marks = tuple(Mark(label, corners) for _, label, corners in named if label)
    return marks, tuple(name for name, label, _ in named if not label)


def fit_boxes(
    annotation: Annotation, photo: str, label: str, size: Size, find_turn: Callable[[], Image.Transpose | None]
) -> Fitted:
    """Return the boxes that an annotation gives a photo of this label and upright ``size``, px, and what is wrong.

    An annotator may have seen a photo as it is stored, though its EXIF block says to turn it. Where the annotation's
    size is the stored photo's, and only then, ``find_turn`` is asked how the photo is turned, and the boxes with it.
    """

    def refuse(kind: FlawKind, what: str) -> Fitted:
        return Fitted(None, (Flaw(annotation.path, kind, f"{annotation.path}: {what}"),))

    if label == NEITHER and annotation.marks:
        return refuse("contradiction", f"marks a {annotation.marks[0].label} in {photo}, which is to show neither")
    turn, seen = None, annotation.size or size
    if seen != size:
        turn = find_turn() if seen == size[::-1] else None
        if turn not in SIDEWAYS:
            return refuse("wrong_size", f"is of {seen[0]}x{seen[1]} px, and {photo} has {size[0]}x{size[1]}")
    boxes: list[Box] = []
    flaws: list[Flaw] = []
    for mark in annotation.marks:
        scales = (*seen, *seen) if annotation.in_shares else (1, 1, 1, 1)
        corners = tuple(at * scale for at, scale in zip(mark.corners, scales, strict=True))
        found: tuple[FlawKind, str] | None = ("crowd", "is around several") if mark.is_crowd else None
        box = None
        if (found := found or _find_flaw(corners, seen)) is None:
            box = _turn_box(mark.label, _clip(corners, seen), turn, seen)
            found = ("duplicate", "is there twice") if box in boxes else None
        if found is not None:
            shown = ", ".join(f"{at:g}" for at in corners)
            message = f"{annotation.path}: the box ({shown}) around a {mark.label} in {photo} {found[1]}"
            flaws.append(Flaw(annotation.path, found[0], message))
        elif box is not None:
            boxes.append(box)
    # Where every box was bad the photo does show a pet, only nobody knows where.
    return Fitted(tuple(boxes) if boxes or not flaws else None, tuple(flaws))


def _find_flaw(corners: Sequence[float], size: Size) -> tuple[FlawKind, str] | None:
    """Return what is wrong with a box in a photo of that size, None for a good one."""
    if not all(map(math.isfinite, corners)):
        return "damaged", "isn't made of four numbers"
    limits = (*size, *size)
    if any(not -SLACK_PX <= at <= limit + SLACK_PX for at, limit in zip(corners, limits, strict=True)):
        return "outside", f"isn't inside the photo of {size[0]}x{size[1]} px"
    xmin, ymin, xmax, ymax = _clip(corners, size)
    if xmin >= xmax or ymin >= ymax:
        return "empty", "holds nothing"
    return None


def _clip(corners: Sequence[float], size: Size) -> tuple[float, ...]:
    return tuple(float(min(max(at, 0), limit)) for at, limit in zip(corners, (*size, *size), strict=True))


def _turn_box(label: str, corners: Sequence[float], turn: Image.Transpose | None, size: Size) -> Box:
    """Return the box in the photo that ``turn`` makes of one of ``size``."""
    (x1, y1), (x2, y2) = (turn_point(corners[i : i + 2], size, turn) for i in (0, 2))
    return Box(label, min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
