"""The phases of a run: which tensors learn, from which inputs, and how fast.

In the first one, what starts from scratch learns, from features that the frozen rest computes once. In the second one,
the stages from ``trainable_from`` on learn as well, from augmented photos.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torchvision.models import ResNet

from catdog.errors import SettingsError, TrainingError
from catdog.training.data import Batch, Examples, Prepared, hold_on_device, make_plain_batches, read_batches, set_seed
from catdog.training.detector import Detector
from catdog.training.model import ImageModel, find_stage, split_network
from catdog.training.pixels import MappedArray
from catdog.training.processes import Shard, say_first, share_folder
from catdog.training.settings import STAGES, Settings
from catdog.training.tasks import find_task

REFERENCE_BATCH: Final = 64  # photos, for which ``lr`` is given
Schedule = Literal["constant", "cosine", "one_cycle"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Some epochs in which the same tensors learn from the same inputs."""

    name: str
    first: int
    """The epoch, counted from 0 over all phases, that it begins with."""
    epochs: int
    schedule: Schedule
    learning: frozenset[str]
    """Names of the parameters that learn."""
    module: nn.Module
    """Turns inputs, after ``prepare``, into outputs."""
    train: Examples
    val: Examples
    prepare: Callable[[Tensor, Tensor], Batch]
    """Turns a training batch, as it was read, into what ``module`` takes and should answer."""
    prepare_val: Callable[[Tensor], Tensor]
    """Does the same for validation."""
    whole: bool
    """Whether ``module`` is a WholeNetwork; only then are photos mixed and weights averaged, and can a run stop early.
    """


class WholeNetwork(nn.Module):
    """What the second phase trains: ``ImageModel.logits`` as a forward, which is what DDP wraps."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Turn float pixels (N, 3, H, W) in [0, 255] into logits (N, C), or into what a Detector says."""
        return self.model.logits(images)


def remaining_phases(
    fabric: Fabric, prepared: Prepared, settings: Settings, epochs_done: int, scratch: Path
) -> Iterator[Phase]:
    """Yield the phases that are not finished yet, each when the one before has ended; ``scratch``: for features."""
    model = prepared.model
    if epochs_done < settings.frozen_epochs:
        yield _make_frozen_phase(fabric, prepared, settings, scratch)
    if settings.epochs:
        yield Phase(
            name="",
            first=settings.frozen_epochs,
            epochs=settings.epochs,
            schedule=settings.schedule,
            learning=frozenset(choose_learning_tensors(model.network, prepared.fresh, settings.trainable_from)),
            module=WholeNetwork(model),
            train=prepared.train,
            val=prepared.val,
            prepare=partial(find_task(settings).augment, settings=settings),
            prepare_val=to_floats,
            whole=True,
        )


def to_floats(images: Tensor) -> Tensor:
    """Turn uint8 (N, H, W, 3) into float32 (N, 3, H, W), in [0, 255]."""
    return images.permute(0, 3, 1, 2).float()


def _to_float(features: Tensor, targets: Tensor) -> Batch:
    return features.float(), targets


def _make_frozen_phase(fabric: Fabric, prepared: Prepared, settings: Settings, scratch: Path) -> Phase:
    """Return the first phase, on features that are computed once where they fit into ``--cache-gb``."""
    model, examples = prepared.model, (prepared.train, prepared.val)
    learning = frozenset(choose_learning_tensors(model.network, prepared.fresh, None))
    if not learning:
        raise SettingsError("--frozen-epochs: the weights fill every tensor, so nothing starts from scratch; give 0")
    phase = partial(
        Phase,
        name="frozen ",
        first=0,
        epochs=settings.frozen_epochs,
        schedule="constant",
        learning=learning,
        whole=False,
    )
    augment = partial(find_task(settings).augment, settings=settings)
    trunk, tail = split_network(model.network, learning) if isinstance(model.network, ResNet) else [nn.Sequential()] * 2
    shapes = [
        (len(part), *_measure_features(model, trunk, side))
        for part, side in zip(examples, (settings.crop_size, settings.size), strict=True)
    ]
    if not len(trunk) or sum(2 * math.prod(shape) for shape in shapes) > settings.cache_gb * 1e9:
        train, val = examples
        return phase(module=WholeNetwork(model), train=train, val=val, prepare=augment, prepare_val=to_floats)
    folder, shard = share_folder(fabric, scratch)
    computed = []
    ways: tuple[Callable[[Tensor], Tensor], ...] = (lambda images: augment(images, images)[0], to_floats)
    for name, part, shape, way in zip(("train", "val"), examples, shapes, ways, strict=True):
        with fabric.rank_zero_first(local=True):
            if shard.rank == 0:
                _reserve(folder / name, 2 * math.prod(shape))
            features = MappedArray(folder / name, np.float16, shape, writable=True)
        say_first(fabric, f"frozen phase: features of {len(part)} {name} photos")
        compute_features(model, trunk, part, way, features, settings, shard)
        computed.append(replace(part, inputs=features))
    fabric.barrier()
    train, val = (hold_on_device(part, fabric.device) for part in computed)
    return phase(module=tail, train=train, val=val, prepare=_to_float, prepare_val=Tensor.float)


def compute_features(
    model: ImageModel,
    trunk: nn.Module,
    examples: Examples,
    prepare: Callable[[Tensor], Tensor],
    into: MappedArray,
    settings: Settings,
    shard: Shard,
) -> None:
    """Write what ``trunk`` makes of this process's share of the photos; ``prepare`` turns them into (N, 3, H, W).

    Each photo is augmented once: with the few epochs that a head needs, new views would cost more than they teach.
    """
    trunk.eval()
    batches, device = make_plain_batches(len(examples), settings.batch_size, shard), model.mean.device
    todo = read_batches(examples, batches, settings, device)
    with torch.inference_mode():
        for number, (indices, (images, _)) in enumerate(zip(batches, todo, strict=True)):
            set_seed(settings.seed, number, shard.rank)
            pixels = prepare(images.to(device, non_blocking=True))
            into.array[np.asarray(indices)] = trunk(model.normalise(pixels)).half().cpu().numpy()


def _measure_features(model: ImageModel, trunk: nn.Module, side: int) -> tuple[int, ...]:
    """Return the shape of one photo's features at ``side`` px."""
    with torch.inference_mode():
        pixels = torch.zeros(1, 3, side, side, device=model.mean.device)
        return tuple(trunk.eval()(model.normalise(pixels)).shape[1:])


def _reserve(path: Path, size: int) -> None:
    """Make a file of ``size`` bytes; raises TrainingError when the disk has no room for it."""
    try:
        with path.open("wb") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a sparse file would be a bus error once the disk is full
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise TrainingError(
            f"{path}: no room for the frozen phase's features ({error.strerror}); set TMPDIR to a larger disk, or "
            "--cache-gb to less"
        ) from error


def choose_learning_tensors(network: nn.Module, fresh: Collection[str], trainable_from: str | None) -> set[str]:
    """Return the names of the parameters that learn: the ``fresh`` ones and the stages from ``trainable_from`` on."""
    stages = STAGES[STAGES.index(trainable_from) :] if trainable_from else ()
    chosen = {name for name, _ in network.named_parameters() if name in fresh or find_stage(name) in stages}
    if isinstance(network, Detector):  # its batches are too small for batch norm's statistics
        norms = (name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d))
        chosen -= {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")} - set(fresh)
    return chosen


def freeze_all_but(network: nn.Module, learning: Collection[str]) -> None:
    """Let only ``learning`` get gradients; a batch norm that doesn't learn keeps its running statistics as well."""
    network.train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in learning)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" not in learning:
            module.eval()


def new_optimizer(
    network: nn.Module, fresh: Collection[str], learning: Collection[str], settings: Settings
) -> torch.optim.Optimizer:
    """Return an optimizer over ``learning``, in which each group's ``peak`` is its highest learning rate.

    Fresh tensors learn at ``lr``; pretrained ones of layer4 at ``lr * backbone_lr``, and each stage nearer to the input
    at ``stage_decay`` times that. All grow with the batch, linearly for sgd (Goyal et al. 2017, section 2.1), by its
    square root for adamw (Malladi et al. 2022). Batch norms and biases have no decay (He et al. 2019, section 3.1).
    """
    growth = settings.batch_size / REFERENCE_BATCH
    top = settings.lr * (growth if settings.optimizer == "sgd" else math.sqrt(growth))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if name not in learning:
            continue
        depth = max(0, STAGES.index("layer4") - STAGES.index(find_stage(name)))
        peak = top if name in fresh else top * settings.backbone_lr * settings.stage_decay**depth
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    parts: list[dict[str, Any]] = [
        {"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay}
        for (peak, decay), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parts, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(parts)


def learning_rate_factor(step: int, steps: int, warmup: float, kind: Schedule) -> float:
    """Return the factor on every learning rate at ``step`` of a phase's ``steps``, in [0, 1].

    It rises linearly over the first ``warmup`` share. Then it stays at 1, or falls to 0 by half a cosine (Loshchilov &
    Hutter 2017) or, for one_cycle, linearly (Smith & Topin 2018).
    """
    position = min(1.0, step / max(1, steps))
    if position < warmup:
        return (position + 1e-2) / (warmup + 1e-2)
    rest = (position - warmup) / (1 - warmup)
    if kind == "constant":
        return 1.0
    return 1 - rest if kind == "one_cycle" else (1 + math.cos(math.pi * rest)) / 2
