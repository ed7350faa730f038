"""A phase's module with its optimizer, which takes steps, averages the weights and measures validation photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torchvision.transforms import v2

from catdog.training.data import Batch, Prepared, make_plain_batches, read_batches
from catdog.training.phases import Phase, freeze_all_but, new_optimizer
from catdog.training.processes import Shard, sum_over_processes
from catdog.training.settings import Settings
from catdog.training.tasks import Task, find_task


class MovingAverage:
    """An average of a module's tensors over the steps that were taken; ``module`` holds it."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = deepcopy(module).requires_grad_(False)
        self._decay = decay
        self._steps = 0  # counted here, since a GPU's own count would have to be waited for
        tensors = zip(_list_tensors(self.module), _list_tensors(module), strict=True)
        pairs = [(average, current.detach()) for average, current in tensors]
        self._averages, self._currents = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self) -> None:
        """Set each average to d average + (1 - d) weight, with d rising from 0 to ``decay`` over the first steps.

        The rise, (1 + n) / (10 + n), is that of TensorFlow's ExponentialMovingAverage: a short run has an average too.
        """
        n = self._steps
        decay = min(self._decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(self._averages, self._currents, 1 - decay)
        for average, current in self._counts:
            average.copy_(current)
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """Return what ``load`` takes, in the form of torch's AveragedModel."""
        tensors = self.module.state_dict().items()
        return {"n_averaged": self._steps, **{f"module.{name}": tensor for name, tensor in tensors}}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        tensors = dict(state)
        self._steps = int(tensors.pop("n_averaged"))
        self.module.load_state_dict({name.removeprefix("module."): tensor for name, tensor in tensors.items()})


def _list_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class Learner:
    """Takes the steps of one phase."""

    def __init__(self, fabric: Fabric, prepared: Prepared, phase: Phase, settings: Settings):
        self.settings = settings
        self.phase = phase
        self.network = prepared.model.network
        freeze_all_but(self.network, phase.learning)
        optimizer = new_optimizer(self.network, prepared.fresh, phase.learning, settings)
        self.fabric = fabric
        module: Any = torch.compile(phase.module) if settings.compile else phase.module
        self.module, self.optimizer = fabric.setup(module, optimizer)
        self.average = MovingAverage(phase.module, settings.ema) if settings.ema and phase.whole else None
        on_gpu = fabric.device.type == "cuda"
        self._beside: Any = torch.cuda.Stream(fabric.device, priority=-1) if on_gpu else None  # type: ignore[no-untyped-call]
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

    def step(self, batches: Iterator[Batch], factor: float) -> Tensor:
        """Learn from the next batch at ``factor`` times the peak learning rates; return the loss, (), on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        inputs, targets = self._prepare_next(batches)
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
            self.average.update()
        detached = loss.detach()
        self.sums += self._sum(detached, len(inputs), measured, count)
        return detached

    def _prepare_next(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch on the device, augmented; a GPU does it beside the step before.

        Some photos come back to the CPU, to be saved as JPEG. In a stream of their own they needn't wait for that step;
        their stream waits for the one before it, so that batches that are ready don't pile up.
        """
        if self._beside is None:
            return self._prepare(next(batches))
        steps = torch.cuda.current_stream(self.fabric.device)
        with torch.cuda.stream(self._beside):
            batch = self._prepare(next(batches))
        steps.wait_stream(self._beside)
        self._beside.wait_stream(steps)
        for tensor in batch:
            tensor.record_stream(steps)
        return batch

    def _prepare(self, batch: Batch) -> Batch:
        images, wanted = batch
        # Boxes are moved along on the CPU: the targets follow when they are done.
        inputs, targets = self.phase.prepare(images.to(self.fabric.device, non_blocking=True), wanted)
        return inputs, targets.to(self.fabric.device, non_blocking=True)

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
            for batch in read_batches(self.phase.val, batches, self.settings, self.fabric.device):
                images, targets = (tensor.to(self.fabric.device, non_blocking=True) for tensor in batch)
                outputs = module(self.phase.prepare_val(images)).float()
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
            "average": None if self.average is None else self.average.state(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to where ``state`` was taken."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])


def name_sums(part: str, task: Task, sums: Sequence[float]) -> dict[str, float]:
    """Return the mean loss and the task's measure by their names in the history; ``sums`` as in ``Learner.sums``."""
    loss, photos, measured, count = sums
    return {f"{part}_loss": loss / photos, f"{part}_{task.measure}": measured / max(1.0, count)}


def _share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give all processes the first one's batch norm statistics: these are served, so these are measured."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)
