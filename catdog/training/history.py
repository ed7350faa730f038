"""What is told of a run while it runs: history.csv, metric lines on stdout, progress on stderr."""

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


def score_of(row: Row) -> float:
    """Orders epochs: by validation accuracy, then by loss (which moves it by less than one photo in ten thousand)."""
    return row["val_accuracy"] - 1e-4 * min(row["val_loss"], 1)


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """``history.csv``: a row an epoch."""
    with replace_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def metric_line(values: Row) -> str:
    """``epoch=1 train_loss=0.1234 ...``: the form that SageMaker's metric definitions parse."""
    return " ".join(f"{k}={v}" if isinstance(v, int) else f"{k}={v:.6g}" for k, v in values.items())


def say_metrics(values: Row) -> None:
    """A metric line on stdout, which holds nothing else."""
    sys.stdout.write(metric_line(values) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Talk, on stderr; stdout is for metric lines."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show_steps(batches: Iterable[T], what: str, done: int, steps: int, photos: int) -> Iterator[T]:
    """The batches, with a bar in a terminal or a plain line now and then; ``photos``: of one batch, all processes."""
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
