"""A detector's answers, and their text as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from catdog.answers import stream_csv
from catdog.detection.decoding import DetectedObject
from catdog.text import escape_name, printable

NO_PET: Final = "no pet"  # what a photo without a head is called


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
    header = ["source", "width", "height", "label", "confidence", "xmin", "ymin", "xmax", "ymax", "error"]

    def tell(row: Detection) -> list[list[Any]]:
        photo = [escape_name(row.source), row.width, row.height]
        heads = [[found.label, found.confidence, *found.box.corners] for found in row.objects or ()]
        return [[*photo, *head, row.error] for head in heads or [[None] * 6]]

    return stream_csv(header, map(tell, rows))
