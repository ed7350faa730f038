"""Which tensors learn, how fast, and when: freezing, optimizer groups, and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from catdog.training.model import find_stage
from catdog.training.settings import STAGES, Settings

REFERENCE_BATCH = 64  # photos; ``lr`` is given for it and scaled linearly (Goyal et al. 2017, section 2.1)
Schedule = Literal["constant", "cosine", "one_cycle"]


def choose_learning_tensors(network: nn.Module, fresh: Collection[str], trainable_from: str | None) -> set[str]:
    """Return the names of the parameters that learn: the ``fresh`` ones and the stages from ``trainable_from`` on."""
    stages = STAGES[STAGES.index(trainable_from) :] if trainable_from else ()
    return {name for name, _ in network.named_parameters() if name in fresh or find_stage(name) in stages}


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
    at ``stage_decay`` times that. Batch norms and biases have no decay (He et al. 2019, section 3.1).
    """
    top = settings.lr * settings.batch_size / REFERENCE_BATCH
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


def choose_precision(settings: Settings, accelerator: str) -> Any:
    """Return Lightning's precision flag: autocast where the hardware gains by it.

    On a CPU that is where it has AMX tiles: with AVX-512 BF16 alone, ResNet-18 at 160 px trained 1.5 times slower in
    bf16 than in float32 (torch 2.11, 2 cores; ``benchmarks/precision.py``).
    """
    if not settings.amp:
        return "32-true"
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    cpuinfo = Path("/proc/cpuinfo")
    amx = accelerator == "cpu" and cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    return "bf16-mixed" if amx else "32-true"
