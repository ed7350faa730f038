"""The learning rate test: a hundred steps at ever higher rates (Smith 2017, section 3.3), and a chart of the losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, count, islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from lightning.fabric import Fabric

from catdog.errors import TrainingError
from catdog.training import charts
from catdog.training.data import Prepared, order_epochs, read_batches, set_seed
from catdog.training.history import say, say_metrics, show_steps
from catdog.training.learner import Learner
from catdog.training.loop import keep_freed_memory
from catdog.training.phases import remaining_phases
from catdog.training.processes import Shard, sum_over_processes
from catdog.training.settings import Settings

STEPS: Final = 100
LOWEST, HIGHEST = 1e-4, 10.0  # --lr, at the reference batch size
SMOOTHING: Final = 0.9  # of the moving average of the losses
DIVERGED: Final = 3.0  # times the lowest loss ends the test
BLOWN_UP: Final = 2.0  # times the lowest loss until then, and no later rate is suggested


def find_lr(fabric: Fabric, prepared: Prepared, settings: Settings, reports: Path) -> float:
    """Try learning rates on the run's last phase, write ``find_lr.png``, and return a suggestion for ``--lr``.

    The model is of no use afterwards. Raises TrainingError when no rate lowers the loss.
    """
    keep_freed_memory()
    shard = Shard(fabric.global_rank, fabric.world_size)
    prepared.model.to(fabric.device)
    rates: list[float] = []
    losses: list[float] = []
    with TemporaryDirectory(prefix="catdog-features-") as scratch:
        done = settings.frozen_epochs if settings.epochs else 0
        phase = next(remaining_phases(fabric, prepared, settings, done, Path(scratch)))
        learner = Learner(fabric, prepared, phase, settings)
        batches = islice(order_epochs(len(phase.train), settings, count(), shard), STEPS)
        average = 0.0
        todo = iter(read_batches(phase.train, batches, settings, fabric.device))
        for step in show_steps(range(STEPS), "learning rates", 0, STEPS, settings.batch_size):
            rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
            set_seed(settings.seed, step, shard.rank)
            loss = sum_over_processes(fabric, learner.step(todo, rate / settings.lr)[None])[0] / shard.world
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            corrected = average / (1 - SMOOTHING ** (step + 1))  # the average began at 0 (Kingma & Ba 2015)
            if not math.isfinite(loss) or (losses and corrected > DIVERGED * min(losses)):
                break
            rates.append(rate)
            losses.append(corrected)
    suggestion = suggest_rate(rates, losses)
    if fabric.global_rank == 0:
        chart = reports / "find_lr.png"
        charts.draw_learning_rates(rates, losses, suggestion, chart)
        say(f"--lr from {rates[0]:.0e} to {rates[-1]:.2g} tried: {chart}; try --lr {suggestion:.2g}")
        say_metrics({"suggested_lr": suggestion})
    return suggestion


def suggest_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls fastest before it blows up; raises TrainingError when it never falls.

    A loss that has blown up may come down again, and fastest of all, at rates that are of no use.
    """
    lowest = accumulate(losses, min)
    end = next((i for i, low in enumerate(lowest) if losses[i] > BLOWN_UP * low), len(losses))
    slopes = [after - before for before, after in pairwise(losses[:end])]  # the rates' logarithms are evenly spaced
    if not slopes or min(slopes) >= 0:
        raise TrainingError("no learning rate lowered the loss; look at the photos' labels, or give other --weights")
    return rates[slopes.index(min(slopes)) + 1]
