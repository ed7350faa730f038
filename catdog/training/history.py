"""What a run tells while it runs: history.csv, metric lines on stdout, progress on stderr."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from catdog.files import replace_file

Row = dict[str, float]
"""One epoch: epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr, photos_per_second."""
T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 30.0


def score_epoch(row: Row) -> float:
    """Return the number by which epochs are compared: validation accuracy, and between equal ones the lower loss."""
    return row["val_accuracy"] - 1e-4 * min(row["val_loss"], 1)


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """Write ``history.csv``, a row an epoch."""
    with replace_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def format_metrics(values: Row) -> str:
    """Return ``epoch=1 train_loss=0.1234 ...``, the form that SageMaker's metric definitions parse."""
    return " ".join(f"{k}={v}" if isinstance(v, int) else f"{k}={v:.6g}" for k, v in values.items())


def say_metrics(values: Row) -> None:
    """Write a metric line to stdout, which holds nothing else."""
    sys.stdout.write(format_metrics(values) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Write a line to stderr; stdout is for metric lines."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show_steps(batches: Iterable[T], what: str, done: int, steps: int, photos: int) -> Iterator[T]:
    """Yield the batches, and show a bar in a terminal, else a line now and then; ``photos``: of a step, in all."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=steps, completed=done)
            for batch in batches:
                yield batch
                bar.advance(task)
        return
    started = said = time.monotonic()
    for count, batch in enumerate(batches, start=1):
        yield batch
        now = time.monotonic()
        if now - said > _SECONDS_BETWEEN_LINES:
            said, rate = now, count * photos / (now - started)
            left = (steps - done - count) * photos / rate
            say(f"{what}: step {done + count}/{steps}, {rate:.0f} photos/s, {left / 60:.0f} min left")
