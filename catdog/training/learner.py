"""A phase's module with its optimizer, which takes steps, averages the weights and measures validation photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import v2

from catdog.training.data import Batch, Prepared, make_loader, make_plain_batches
from catdog.training.phases import Phase, freeze_all_but, new_optimizer
from catdog.training.processes import Shard, sum_over_processes
from catdog.training.settings import Settings
from catdog.training.tasks import Task, find_task


class Learner:
    """Takes the steps of one phase."""

    def __init__(self, fabric: Fabric, prepared: Prepared, phase: Phase, settings: Settings):
        self.settings = settings
        self.phase = phase
        self.network = prepared.model.network
        freeze_all_but(self.network, phase.learning)
        optimizer = new_optimizer(self.network, prepared.fresh, phase.learning, settings)
        self.fabric = fabric
        self.module, self.optimizer = fabric.setup(phase.module, optimizer)
        self.average: AveragedModel | None = None
        if settings.ema and phase.whole:
            self.average = AveragedModel(phase.module, multi_avg_fn=self._move_average, use_buffers=True)
            self.average.requires_grad_(False)
        self._averaged = 0
        self.task = find_task(settings)
        self.contract = prepared.contract
        self.sums = torch.zeros(4, dtype=torch.float64, device=fabric.device)
        classes = len(prepared.contract.class_names)
        mixes = [
            mix(alpha=alpha, num_classes=classes)
            for mix, alpha in ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
            if alpha and phase.whole
        ]
        self._mix = v2.RandomChoice(mixes) if mixes else None

    def step(self, batch: Batch, factor: float) -> Tensor:
        """Learn from a batch at ``factor`` times the peak learning rates; return the loss, (), on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        images, wanted = (tensor.to(self.fabric.device, non_blocking=True) for tensor in batch)
        inputs, targets = self.phase.prepare(images, wanted)
        if self._mix is not None:
            inputs, targets = self._mix(inputs, targets)
        outputs = self.module(inputs).float()
        loss, measured, count = self.task.compare(outputs, targets, self.settings, False)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        if clip := self.settings.clip_norm:  # what isn't finite is left to the scaler, or to the check of the loss
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=clip, error_if_nonfinite=False)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.phase.module)
            self._averaged += 1
        detached = loss.detach()
        self.sums += self._sum(detached, len(images), measured, count)
        return detached

    def _sum(self, loss: Tensor, photos: int, measured: Tensor, count: Tensor) -> Tensor:
        """Return what is added to ``sums``: the loss times photos, photos, the task's measure times its count, that."""
        return torch.stack([loss * photos, torch.full_like(loss, photos), measured.to(loss), count.to(loss)])

    def validate(self) -> dict[str, float]:
        """Return val_loss, val_NAME of the task's measure, and what else it scores, over all processes.

        They are of the weights that would be served now.
        """
        module = self.phase.module if self.average is None else self.average.module
        _share_buffers(self.fabric, module)
        sums = torch.zeros_like(self.sums)
        shard = Shard(self.fabric.global_rank, self.fabric.world_size)
        batches = make_plain_batches(len(self.phase.val), self.settings.batch_size, shard)
        scorer = self.task.new_scorer(self.contract)
        module.eval()
        with torch.inference_mode(), self.fabric.autocast():
            for images, wanted in make_loader(self.phase.val, batches, self.settings):
                outputs = module(self.phase.prepare_val(images.to(self.fabric.device))).float()
                targets = wanted.to(self.fabric.device)
                loss, measured, count = self.task.compare(outputs, targets, self.settings, True)
                sums += self._sum(loss, len(images), measured, count)
                if scorer is not None:
                    scorer.add(outputs, targets)
        freeze_all_but(self.network, self.phase.learning)
        scores = {} if scorer is None else {f"val_{name}": score for name, score in scorer.compute().items()}
        return name_sums("val", self.task, sum_over_processes(self.fabric, sums)) | scores

    def copy_served(self) -> dict[str, Tensor]:
        """Return the tensors that would be served now, the average's where there is one, copied to the CPU."""
        averaged: Any = self.average and self.average.module  # a WholeNetwork
        network = averaged.model.network if averaged else self.network
        return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return all tensors that a resumed run needs."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
            self._averaged = int(self.average.n_averaged)
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _move_average(self, averages: Any, currents: Any, count: Any) -> None:
        """Set each average to d average + (1 - d) weight, with d rising to ``--ema`` over the first steps.

        The rise, (1 + n) / (10 + n), is that of TensorFlow's ExponentialMovingAverage: a short run has an average too.
        """
        n = self._averaged  # ``count`` says the same, but lies on the GPU
        weight = 1 - min(self.settings.ema, (1 + n) / (10 + n))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, weight)
            else:
                average.copy_(current)


def name_sums(part: str, task: Task, sums: Sequence[float]) -> dict[str, float]:
    """Return the mean loss and the task's measure by their names in the history; ``sums`` as in ``Learner.sums``."""
    loss, photos, measured, count = sums
    return {f"{part}_loss": loss / photos, f"{part}_{task.measure}": measured / max(1.0, count)}


def _share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give all processes the first one's batch norm statistics: these are served, so these are measured."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
