"""What the frozen part of a network makes of each training photo, computed once for all epochs of the frozen phase.

One augmented view a photo: with the few epochs that a head needs, new views would cost more than they teach.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from catdog.errors import TrainingError
from catdog.training.data import Examples, Shard, loader, plain_batches, seed_from
from catdog.training.model import ImageModel
from catdog.training.settings import Settings


class Features:
    """Features by index, float16 (n, ...), in one memory-mapped file."""

    def __init__(self, path: Path, shape: tuple[int, ...], new: bool) -> None:
        """``new``: make the file; raises TrainingError when the disk has no room for it."""
        size = 2 * math.prod(shape)
        try:
            if new:
                with path.open("wb") as file:
                    file.truncate(size)
                    if hasattr(os, "posix_fallocate"):  # a sparse file would be a bus error once the disk is full
                        os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise TrainingError(
                f"{path}: no room for the frozen phase's features ({error.strerror}); set TMPDIR to a larger disk, or "
                "--cache-gb to less"
            ) from error
        self.array: npt.NDArray[np.float16] = np.memmap(path, np.float16, "r+", shape=shape)

    def read(self, indices: Sequence[int]) -> npt.NDArray[np.float16]:
        """A copy of these."""
        return self.array[np.asarray(indices)]


def feature_shape(model: ImageModel, trunk: nn.Module, side: int) -> tuple[int, ...]:
    """Of one photo's features at ``side`` px."""
    with torch.inference_mode():
        pixels = torch.zeros(1, 3, side, side, device=model.mean.device)
        return tuple(trunk.eval()(model.normalise(pixels)).shape[1:])


def compute(
    model: ImageModel,
    trunk: nn.Module,
    examples: Examples,
    prepare: Callable[[Tensor], Tensor],
    into: Features,
    settings: Settings,
    shard: Shard,
) -> None:
    """Fill this process's share of ``into`` with ``trunk``'s features; ``prepare``: photos as read -> (N, 3, H, W)."""
    trunk.eval()
    batches = plain_batches(len(examples), settings.batch_size, shard)
    with torch.inference_mode():
        for number, (indices, (images, _)) in enumerate(zip(batches, loader(examples, batches, settings), strict=True)):
            seed_from(settings.seed, number, shard.rank)
            pixels = prepare(images.to(model.mean.device, non_blocking=True))
            into.array[np.asarray(indices)] = trunk(model.normalise(pixels)).half().cpu().numpy()
