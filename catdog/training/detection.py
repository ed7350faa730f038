"""How well boxes are found: average precision as COCO measures it, its intervals, and what a threshold costs.

A photo's found boxes are what ``find_objects`` gives from SCORE_FLOOR on; its true ones are ``Photo.boxes``, none where
it shows no pet. "A match" is an overlap (intersection over union) of 0.5 or more, unless something else is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from catdog.ahead import batches_ahead
from catdog.boxes import Box, measure_overlaps
from catdog.contract import Contract
from catdog.dataset import Photo
from catdog.detection.decoding import DetectedObject, find_objects
from catdog.detection.detector import Detector as OnnxDetector
from catdog.errors import DataError
from catdog.image import Size, load_sized_pixels
from catdog.onnx_model import BATCH_SIZE
from catdog.training.boxes import scale_targets
from catdog.training.detector import DetectionModel, make_places, place_boxes
from catdog.training.metrics import RESAMPLES, wilson_interval

Objects = tuple[DetectedObject, ...]
Model = OnnxDetector | DetectionModel
"""What finds boxes in images of its contract's size."""

SCORE_FLOOR: Final = 0.05
"""Boxes under this score are left out of the measures, as torchvision's detectors leave them out; it costs precision
only where recall is bought at a score that nobody would ship."""
OVERLAPS: Final = np.arange(0.5, 1.0, 0.05)  # at which COCO's average precision is taken
MATCH: Final = 0.5
RECALLS: Final = np.linspace(0, 1, 101)  # COCO's
MAX_FALSE: Final = 0.01
"""Share of validation photos that may get a false box at a fitted threshold."""
THRESHOLD_RANGE: Final = (0.3, 0.9)
"""No threshold outside these is believed: few photos lie near it, and others differ from them."""
KEYS: Final = {"ap": "map", "ap50": "map_50", "ap75": "map_75"}


class AveragePrecision:
    """Gathers a validation's boxes and measures them as COCO does, in px of the model's input."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._places, _ = make_places(contract.input_size)
        self._photos: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        """What was found in each photo and what is there, as torchmetrics takes it."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch's outputs (N, K, C + 4) and targets (N, M, 5), both of the contract's input size."""
        size = self._contract.input_size
        outputs = outputs.float().cpu()
        scores = outputs[..., :-4].sigmoid().numpy()
        boxes = place_boxes(outputs[..., -4:], self._places).numpy()
        found = [
            find_objects(b, s, (size, size), self._contract, SCORE_FLOOR) for b, s in zip(boxes, scores, strict=True)
        ]
        rows = [row[row[:, 0] >= 0] for row in scale_targets(targets.cpu(), size)]
        for objects, row in zip(found, rows, strict=True):
            truth = {"boxes": row[:, 1:], "labels": row[:, 0].long()}
            self._photos.append((_make_prediction(objects, self._contract.class_names), truth))

    def compute(self) -> dict[str, float]:
        """Return the average precision over overlaps of 0.5 to 0.95, and at 0.5 and 0.75."""
        photos = self._photos
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # Gathered here, since torchmetrics takes all processes to have as many photos as each other.
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, photos)
            photos = [photo for part in parts for photo in part]
        metric = MeanAveragePrecision(sync_on_compute=False)
        metric.update([found for found, _ in photos], [truth for _, truth in photos])
        measured = metric.compute()
        return {name: float(measured[key]) for name, key in KEYS.items()}


def find_in_photos(
    model: Model, photos: Sequence[Path | bytes], progress: Callable[[int, int], None] | None = None
) -> list[Objects]:
    """Return the boxes in each photo, px of the upright photo; raises ImageError for one that can't be read."""
    found: list[Objects] = []

    def load(photo: Path | bytes) -> tuple[npt.NDArray[np.uint8], Size]:
        return load_sized_pixels(photo, model.contract)

    for batch in batches_ahead(load, photos, BATCH_SIZE):
        boxes, scores = model.propose(np.stack([pixels for pixels, _ in batch]))
        for b, s, (_, size) in zip(boxes, scores, batch, strict=True):
            found.append(find_objects(b, s, size, model.contract, SCORE_FLOOR))
        if progress:
            progress(len(found), len(photos))
    return found


def measure_boxes(
    found: Sequence[Objects],
    photos: Sequence[Photo],
    class_names: Sequence[str],
    threshold: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the average precisions with their intervals, by species and size, and what happens at ``threshold``.

    The point values are torchmetrics'; the 95% intervals a percentile bootstrap over photos, in which copies of a
    picture are drawn together. Raises DataError where no photo has a box.
    """
    if not any(photo.boxes for photo in photos):
        raise DataError("none of these photos has a box, so there is nothing to measure")
    metric = MeanAveragePrecision(class_metrics=True)
    metric.update(
        [_make_prediction(objects, class_names) for objects in found],
        [_make_truth(photo.boxes or (), class_names) for photo in photos],
    )
    measured = metric.compute()
    intervals = estimate_intervals(found, photos, class_names, resamples=resamples, seed=seed)
    species = dict(
        zip(measured["classes"].reshape(-1).tolist(), measured["map_per_class"].reshape(-1).tolist(), strict=True)
    )
    return {
        "photos": len(photos),
        "boxes": sum(len(photo.boxes or ()) for photo in photos),
        **{name: float(measured[key]) for name, key in KEYS.items()},
        "intervals": intervals,
        "ap_by_species": {class_names[int(i)]: value for i, value in sorted(species.items())},
        # Of squares with these sides, px of the photo: under 32, to 96, and beyond; None where there is none.
        "ap_by_size": {size: _known(float(measured[f"map_{size}"])) for size in ("small", "medium", "large")},
        "at_threshold": count_at(found, photos, threshold),
    }


def _known(value: float) -> float | None:
    return None if value < 0 else value  # torchmetrics' -1: no such box


def estimate_intervals(
    found: Sequence[Objects],
    photos: Sequence[Photo],
    class_names: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return 95% intervals [low, high] of the average precisions; see ``measure_boxes``."""
    judged = [judge_class(found, photos, name) for name in class_names]
    clusters = {cluster: i for i, cluster in enumerate(sorted({photo.cluster for photo in photos}))}
    member = np.array([clusters[photo.cluster] for photo in photos])
    dice = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        times = np.bincount(dice.integers(len(clusters), size=len(clusters)), minlength=len(clusters))[member]
        by_class = [each.average_precision(times) for each in judged]
        known = [row for row in by_class if row is not None]
        if known:
            row = np.mean(known, 0)
            rows.append([row.mean(), row[0], row[5]])
    low, high = np.quantile(rows, [0.025, 0.975], axis=0)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(KEYS)}


@dataclass(frozen=True)
class JudgedBoxes:
    """All found boxes of one class, the surest first, and which of them match a true one."""

    scores: npt.NDArray[np.float64]
    """(D,)"""
    photo: npt.NDArray[np.int64]
    """(D,), the index of each one's photo."""
    right: npt.NDArray[np.bool_]
    """(10, D), at each of OVERLAPS."""
    true: npt.NDArray[np.int64]
    """(N,), how many boxes of the class each photo has."""

    def average_precision(self, times: npt.NDArray[np.integer[Any]] | None = None) -> npt.NDArray[np.float64] | None:
        """Return the average precision at each of OVERLAPS, (10,), as COCO's program has it; None without true boxes.

        ``times``: how often each photo counts, (N,).
        """
        times = np.ones(len(self.true), np.int64) if times is None else times
        total = int((self.true * times).sum())
        if not total:
            return None
        precision, recall = self.curves(times)
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # at any recall or a higher one
        result = np.zeros(len(OVERLAPS))
        for i, (p, r) in enumerate(zip(precision, recall, strict=True)):
            at = np.searchsorted(r, RECALLS - 1e-9)
            result[i] = np.append(p, 0.0)[at].mean()
        return result

    def curves(self, times: npt.NDArray[np.integer[Any]] | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return precision and recall, (10, D) each, of the boxes up to each one."""
        times = np.ones(len(self.true), np.int64) if times is None else times
        weight = times[self.photo]
        hits = np.cumsum(self.right * weight, 1)
        given = np.cumsum(weight)
        return hits / np.maximum(given, 1), hits / max(1, int((self.true * times).sum()))


def judge_class(found: Sequence[Objects], photos: Sequence[Photo], name: str) -> JudgedBoxes:
    """Match the boxes of one class greedily, the surest first, each with the free true box that it overlaps most."""
    rows: list[tuple[float, int, npt.NDArray[np.bool_]]] = []
    for i, (objects, photo) in enumerate(zip(found, photos, strict=True)):
        mine = [each for each in objects if each.label == name]
        overlaps = _compare(mine, [box for box in photo.boxes or () if box.label == name])
        for each, right in zip(mine, _match(overlaps), strict=True):
            rows.append((each.confidence, i, right))
    rows.sort(key=lambda row: -row[0])
    return JudgedBoxes(
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], bool).reshape(-1, len(OVERLAPS)).T,
        np.array([sum(box.label == name for box in photo.boxes or ()) for photo in photos]),
    )


def _compare(objects: Sequence[DetectedObject], boxes: Sequence[Box]) -> npt.NDArray[np.float64]:
    corners = [np.array([b.corners for b in side], float).reshape(-1, 4) for side in ([o.box for o in objects], boxes)]
    return measure_overlaps(*corners).astype(np.float64, copy=False)


def _match(overlaps: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which found boxes match at each of OVERLAPS, (D, 10), of overlaps (D, M) in the order of their scores."""
    found, true = overlaps.shape
    right = np.zeros((found, len(OVERLAPS)), bool)
    for k, least in enumerate(OVERLAPS):
        free = np.ones(true, bool)
        for i in range(found):
            row = np.where(free, overlaps[i], -1.0)
            if true and row.max() >= least - 1e-10:
                free[row.argmax()] = False
                right[i, k] = True
    return right


def count_at(found: Sequence[Objects], photos: Sequence[Photo], threshold: float) -> dict[str, Any]:
    """Return what boxes of ``threshold`` and more find and get wrong, whichever species they name.

    ``found_heads``: true boxes that one matches. ``false_boxes``: that match none. ``wrong_species``: matches that name
    another species. ``empty_with_boxes``: photos without a pet that get a box. Shares have 95% intervals.
    """
    heads, found_heads, wrong_species, false_boxes, alarms, empty = 0, 0, 0, 0, 0, 0
    for objects, photo in zip(found, photos, strict=True):
        sure = [each for each in objects if each.confidence >= threshold]
        pairs = match_boxes(sure, photo.boxes or ())
        heads += len(photo.boxes or ())
        found_heads += len(pairs)
        wrong_species += sum(sure[i].label != (photo.boxes or ())[j].label for i, j in pairs.items())
        false_boxes += len(sure) - len(pairs)
        empty += not photo.boxes
        alarms += bool(sure) and not photo.boxes
    return {
        "threshold": threshold,
        "heads": heads,
        "found_heads": found_heads,
        "recall": found_heads / heads if heads else None,
        "recall_95": _bound_share(found_heads, heads),
        "wrong_species": wrong_species,
        "false_boxes": false_boxes,
        "false_boxes_a_photo": false_boxes / len(photos),
        "empty_photos": empty,
        "empty_with_boxes": alarms,
        "alarm_share": alarms / empty if empty else None,
        "alarm_share_95": _bound_share(alarms, empty),
    }


def _bound_share(count: int, of: int) -> list[float] | None:
    return list(wilson_interval(count, of)) if of else None


def match_boxes(objects: Sequence[DetectedObject], boxes: Sequence[Box]) -> dict[int, int]:
    """Return which found box, the surest first, matches which true one, as indices; the species may differ."""
    overlaps = _compare(objects, boxes)
    pairs: dict[int, int] = {}
    for i in np.argsort([-each.confidence for each in objects], kind="stable").tolist():
        row = [-1.0 if j in pairs.values() else float(overlap) for j, overlap in enumerate(overlaps[i])]
        if row and max(row) >= MATCH:
            pairs[i] = row.index(max(row))
    return pairs


def fit_box_threshold(found: Sequence[Objects], photos: Sequence[Photo]) -> float:
    """Return the smallest threshold at which at most 1% of the photos get a false box, in THRESHOLD_RANGE.

    A box is false where it matches no true one, or one of another species; photos without a pet count like the others.
    """
    worst = []
    for objects, photo in zip(found, photos, strict=True):
        boxes = photo.boxes or ()
        pairs = match_boxes(objects, boxes)
        false = [
            each.confidence for i, each in enumerate(objects) if i not in pairs or each.label != boxes[pairs[i]].label
        ]
        worst.append(max(false, default=0.0))
    worst.sort(reverse=True)
    low, high = THRESHOLD_RANGE
    above = worst[int(MAX_FALSE * len(photos))]  # this photo and all after it must stay under the threshold
    return min(high, max(low, math.floor(above * 1000 + 1) / 1000))


def _make_prediction(objects: Objects, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Return a photo's found boxes as torchmetrics takes them."""
    return _make_truth([each.box for each in objects], class_names) | {
        "scores": torch.tensor([each.confidence for each in objects])
    }


def _make_truth(boxes: Sequence[Box], class_names: Sequence[str]) -> dict[str, Tensor]:
    corners = np.array([box.corners for box in boxes], np.float32).reshape(-1, 4)
    labels = torch.tensor([class_names.index(box.label) for box in boxes], dtype=torch.int64)
    return {"boxes": torch.from_numpy(corners), "labels": labels}
