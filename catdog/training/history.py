"""What a run tells while it runs: metric lines on stdout, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

from catdog.contract import Task
from catdog.progress import show_progress

Row = dict[str, float]
"""One epoch: epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr, photos_per_second.

Of a detector, ``overlap`` stands for ``accuracy``: how well its boxes fit where there is one. Then come val_ap50,
val_ap75 and val_ap, the average precisions."""
MEASURES: Final[Mapping[Task, str]] = {"classify": "val_accuracy", "detect": "val_ap"}
"""By task: the row's number by which epochs are compared."""
T = TypeVar("T")


def score_epoch(row: Row) -> float:
    """Return the number by which epochs are compared: validation accuracy, and between equal ones the lower loss.

    A detector's are compared by its average precision.
    """
    measure = next(name for name in MEASURES.values() if name in row)
    return row[measure] - 1e-4 * min(row["val_loss"], 1)


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
    """Give the batches one by one, and show how far it is; ``photos`` are in one batch of all processes together."""
    with show_progress(f"{what}: trained on", last_line=False) as report:
        report(done * photos, steps * photos)
        for step, batch in enumerate(batches, start=done + 1):
            yield batch
            report(step * photos, steps * photos)
