"""The training loop, whose epochs can stop at any step and go on there.

Lightning Fabric brings devices, precision and several processes. All random numbers of a step follow from the seed, the
epoch and the step alone, so a run that was cut off learns what an uninterrupted one would have.
"""

from __future__ import annotations

import ctypes
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from lightning.fabric import Fabric
from torch import Tensor

from catdog.errors import TrainingError, TrainingStopped
from catdog.training.checkpoint import Checkpoint, StopRequest, handle_signals
from catdog.training.data import Batch, Prepared, order_epochs, read_batches, set_seed, size_batches
from catdog.training.history import Row, score_epoch, show_steps
from catdog.training.learner import Learner, name_sums
from catdog.training.phases import Phase, learning_rate_factor, remaining_phases
from catdog.training.processes import Shard, check_agreement, say_first, sum_over_processes
from catdog.training.settings import Settings

STEPS_BETWEEN_CHECKS: Final = 10  # on a GPU, which each check has to wait for


@dataclass
class LoopState:
    """Resumable loop state, except for tensors."""

    epoch: int = 0
    """How many epochs are finished."""
    step: int = 0
    """How many steps of the next epoch are finished."""
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    """The unfinished epoch's ``Learner.sums``."""
    history: list[Row] = field(default_factory=list)
    best: float = -math.inf
    """The best epoch's score."""
    lowest_loss: float = math.inf
    """On validation photos, in the second phase."""
    stale: int = 0
    """How many epochs of the second phase passed since the validation loss was lowest."""


def fit(
    fabric: Fabric,
    prepared: Prepared,
    settings: Settings,
    checkpoint: Checkpoint | None = None,
    record: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Train, and leave the tensors of the best epoch (see ``score_epoch``) in the model.

    ``checkpoint``: where to go on from and to write to. ``record`` gets all epochs' rows after each one, on the first
    process; what it raises ends the run. Returns these rows. Raises TrainingError when the loss is no longer finite,
    and TrainingStopped when a signal asked for it, with the checkpoint written.
    """
    model = prepared.model
    keep_freed_memory()
    torch.backends.cudnn.deterministic = settings.deterministic
    model.to(fabric.device)
    saved = checkpoint.read() if checkpoint else None
    state = LoopState(**saved["progress"]) if saved else LoopState()
    best: dict[str, Tensor] = saved["best"] if saved else {}
    tensors = saved["learner"] if saved else None
    check_agreement(fabric, "--checkpoint-dir", (state.epoch, state.step))
    if saved and state.epoch < settings.frozen_epochs + settings.epochs:
        say_first(fabric, f"going on from epoch {state.epoch + 1}, step {state.step + 1}")
    if tensors:  # the frozen part too must be as it was
        model.network.load_state_dict(tensors["network"])
    request = StopRequest()  # SIGTERM, of a spot instance say, and the first Ctrl-C
    with (
        handle_signals(request, signal.SIGTERM, signal.SIGINT),
        TemporaryDirectory(prefix="catdog-features-") as scratch,
    ):
        for phase in remaining_phases(fabric, prepared, settings, state.epoch, Path(scratch)):
            learner = Learner(fabric, prepared, phase, settings)
            if tensors and (state.epoch, state.step) > (phase.first, 0):
                learner.load(tensors)
            tensors = None
            save = partial(_save, checkpoint, learner, state, best)
            batches = _read_remaining(learner, state)
            while not _is_over(phase, state, settings):
                _train_epoch(learner, batches, state, request, checkpoint, save)
                if (score := score_epoch(state.history[-1])) > state.best:
                    state.best = score
                    best.update(learner.copy_served())
                if fabric.global_rank == 0:
                    record(state.history)
                stop, due = _collect_requests(fabric, request, checkpoint, epoch_ended=True)
                if stop or due or _is_over(phase, state, settings):
                    save()
                if stop:
                    raise _make_stop(fabric, request, state, checkpoint)
            del learner, save, batches
    model.network.load_state_dict(best)
    return state.history


def _is_over(phase: Phase, state: LoopState, settings: Settings) -> bool:
    return state.epoch >= phase.first + phase.epochs or 0 < settings.patience <= state.stale


def _read_remaining(learner: Learner, state: LoopState) -> Iterator[Batch]:
    """Return the phase's batches from where ``state`` is, of all its epochs: worker processes are started once."""
    fabric, phase = learner.fabric, learner.phase
    shard, epochs = Shard(fabric.global_rank, fabric.world_size), range(state.epoch, phase.first + phase.epochs)
    order = islice(order_epochs(len(phase.train), learner.settings, epochs, shard), state.step, None)
    return iter(read_batches(phase.train, order, learner.settings, fabric.device))


def _train_epoch(
    learner: Learner,
    batches: Iterator[Batch],
    state: LoopState,
    request: StopRequest,
    checkpoint: Checkpoint | None,
    save: Callable[[], None],
) -> None:
    """Train to the end of the epoch that ``state`` is in, and add its row there."""
    fabric, phase, settings = learner.fabric, learner.phase, learner.settings
    shard = Shard(fabric.global_rank, fabric.world_size)
    photos = size_batches(len(phase.train), settings.batch_size, shard)
    steps, before, started = len(phase.train) // photos, state.step, time.monotonic()
    every = 1 if fabric.device.type == "cpu" else STEPS_BETWEEN_CHECKS
    learner.sums.copy_(learner.sums.new_tensor(state.sums if shard.rank == 0 else [0.0] * 4))
    shown = f"{phase.name}epoch {state.epoch + 1}/{settings.frozen_epochs + settings.epochs}"
    todo = range(before, steps)

    def factor(step: int) -> float:
        place = (state.epoch - phase.first) * steps + step
        return learning_rate_factor(place, steps * phase.epochs, settings.warmup, phase.schedule)

    for step in show_steps(todo, shown, before, steps, photos) if shard.rank == 0 else todo:
        set_seed(settings.seed, state.epoch, step, shard.rank)
        learner.step(batches, factor(step))
        state.step += 1
        if state.step % every and state.step < steps:
            continue
        _check_finite(float(learner.sums[0]), state, settings)
        stop, due = _collect_requests(fabric, request, checkpoint, epoch_ended=False)
        if stop or due:
            state.sums = sum_over_processes(fabric, learner.sums)
            save()
        if stop:
            raise _make_stop(fabric, request, state, checkpoint)
    seconds = time.monotonic() - started
    trained = name_sums("train", learner.task, sum_over_processes(fabric, learner.sums))
    validated = learner.validate()
    val_loss = validated["val_loss"]
    _check_finite(val_loss, state, settings)
    row: Row = {
        "epoch": state.epoch + 1,
        **trained,
        **validated,
        "lr": factor(steps - 1) * max(group["peak"] for group in learner.optimizer.param_groups),
        "photos_per_second": (steps - before) * photos / seconds,
    }
    state.history.append(row)
    if phase.whole:
        state.stale = 0 if val_loss < state.lowest_loss else state.stale + 1
        state.lowest_loss = min(val_loss, state.lowest_loss)
    state.epoch, state.step, state.sums = state.epoch + 1, 0, [0.0] * 4


def _check_finite(loss: float, state: LoopState, settings: Settings) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {state.epoch + 1}, step {state.step}; "
            f"try a lower --lr (it is {settings.lr}), --clip-norm 1 or --amp False"
        )


def _collect_requests(
    fabric: Fabric, request: StopRequest, checkpoint: Checkpoint | None, epoch_ended: bool
) -> list[float]:
    """Return whether any process was asked to stop, and whether the checkpoint is due; not 0 means yes."""
    mine = [float(request.signal or 0), float(checkpoint is not None and checkpoint.is_due(epoch_ended))]
    return sum_over_processes(fabric, torch.tensor(mine, device=fabric.device))


def _make_stop(
    fabric: Fabric, request: StopRequest, state: LoopState, checkpoint: Checkpoint | None
) -> TrainingStopped:
    fabric.barrier()  # torchrun ends the others soon after the first one; the one that writes has to be done
    number = signal.Signals(request.signal or signal.SIGTERM)  # only another process may have got it
    after = f"; the same command goes on from {checkpoint.path}" if checkpoint else ""
    where = f"epoch {state.epoch + 1}, step {state.step}" if state.step else f"epoch {state.epoch}"
    return TrainingStopped(f"stopped by {number.name} in {where}{after}", number)


def _save(checkpoint: Checkpoint | None, learner: Learner, state: LoopState, best: dict[str, Tensor]) -> None:
    if checkpoint is not None:
        checkpoint.write({"progress": asdict(state), "learner": learner.state(), "best": best})


def keep_freed_memory() -> None:
    """Let glibc keep freed activations for the next step instead of giving them back to the kernel. No-op elsewhere.

    A step frees and asks again for hundreds of MB. With glibc's defaults that was 1.3 million page faults in ten steps
    ResNet-18 on a CPU, with these 0.28 million, and 10 to 20% of the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # <malloc.h>
        mallopt(m_mmap_threshold, 2**30)
        mallopt(m_trim_threshold, 2**31 - 1)
