"""What differs between telling cats from dogs and finding their heads; all else of a training run is the same code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split
from catdog.dataset.manifest import PETS
from catdog.errors import DataError
from catdog.training.augment import augment
from catdog.training.boxes import augment_boxes, compare_boxes, make_targets
from catdog.training.detection import AveragePrecision
from catdog.training.settings import Settings

Targets = npt.NDArray[Any]
"""What the network should answer, a row a photo: int64 (N,) classes, float32 (N, C) probabilities that a teacher gave,
or float32 (N, M, 5) boxes as in ``catdog.training.boxes``."""
Comparison = tuple[Tensor, Tensor, Tensor]
"""A batch's mean loss, (), which has gradients, and a sum and a count whose quotient is the task's measure, both ()."""


class Task(Protocol):
    """How a task sees photos, and how far its answers are from the truth."""

    measure: str
    """What ``compare`` measures beside the loss: train_NAME and val_NAME in the history."""

    def class_names(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the names of the model's outputs."""

    def choose_photos(self, manifest: Manifest, split: Split) -> list[Photo]:
        """Return the photos of a split that the task can use."""

    def check_photos(self, manifest: Manifest, data: str) -> None:
        """Raise DataError where there is nothing to learn from or to validate on."""

    def describe_photos(self, photos: Sequence[Photo], class_names: Sequence[str]) -> str:
        """Return what the photos are, for the log."""

    def make_targets(self, photos: Sequence[Photo], contract: Contract) -> Targets:
        """Return what the network should answer, a row a photo."""

    def augment(self, images: Tensor, targets: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        """Turn a training batch, uint8 (N, S, S, 3), into float32 (N, 3, C, C) in [0, 255] and what is in it then."""

    def compare(self, outputs: Tensor, targets: Tensor, settings: Settings, validating: bool) -> Comparison:
        """Compare a batch's float32 outputs with its targets."""

    def new_scorer(self, contract: Contract) -> Scorer | None:
        """Return what scores a whole validation, where the means over photos don't."""


class Scorer(Protocol):
    """Gathers answers to photos and scores them together."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch's outputs and targets."""

    def compute(self) -> dict[str, float]:
        """Return the scores of all batches of all processes, by their names in the history."""


class Classify:
    """One answer a photo."""

    measure = "accuracy"

    def class_names(self, manifest: Manifest) -> tuple[str, ...]:
        return manifest.class_names

    def choose_photos(self, manifest: Manifest, split: Split) -> list[Photo]:
        return manifest.of(split)

    def check_photos(self, manifest: Manifest, data: str) -> None:
        for split in _LEARNT_FROM:
            present = {photo.label for photo in manifest.of(split)}
            if missing := [name for name in manifest.class_names if name not in present]:
                raise DataError(f"{data}: no photo of {missing[0]!r} in the {split} split; add photos")

    def describe_photos(self, photos: Sequence[Photo], class_names: Sequence[str]) -> str:
        return ", ".join(f"{sum(p.label == c for p in photos)} {c}" for c in class_names)

    def make_targets(self, photos: Sequence[Photo], contract: Contract) -> Targets:
        return np.array([contract.class_names.index(photo.label) for photo in photos], np.int64)

    def augment(self, images: Tensor, targets: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        return augment(images, settings), targets

    def compare(self, outputs: Tensor, targets: Tensor, settings: Settings, validating: bool) -> Comparison:
        loss = F.cross_entropy(outputs, targets, label_smoothing=0.0 if validating else settings.label_smoothing)
        likeliest = targets if targets.ndim == 1 else targets.argmax(1)
        right = (outputs.detach().argmax(1) == likeliest).sum()
        return loss, right, torch.full_like(right, len(outputs))

    def new_scorer(self, contract: Contract) -> None:
        return None


class Detect:
    """A box around each pet's head. Photos that nobody marked are of no use; those of ``neither`` have no box."""

    measure = "overlap"

    def class_names(self, manifest: Manifest) -> tuple[str, ...]:
        return PETS

    def choose_photos(self, manifest: Manifest, split: Split) -> list[Photo]:
        return [photo for photo in manifest.of(split) if photo.is_marked]

    def check_photos(self, manifest: Manifest, data: str) -> None:
        for split in _LEARNT_FROM:
            present = {box.label for photo in manifest.of(split) for box in photo.boxes or ()}
            if missing := [name for name in PETS if name not in present]:
                raise DataError(
                    f"{data}: no box around a {missing[0]} in the {split} split; build the dataset from photos with "
                    "their annotations (catdog dataset --help)"
                )

    def describe_photos(self, photos: Sequence[Photo], class_names: Sequence[str]) -> str:
        boxes = [box.label for photo in photos for box in photo.boxes or ()]
        found = ", ".join(f"{boxes.count(name)} {name}" for name in class_names)
        return f"boxes: {found}; {sum(not photo.boxes for photo in photos)} without one"

    def make_targets(self, photos: Sequence[Photo], contract: Contract) -> Targets:
        return make_targets(photos, contract)

    def augment(self, images: Tensor, targets: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        return augment_boxes(images, targets, settings)

    def compare(self, outputs: Tensor, targets: Tensor, settings: Settings, validating: bool) -> Comparison:
        loss, overlaps, _ = compare_boxes(outputs, targets, settings.size if validating else settings.crop_size)
        return loss, overlaps.sum(), torch.full_like(loss.detach(), len(overlaps))

    def new_scorer(self, contract: Contract) -> Scorer:
        return AveragePrecision(contract)


_LEARNT_FROM: Final[tuple[Split, ...]] = ("train", "val")
TASKS: Final[dict[str, Callable[[], Task]]] = {"classify": Classify, "detect": Detect}


def find_task(settings: Settings) -> Task:
    """Return the task that the settings name."""
    return TASKS[settings.task]()
