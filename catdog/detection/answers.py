"""A detector's answers, their text as CSV, and how tables with a row a head are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from catdog.answers import stream_csv
from catdog.detection.decoding import MAX_OBJECTS, DetectedObject
from catdog.text import escape_name, printable

NO_PET: Final = "no pet"  # what a photo without a head is called
HEAD: Final = "head"
BOX_COLUMNS: Final = (HEAD, "xmin", "ymin", "xmax", "ymax")
"""Of a table with a row a head: which head of the photo it is, 1 being the surest, and its box, px of the upright
photo. All are empty for a photo without a head. The rows of a photo follow each other."""

R = TypeVar("R", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class Detection:
    """The answer for one photo. Either ``error`` is None, or the three fields before it are."""

    source: str
    """The path or URL as it was given."""
    width: int | None
    """px, of the upright photo at full scale."""
    height: int | None
    """px."""
    objects: tuple[DetectedObject, ...] | None
    """The pets' heads, the surest first; empty where the photo shows none."""
    error: str | None = None
    """Why there is no answer; one line."""

    @classmethod
    def failed(cls, source: str, error: object) -> Detection:
        """Return the answer for an input that could not be read."""
        return cls(source, None, None, None, printable(str(error)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in order, ready for JSON: a source that isn't Unicode is escaped."""
        return {
            "source": escape_name(self.source),
            "width": self.width,
            "height": self.height,
            "objects": None if self.objects is None else [found.to_dict() for found in self.objects],
            "error": self.error,
        }


def as_csv(rows: Iterable[Detection], class_names: Sequence[str]) -> Iterator[str]:
    """A header and one record a head; an answer without one has a single record whose fields about heads are empty."""
    header = ["source", "width", "height", "label", "confidence", *BOX_COLUMNS, "error"]

    def tell(row: Detection) -> list[list[Any]]:
        photo = [escape_name(row.source), row.width, row.height]
        heads = [
            [found.label, found.confidence, number, *found.box.corners]
            for number, found in enumerate(row.objects or (), start=1)
        ]
        return [[*photo, *head, row.error] for head in heads or [[None] * (2 + len(BOX_COLUMNS))]]

    return stream_csv(header, map(tell, rows))


def begins_photo(head: Any) -> bool:
    """Whether a table's row is the first of its photo, by its value of ``head``."""
    return head in (None, "", 1, "1")


def group_photos(rows: Iterable[R]) -> Iterator[list[R]]:
    """Yield the rows of one photo after the other, given a table's rows by column name; without ``head`` each is one.

    Raises ValueError for more heads than a photo has.
    """
    photo: list[R] = []
    for row in rows:
        if photo and begins_photo(row.get(HEAD)):
            yield photo
            photo = []
        photo.append(row)
        if len(photo) > MAX_OBJECTS:
            raise ValueError("more heads than a photo has")
    if photo:
        yield photo
