"""What is told of a run while it runs: history.csv, metric lines on stdout, progress on stderr."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from catdog.files import replace_file
from catdog.progress import show_progress

Row = dict[str, float]
"""One epoch: epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr, photos_per_second."""
T = TypeVar("T")


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
    """Give the batches one by one, and show how far it is; ``photos`` are in one batch of all processes together."""
    with show_progress(f"{what}: trained on", last_line=False) as report:
        report(done * photos, steps * photos)
        for step, batch in enumerate(batches, start=done + 1):
            yield batch
            report(step * photos, steps * photos)
