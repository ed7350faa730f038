"""What a detector's outputs mean: boxes and scores of one photo -> the heads in it.

Training's validation, evaluation and everybody who answers call ``find_objects``, so that all see the same boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catdog.boxes import Box, Floats, clip_boxes, measure_overlaps, suppress_overlaps
from catdog.contract import Contract
from catdog.errors import ModelError
from catdog.image import Size, find_kept_box
from catdog.prediction import DECIMALS, check_threshold

FLOOR: Final = 0.01
"""Score under which a place is never a candidate (Liu et al. 2016, "SSD", section 3.7), whatever the threshold is."""
CANDIDATES: Final = 400  # at most, the surest ones: as in SSD's published configuration, whose top_k is 400
SAME_HEAD: Final = 0.5
"""Intersection over union above which two boxes are of one head, whichever class they are of: a head is one pet."""
VOTING_OVERLAP: Final = 0.65
"""Intersection over union from which on a candidate has a say in where a box of its class is: box voting (Gidaris &
Komodakis 2015, "Object detection via a multi-region and semantic segmentation-aware CNN"), with nearer neighbours than
their 0.5."""
MAX_OBJECTS: Final = 100  # a photo, as in COCO's measures
BOX_DECIMALS: Final = 1  # px, of every box that leaves catdog


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """A pet's head in a photo."""

    confidence: float
    """The model's score for the box's label, [0, 1]."""
    box: Box
    """px of the upright photo, inside it."""

    @property
    def label(self) -> str:
        """A class name."""
        return self.box.label

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"label": "cat", "confidence": 0.9, "box": [xmin, ymin, xmax, ymax]}``."""
        return {"label": self.label, "confidence": self.confidence, "box": list(self.box.corners)}


def find_objects(
    boxes: Floats, scores: Floats, photo: Size, contract: Contract, threshold: float | None = None
) -> tuple[DetectedObject, ...]:
    """Return the heads in a photo, the surest first: at most MAX_OBJECTS, each with ``threshold`` or more.

    ``boxes``: float (K, 4), xmin, ymin, xmax, ymax in px of the model's input. ``scores``: float (K, C) in [0, 1], a
    score a class. ``photo``: the size of the upright photo, in whose pixels the answer is. ``threshold`` replaces the
    contract's, and FLOOR holds under it. Raises ModelError for numbers that are NaN or infinite, and SettingsError for
    a threshold outside [0, 1].
    """
    limit = contract.threshold if threshold is None else check_threshold(threshold)
    assert (boxes.shape, scores.shape) == ((len(scores), 4), (len(scores), len(contract.class_names))), boxes.shape
    best = scores.max(1).astype(np.float64)
    if not (np.isfinite(best).all() and np.isfinite(boxes).all()):
        raise ModelError(
            "the model answers with numbers that are no boxes (NaN or infinite): its file is damaged or its training "
            "diverged; use another model"
        )
    places = np.flatnonzero(best >= FLOOR)
    places = places[np.argsort(-best[places], kind="stable")[:CANDIDATES]]
    if not len(places) or best[places[0]] < limit:
        return ()
    # In the photo and cut off at its edges before anything is compared, as torchvision's detectors do it.
    candidates = clip_boxes(map_to_photo(boxes[places], photo, contract), photo)
    solid = (candidates[:, 2:] > candidates[:, :2]).all(1)
    candidates, places = candidates[solid], places[solid]
    sureness, classes = best[places], scores[places].argmax(1)
    sure = int((sureness >= limit).sum())  # the candidates are sorted, and the others suppress none of these
    kept = suppress_overlaps(candidates[:sure], sureness[:sure], SAME_HEAD, MAX_OBJECTS)
    voted = _vote(candidates, sureness, classes, kept)
    found = []
    for i, corners in zip(kept, np.round(voted, BOX_DECIMALS).tolist(), strict=True):
        if corners[0] < corners[2] and corners[1] < corners[3]:
            label = contract.class_names[classes[i]]
            found.append(DetectedObject(round(float(sureness[i]), DECIMALS), Box(label, *corners)))
    return tuple(found)


def map_to_photo(boxes: Floats, photo: Size, contract: Contract) -> Floats:
    """Return boxes (N, 4) of the model's input, px, as boxes of the upright photo, px, which may lie outside it."""
    left, top, right, bottom = find_kept_box(photo, contract)
    scale = np.array([right - left, bottom - top] * 2) / contract.input_size
    moved: Floats = boxes * scale + np.array([left, top] * 2)
    return moved


def _vote(candidates: Floats, sureness: Floats, classes: npt.NDArray[np.intp], kept: Sequence[int]) -> Floats:
    """Return each kept box as the mean of the candidates of its class that overlap it, weighted by their scores."""
    weights = (measure_overlaps(candidates[kept], candidates) >= VOTING_OVERLAP) * sureness
    weights *= classes[kept, None] == classes
    means: Floats = weights @ candidates / weights.sum(1, keepdims=True)
    return means
