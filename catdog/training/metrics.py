"""Probabilities and true classes to numbers: accuracy, precision, recall, F1, confusion matrix, intervals."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

Z_95 = 1.959964  # standard normal quantile of a two-sided 95% interval


def measure(probabilities: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
    """float (N, C), int64 (N,), N >= 1 -> accuracy and its 95% interval; precision, recall, F1 by class and macro.

    ``confusion_matrix[i][j]`` counts photos of class i answered j. ``log_loss`` is the mean of -ln p(true class), p
    bounded below at 1e-7.
    """
    classes = len(class_names)
    correct = int((probabilities.argmax(1) == labels).sum())
    per_class = {
        "precision": multiclass_precision(probabilities, labels, classes, average=None),
        "recall": multiclass_recall(probabilities, labels, classes, average=None),
        "f1": multiclass_f1_score(probabilities, labels, classes, average=None),
    }
    true = probabilities.gather(1, labels[:, None]).clamp_min(1e-7)
    return {
        "photos": len(labels),
        "errors": len(labels) - correct,
        "accuracy": correct / len(labels),
        "accuracy_95": list(wilson(correct, len(labels))),
        **{name: values.mean().item() for name, values in per_class.items()},
        "log_loss": -torch.log(true).mean().item(),
        "per_class": {
            name: {metric: values[i].item() for metric, values in per_class.items()}
            for i, name in enumerate(class_names)
        },
        "confusion_matrix": multiclass_confusion_matrix(probabilities, labels, classes).tolist(),
    }


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95% interval of a proportion, [0, 1] (Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1)."""
    p, z2 = successes / trials, Z_95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def table(name: str, values: dict[str, Any]) -> str:
    """A plain-text table of what ``measure`` gave."""
    low, high = values["accuracy_95"]
    lines = [
        f"{name}: {values['photos']} photos, {values['errors']} wrong, "
        f"accuracy {values['accuracy']:.2%} (95% {low:.2%} to {high:.2%}), log loss {values['log_loss']:.4f}",
        f"  {'class':<10} {'precision':>9} {'recall':>9} {'F1':>9}",
    ]
    rows = {**values["per_class"], "macro": values}
    lines += [f"  {k:<10} {v['precision']:>9.2%} {v['recall']:>9.2%} {v['f1']:>9.2%}" for k, v in rows.items()]
    return "\n".join(lines)
