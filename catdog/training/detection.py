"""How well boxes are found: average precision by torchmetrics, over the photos of all processes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from catdog.contract import Contract
from catdog.detection.decoding import DetectedObject, find_objects
from catdog.training.boxes import scale_targets
from catdog.training.detector import make_places, place_boxes

SCORE_FLOOR: Final = 0.05
"""Boxes under this score are left out of the measures, as torchvision's detectors leave them out; it costs precision
only where recall is bought at a score that nobody would ship."""


class AveragePrecision:
    """Gathers a validation's boxes and measures them as COCO does, in px of the model's input."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._places, _ = make_places(contract.input_size)
        self._metric = new_metric()

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch's outputs (N, K, C + 4) and targets (N, M, 5), both of the contract's input size."""
        size = self._contract.input_size
        outputs = outputs.float().cpu()
        scores = outputs[..., :-4].sigmoid().numpy()
        boxes = place_boxes(outputs[..., -4:], self._places).numpy()
        truth = scale_targets(targets.cpu(), size)
        found = [
            find_objects(b, s, (size, size), self._contract, SCORE_FLOOR) for b, s in zip(boxes, scores, strict=True)
        ]
        self._metric.update(
            [make_prediction(objects, self._contract) for objects in found],
            [{"boxes": row[row[:, 0] >= 0, 1:], "labels": row[row[:, 0] >= 0, 0].long()} for row in truth],
        )

    def compute(self) -> dict[str, float]:
        """Return the average precision at overlaps of 0.5, 0.75, and over 0.5 to 0.95."""
        measured = self._metric.compute()
        return {name: float(measured[key]) for name, key in (("ap50", "map_50"), ("ap75", "map_75"), ("ap", "map"))}


def new_metric(**options: Any) -> MeanAveragePrecision:
    """Return torchmetrics' measure of boxes, as COCO's own program does it."""
    return MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools", **options)


def make_prediction(objects: tuple[DetectedObject, ...], contract: Contract) -> dict[str, Tensor]:
    """Return a photo's boxes as torchmetrics takes them."""
    corners = np.array([found.box.corners for found in objects], np.float32).reshape(-1, 4)
    return {
        "boxes": torch.from_numpy(corners),
        "scores": torch.tensor([found.confidence for found in objects]),
        "labels": torch.tensor([contract.class_names.index(found.label) for found in objects], dtype=torch.int64),
    }
