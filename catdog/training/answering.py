"""Any model, a checkpoint or an ONNX file, answers photos through the same function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from catdog.ahead import batches_ahead
from catdog.classifier import BATCH_SIZE
from catdog.contract import Contract
from catdog.image import load_pixels

Images = npt.NDArray[np.uint8]
"""uint8 (N, H, W, 3), RGB."""
Probabilities = npt.NDArray[np.float32]
"""float32 (N, C), rows summing to 1."""


class Model(Protocol):
    """What ``Classifier`` and ``ImageModel`` have in common."""

    contract: Contract

    def probabilities(self, images: Images) -> Probabilities:
        """Answer images of the contract's size."""


def load_batches(photos: Sequence[Path | bytes], contract: Contract, size: int = BATCH_SIZE) -> Iterator[Images]:
    """Yield the photos' pixels in order, ``size`` at a time, decoded one batch ahead; raises ImageError."""
    for batch in batches_ahead(lambda photo: load_pixels(photo, contract), photos, size):
        yield np.stack(batch)


def answer_photos(
    model: Model, photos: Sequence[Path | bytes], progress: Callable[[int, int], None] | None = None
) -> Probabilities:
    """Return the model's answers in the order of the photos; raises ImageError for a photo that can't be read."""
    answers, done = [], 0
    for images in load_batches(photos, model.contract):
        answers.append(model.probabilities(images))
        done += len(images)
        if progress:
            progress(done, len(photos))
    return np.concatenate(answers)
