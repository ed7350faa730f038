"""The training loop: epochs that can stop at any step, and go on there.

Lightning Fabric brings devices, precision and several processes. All that a step draws follows from the seed, the
epoch and the step alone, so a run that was cut off learns what an uninterrupted one would have.
"""

from __future__ import annotations

import ctypes
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from lightning.fabric import Fabric
from torch import Tensor

from catdog.errors import TrainingError, TrainingStopped
from catdog.training.checkpoint import Checkpoint, StopRequest
from catdog.training.data import Shard, loader, seed_from, training_batches
from catdog.training.history import Row, score_of, show_steps
from catdog.training.learner import Learner
from catdog.training.optimisation import schedule
from catdog.training.phases import phases
from catdog.training.prepared import Prepared
from catdog.training.processes import agree, say_first, total
from catdog.training.settings import Settings

STEPS_BETWEEN_QUESTIONS: Final = 10  # on a GPU, whose answer has to be waited for


@dataclass
class Progress:
    """How far a run is, but for its tensors."""

    epoch: int = 0
    """Epochs that are finished."""
    step: int = 0
    """Steps of the next one that are finished."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of the unfinished epoch: loss times photos, right answers, photos."""
    history: list[Row] = field(default_factory=list)
    best: float = -math.inf
    """The best epoch's score."""
    lowest_loss: float = math.inf
    """On validation, in the second phase."""
    stale: int = 0
    """Epochs of the second phase since the validation loss was lowest."""


def fit(
    fabric: Fabric,
    prepared: Prepared,
    settings: Settings,
    checkpoint: Checkpoint | None = None,
    record: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Train, and leave the tensors of the best epoch (highest validation accuracy, then lowest loss) in its model.

    ``checkpoint``: where to go on from and to write to. ``record`` gets all epochs' rows after each one, on the first
    process; what it raises ends the run. Gives the rows. Raises TrainingError when the loss is no longer finite, and
    TrainingStopped when a signal asked for it, with the checkpoint written.
    """
    model = prepared.model
    keep_freed_memory()
    torch.backends.cudnn.deterministic = True
    model.to(fabric.device)
    saved = checkpoint.read() if checkpoint else None
    progress = Progress(**saved["progress"]) if saved else Progress()
    best: dict[str, Tensor] = saved["best"] if saved else {}
    tensors = saved["learner"] if saved else None
    agree(fabric, "--checkpoint-dir", (progress.epoch, progress.step))
    if saved and progress.epoch < settings.frozen_epochs + settings.epochs:
        say_first(fabric, f"going on from epoch {progress.epoch + 1}, step {progress.step + 1}")
    if tensors:  # the frozen part too must be as it was
        model.network.load_state_dict(tensors["network"])
    with StopRequest() as request, TemporaryDirectory(prefix="catdog-features-") as scratch:
        for phase in phases(fabric, prepared, settings, progress.epoch, Path(scratch)):
            learner = Learner(fabric, prepared, phase, settings)
            if tensors and (progress.epoch, progress.step) > (phase.first, 0):
                learner.load(tensors)
            tensors = None
            save = partial(_save, checkpoint, learner, progress, best)
            while progress.epoch < phase.first + phase.epochs and not _stale(progress, settings):
                _epoch(learner, progress, request, checkpoint, save)
                if (score := score_of(progress.history[-1])) > progress.best:
                    progress.best = score
                    best.update(learner.served())
                if fabric.global_rank == 0:
                    record(progress.history)
                save()
                if _ask(fabric, request, checkpoint)[0]:
                    raise _stopped(fabric, request, progress, checkpoint)
            del learner, save
    model.network.load_state_dict(best)
    return progress.history


def _epoch(
    learner: Learner, progress: Progress, request: StopRequest, checkpoint: Checkpoint | None, save: Callable[[], None]
) -> None:
    """Finish the epoch that ``progress`` is in, and put its row and its score there."""
    fabric, phase, settings = learner.fabric, learner.phase, learner.settings
    shard = Shard(fabric.global_rank, fabric.world_size)
    batches = training_batches(len(phase.train), settings.batch_size, settings.seed, progress.epoch, shard)
    steps, before, started = len(batches), progress.step, time.monotonic()
    photos = len(batches[0]) * shard.world
    every = 1 if fabric.device.type == "cpu" else STEPS_BETWEEN_QUESTIONS
    learner.sums.copy_(learner.sums.new_tensor(progress.sums if shard.rank == 0 else [0.0, 0.0, 0.0]))
    shown = f"{phase.name}epoch {progress.epoch + 1}/{settings.frozen_epochs + settings.epochs}"
    todo = loader(phase.train, batches[before:], settings)

    def factor(step: int) -> float:
        place = (progress.epoch - phase.first) * steps + step
        return schedule(place, steps * phase.epochs, settings.warmup, phase.schedule)

    for batch in show_steps(todo, shown, before, steps, photos) if shard.rank == 0 else todo:
        seed_from(settings.seed, progress.epoch, progress.step, shard.rank)
        learner.step(batch, factor(progress.step))
        progress.step += 1
        if progress.step % every and progress.step < steps:
            continue
        _check(float(learner.sums[0]), progress, settings)
        stop, due = _ask(fabric, request, checkpoint)
        if stop or due:
            progress.sums = total(fabric, learner.sums)
            save()
        if stop:
            raise _stopped(fabric, request, progress, checkpoint)
    seconds = time.monotonic() - started
    loss, right, seen = total(fabric, learner.sums)
    val_loss, val_accuracy = learner.validate()
    _check(val_loss, progress, settings)
    row: Row = {
        "epoch": progress.epoch + 1,
        "train_loss": loss / seen,
        "train_accuracy": right / seen,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "lr": factor(steps - 1) * max(group["peak"] for group in learner.optimizer.param_groups),
        "photos_per_second": (steps - before) * photos / seconds,
    }
    progress.history.append(row)
    if phase.whole:
        progress.stale = 0 if val_loss < progress.lowest_loss else progress.stale + 1
        progress.lowest_loss = min(val_loss, progress.lowest_loss)
    progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, [0.0, 0.0, 0.0]


def _check(loss: float, progress: Progress, settings: Settings) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss became {loss} in epoch {progress.epoch + 1}, step {progress.step}; "
            f"try a lower --lr (it is {settings.lr}), --clip-norm 1 or --amp False"
        )


def _ask(fabric: Fabric, request: StopRequest, checkpoint: Checkpoint | None) -> list[float]:
    """Whether any process was asked to stop, and whether any one's checkpoint is due; not 0 means yes."""
    mine = [float(request.signal or 0), float(checkpoint is not None and checkpoint.due)]
    return total(fabric, torch.tensor(mine, device=fabric.device))


def _stopped(
    fabric: Fabric, request: StopRequest, progress: Progress, checkpoint: Checkpoint | None
) -> TrainingStopped:
    fabric.barrier()  # torchrun ends the others soon after the first one; the one that writes has to be done
    number = signal.Signals(request.signal or signal.SIGTERM)  # only another process may have got it
    after = f"; the same command goes on from {checkpoint.path}" if checkpoint else ""
    where = f"epoch {progress.epoch + 1}, step {progress.step}" if progress.step else f"epoch {progress.epoch}"
    return TrainingStopped(f"stopped by {number.name} in {where}{after}", number)


def _save(checkpoint: Checkpoint | None, learner: Learner, progress: Progress, best: dict[str, Tensor]) -> None:
    if checkpoint is not None and learner.fabric.global_rank == 0:
        checkpoint.write({"progress": asdict(progress), "learner": learner.state(), "best": best})


def _stale(progress: Progress, settings: Settings) -> bool:
    return 0 < settings.patience <= progress.stale


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
