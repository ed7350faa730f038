"""What annotators wrote -> boxes of a photo: the marks as a file gives them, checked against the photo. Pure.

    voc.py, coco.py, yolo.py: a file's bytes -> Annotation -> fit_boxes, once the photo is decoded -> Box

Nothing that is wrong is guessed at: it becomes a Flaw, which report.json lists, and the photo stays without that box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from PIL import Image

from catdog.boxes import Box
from catdog.image import Size, turn_point

FlawKind = Literal[
    "damaged", "no_photo", "ambiguous", "wrong_size", "outside", "empty", "unknown_class", "duplicate", "contradiction"
]
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
    """A box as a file gives it: nothing of it is checked but that it has four numbers."""

    name: str
    """Of its class, as the annotator calls it."""
    xmin: float
    ymin: float
    xmax: float
    ymax: float


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one file says of one photo."""

    path: str
    """Of the file, inside the source."""
    marks: tuple[Mark, ...]
    size: Size | None
    """px, of the photo as the annotator saw it; None where the file doesn't say it."""
    in_shares: bool = False
    """Whether the marks are shares of the photo's sides, [0, 1], and not px."""


class Fitted(NamedTuple):
    """What an annotation comes to for its photo."""

    boxes: tuple[Box, ...] | None
    """None where nothing that it says can be believed."""
    flaws: tuple[Flaw, ...]


def known_class(name: str) -> str | None:
    """Return ``cat`` or ``dog`` for what an annotator called a class, None for other classes."""
    return _CLASSES.get(name.strip().lower())


def fit_boxes(
    annotation: Annotation, photo: str, size: Size, find_turn: Callable[[], Image.Transpose | None]
) -> Fitted:
    """Return the boxes that an annotation gives a photo of the upright ``size``, px, and what is wrong with it.

    An annotator may have seen a photo as it is stored, though its EXIF block says to turn it. Where the annotation's
    size is the stored photo's, and only then, ``find_turn`` is asked how the photo is turned, and the boxes with it.
    """
    turn, seen = None, annotation.size or size
    if seen != size:
        turn = find_turn() if seen == size[::-1] else None
        if turn is None:
            says = f"is of a photo of {seen[0]}x{seen[1]} px, and {photo} has {size[0]}x{size[1]}"
            return Fitted(None, (Flaw(annotation.path, "wrong_size", f"{annotation.path}: {says}"),))
    boxes: list[Box] = []
    flaws: list[Flaw] = []
    scale = size if annotation.in_shares else (1, 1)
    for mark in annotation.marks:
        corners = (mark.xmin * scale[0], mark.ymin * scale[1], mark.xmax * scale[0], mark.ymax * scale[1])
        shown = f"{annotation.path}: the {mark.name[:40]!r} at {_show(corners)} in {photo}"
        label = known_class(mark.name)
        if label is None:
            flaws.append(Flaw(annotation.path, "unknown_class", f"{shown} is no cat and no dog"))
        elif (flaw := _find_flaw(corners, seen)) is not None:
            flaws.append(Flaw(annotation.path, flaw[0], f"{shown} {flaw[1]}"))
        elif (box := _turn_box(label, _clip(corners, seen), turn, seen)) in boxes:
            flaws.append(Flaw(annotation.path, "duplicate", f"{shown} is there twice"))
        else:
            boxes.append(box)
    return Fitted(tuple(boxes), tuple(flaws))


def _find_flaw(corners: Sequence[float], size: Size) -> tuple[FlawKind, str] | None:
    """Return what is wrong with a box in a photo of that size, None for a good one."""
    if not all(map(math.isfinite, corners)):
        return "damaged", "isn't made of finite numbers"
    limits = (*size, *size)
    if any(not -SLACK_PX <= at <= limit + SLACK_PX for at, limit in zip(corners, limits, strict=True)):
        return "outside", f"isn't inside the photo of {size[0]}x{size[1]} px"
    xmin, ymin, xmax, ymax = _clip(corners, size)
    if xmin >= xmax or ymin >= ymax:
        return "empty", "holds nothing"
    return None


def _clip(corners: Sequence[float], size: Size) -> tuple[float, ...]:
    return tuple(min(max(at, 0), limit) for at, limit in zip(corners, (*size, *size), strict=True))


def _turn_box(label: str, corners: Sequence[float], turn: Image.Transpose | None, size: Size) -> Box:
    """Return the box in the photo that ``turn`` makes of one of ``size``."""
    (x1, y1), (x2, y2) = (turn_point(corners[i : i + 2], size, turn) for i in (0, 2))
    return Box(label, min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _show(corners: Sequence[float]) -> str:
    return "(" + ", ".join(f"{at:g}" for at in corners) + ")"
