"""Boxes around pets' heads, in pixels of the upright photo, and the arithmetic that detection does on them.

Edges are continuous: a box from 0 to 10 covers ten pixels. Arrays of boxes are float (N, 4): xmin, ymin, xmax, ymax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Box:
    """What a person or a model found in a photo. Raises ValueError where it isn't finite or holds nothing."""

    label: str
    xmin: float
    """px, from the left edge of the upright photo."""
    ymin: float
    """px, from the top edge."""
    xmax: float
    ymax: float

    def __post_init__(self) -> None:
        if not all(isinstance(side, (int, float)) and math.isfinite(side) for side in self.corners):
            raise ValueError(f"a box needs four numbers, not {self.corners}")
        if self.xmin >= self.xmax or self.ymin >= self.ymax:
            raise ValueError(f"the box {self.corners} is empty: xmin and ymin have to be under xmax and ymax")

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax and ymax, px."""
        return self.xmin, self.ymin, self.xmax, self.ymax

    def scaled(self, x: float, y: float) -> Box:
        """Return the box in a copy of the photo that is ``x`` times as wide and ``y`` times as high."""
        return Box(self.label, self.xmin * x, self.ymin * y, self.xmax * x, self.ymax * y)

    def to_dict(self) -> dict[str, Any]:
        """Return the form that manifests and answers have: ``{"label": "cat", "box": [xmin, ymin, xmax, ymax]}``."""
        return {"label": self.label, "box": list(self.corners)}

    @classmethod
    def from_dict(cls, entry: Any) -> Box:
        """Read that form; raises ValueError, TypeError or KeyError saying what is wrong with it."""
        if not isinstance(entry, dict) or entry.keys() != {"label", "box"} or not isinstance(entry["label"], str):
            raise ValueError("a box needs exactly the fields label and box")
        if not isinstance(entry["box"], list) or len(entry["box"]) != 4:
            raise ValueError("a box needs four numbers: xmin, ymin, xmax, ymax")
        return cls(entry["label"], *entry["box"])


def measure_overlaps(some: Floats, others: Floats) -> Floats:
    """Return the intersection over union, (N, M) in [0, 1], of boxes (N, 4) and (M, 4)."""
    # An array an edge: arrays of two columns take ten times as long.
    width = np.minimum(some[:, None, 2], others[:, 2]) - np.maximum(some[:, None, 0], others[:, 0])
    height = np.minimum(some[:, None, 3], others[:, 3]) - np.maximum(some[:, None, 1], others[:, 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1) for boxes in (some, others)]
    union = areas[0][:, None] + areas[1] - common
    overlaps: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlaps


def suppress_overlaps(boxes: Floats, scores: Floats, limit: float, most: int | None = None) -> list[int]:
    """Return the indices of the boxes that stay, the surest first: none of them overlaps a surer one by over ``limit``.

    This is greedy non-maximum suppression, on float (N, 4) and (N,); ``limit`` is an intersection over union, ``most``
    how many may stay.
    """
    kept: list[int] = []
    left = np.argsort(-scores, kind="stable")
    while len(left) and len(kept) != most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[measure_overlaps(boxes[best : best + 1], boxes[left])[0] <= limit]
    return kept


def clip_boxes(boxes: Floats, size: Sequence[float]) -> Floats:
    """Return boxes (N, 4) cut off at the edges of a photo of ``size`` (width, height), px."""
    width, height = size
    return np.clip(boxes, 0, [width, height, width, height])
