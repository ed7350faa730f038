"""The phases of a run: which tensors learn, from which inputs.

First what starts from scratch, on features that the frozen rest computes once; then the stages from ``trainable_from``
on, from augmented photos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lightning.fabric import Fabric
from torch import Tensor, nn
from torchvision.models import ResNet

from catdog.errors import SettingsError
from catdog.training.augment import augment
from catdog.training.data import Examples
from catdog.training.features import Features, compute, feature_shape
from catdog.training.model import ImageModel, split
from catdog.training.optimisation import Schedule, learning_tensors
from catdog.training.prepared import Prepared
from catdog.training.processes import say_first, share_folder
from catdog.training.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs in which the same tensors learn from the same inputs."""

    name: str
    first: int
    """The epoch, counted from 0 over all phases, that it begins with."""
    epochs: int
    schedule: Schedule
    learning: frozenset[str]
    module: nn.Module
    """Inputs, after ``prepare``, -> logits."""
    train: Examples
    val: Examples
    prepare: Callable[[Tensor], Tensor]
    """A training batch as it was read -> what ``module`` takes."""
    plain: Callable[[Tensor], Tensor]
    """The same for validation."""
    whole: bool
    """The whole network, ``module`` a WholeNetwork, learns: mixing, the average and early stopping are for this one."""


class WholeNetwork(nn.Module):
    """float pixels (N, 3, H, W) in [0, 255] -> logits: what the second phase trains, wrapped by DDP as one forward."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C)."""
        return self.model.logits(images)


def phases(
    fabric: Fabric,
    prepared: Prepared,
    settings: Settings,
    epochs_done: int,
    scratch: Path,
) -> Iterator[Phase]:
    """The phases that are not finished yet, each made when the one before has ended; ``scratch``: for features."""
    model = prepared.model
    if epochs_done < settings.frozen_epochs:
        yield _frozen(fabric, prepared, settings, scratch)
    if settings.epochs:
        yield Phase(
            name="",
            first=settings.frozen_epochs,
            epochs=settings.epochs,
            schedule=settings.schedule,
            learning=frozenset(learning_tensors(model.network, prepared.fresh, settings.trainable_from)),
            module=WholeNetwork(model),
            train=prepared.train,
            val=prepared.val,
            prepare=partial(augment, settings=settings),
            plain=upright,
            whole=True,
        )


def _frozen(
    fabric: Fabric,
    prepared: Prepared,
    settings: Settings,
    scratch: Path,
) -> Phase:
    """The first phase, on cached features where they fit into ``--cache-gb``."""
    model, train, val = prepared.model, prepared.train, prepared.val
    learning = frozenset(learning_tensors(model.network, prepared.fresh, None))
    if not learning:
        raise SettingsError("--frozen-epochs: the weights fill every tensor, so nothing starts from scratch; give 0")
    frozen = partial(
        Phase,
        name="frozen ",
        first=0,
        epochs=settings.frozen_epochs,
        schedule="constant",
        learning=learning,
        whole=False,
    )
    trunk, tail = split(model.network, learning) if isinstance(model.network, ResNet) else (nn.Sequential(), None)
    shapes = [
        (len(examples), *feature_shape(model, trunk, side))
        for examples, side in ((train, settings.crop_size), (val, settings.size))
    ]
    if tail is None or not len(trunk) or sum(2 * math.prod(shape) for shape in shapes) > settings.cache_gb * 1e9:
        prepare = partial(augment, settings=settings)
        return frozen(module=WholeNetwork(model), train=train, val=val, prepare=prepare, plain=upright)
    folder, shard = share_folder(fabric, scratch)
    ways: tuple[Callable[[Tensor], Tensor], ...] = (partial(augment, settings=settings), upright)
    computed = []
    for name, examples, shape, way in zip(("train", "val"), (train, val), shapes, ways, strict=True):
        with fabric.rank_zero_first(local=True):
            features = Features(folder / name, shape, new=shard.rank == 0)
        say_first(fabric, f"frozen phase: features of {len(examples)} {name} photos")
        compute(model, trunk, examples, way, features, settings, shard)
        computed.append(Examples(features, examples.labels))
    fabric.barrier()
    return frozen(module=tail, train=computed[0], val=computed[1], prepare=Tensor.float, plain=Tensor.float)


def upright(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), in [0, 255]."""
    return images.permute(0, 3, 1, 2).float()
