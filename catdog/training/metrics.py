"""Probabilities and true classes to numbers: how often right, how well ranked, how honest, and how sure we are of that.

Everywhere: ``probabilities`` float (N, C), each row in [0, 1] and summing to 1; ``labels`` int64 (N,), indices into the
class names; N >= 1. A photo's confidence is its largest probability. What is undefined (the recall of a class without
photos, a ROC-AUC of one class) is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

Z_95 = 1.959964  # standard normal quantile of a two-sided 95% interval
RESAMPLES: Final = 1000  # of the bootstrap; enough for the 2.5% quantiles (Efron & Tibshirani 1993, section 14.3)
BINS: Final = 15  # of confidence, equal widths over [0, 1] (Guo et al. 2017, section 5)
SMALLEST_P: Final = 1e-7  # in a log loss, so that one hopeless answer doesn't make it infinite


def measure(probabilities: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy and its 95% interval; the metrics of ``summary``; precision, recall, F1 by class; counts.

    ``confusion_matrix[i][j]`` counts photos of class i answered j.
    """
    classes = len(class_names)
    correct = int((probabilities.argmax(1) == labels).sum())
    per_class = _by_class(probabilities, labels, classes)
    return {
        "photos": len(labels),
        "errors": len(labels) - correct,
        "accuracy": correct / len(labels),
        "accuracy_95": list(wilson(correct, len(labels))),
        **{k: None if math.isnan(v) else v for k, v in summary(probabilities, labels, classes).items()},
        "per_class": {
            name: {k: None if math.isnan(values[i]) else values[i] for k, values in per_class.items()}
            for i, name in enumerate(class_names)
        },
        "confusion_matrix": multiclass_confusion_matrix(probabilities, labels, classes).tolist(),
    }


def summary(probabilities: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """One number a metric; NaN where it is undefined.

    - ``precision``, ``recall``, ``f1``: macro, the plain mean over the classes that have photos; the precision of a
      class that is never answered is 0.
    - ``roc_auc``, ``average_precision``: one class against the rest, the plain mean over the classes that have photos
      and that some photos don't have; equal scores count as one threshold.
    - ``log_loss``: mean of -ln p(true class), p bounded below at 1e-7.
    - ``brier``: mean of sum_c (p_c - [c is true])^2, [0, 2] (Brier 1950); of two classes, twice the one-class form.
    - ``ece``: expected calibration error, [0, 1], 15 bins of equal width (Guo et al. 2017, section 2, equation 3).
    """
    probabilities = probabilities.clamp(0, 1)  # a softmax may round to just over 1, which torchmetrics takes for logits
    truth = torch.nn.functional.one_hot(labels, classes)
    by_class = _by_class(probabilities, labels, classes)
    judged = [c for c in range(classes) if 0 < int(truth[:, c].sum()) < len(labels)]
    return {
        **{k: _mean([v for v in row if not math.isnan(v)]) for k, row in by_class.items()},
        "roc_auc": _mean([binary_auroc(probabilities[:, c], truth[:, c]).item() for c in judged]),
        "average_precision": _mean([binary_average_precision(probabilities[:, c], truth[:, c]).item() for c in judged]),
        "log_loss": -probabilities.gather(1, labels[:, None]).clamp_min(SMALLEST_P).log().mean().item(),
        "brier": (probabilities - truth).square().sum(1).mean().item(),
        "ece": multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS, norm="l1").item(),
    }


def _by_class(probabilities: Tensor, labels: Tensor, classes: int) -> dict[str, list[float]]:
    """Precision, recall and F1 of each class; NaN for a class without photos."""
    present = set(labels.tolist())
    metrics = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    values = {k: metric(probabilities, labels, classes, average=None).tolist() for k, metric in metrics.items()}
    return {k: [v if i in present else math.nan for i, v in enumerate(row)] for k, row in values.items()}


def intervals(
    probabilities: Tensor,
    labels: Tensor,
    class_names: tuple[str, ...],
    clusters: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """95% intervals [low, high] of what ``measure`` gives; the same for the same ``seed``.

    Accuracy, and precision and recall by class, are proportions: Wilson's interval. All of ``summary``: percentile
    bootstrap (Efron & Tibshirani 1993, section 13.3). ``clusters`` (N,) are ``Photo.cluster``: copies of a picture
    are drawn together, since they are no independent evidence. About 3 ms a resample of 2,000 photos.
    """
    answers = probabilities.argmax(1)
    hits = torch.bincount(labels[answers == labels], minlength=len(class_names)).tolist()
    said, present = (torch.bincount(v, minlength=len(class_names)).tolist() for v in (answers, labels))
    names = list(range(len(labels))) if clusters is None else clusters
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    cluster = torch.tensor([index[name] for name in names])
    dice = torch.Generator().manual_seed(seed)
    samples = []
    with _one_thread():
        for done in range(resamples):
            drawn = torch.randint(len(index), (len(index),), generator=dice)
            times = torch.bincount(drawn, minlength=len(index))[cluster]
            rows = torch.arange(len(labels)).repeat_interleave(times)
            samples.append(summary(probabilities[rows], labels[rows], len(class_names)))
            if progress:
                progress(done + 1, resamples)
    return {
        "accuracy": _interval(sum(hits), len(labels)),
        **{name: _quantiles([sample[name] for sample in samples]) for name in samples[0]},
        "per_class": {
            name: {"precision": _interval(hits[i], said[i]), "recall": _interval(hits[i], present[i])}
            for i, name in enumerate(class_names)
        },
    }


def answered(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each possible threshold leaves: (confidence float64 (K,) rising and distinct, photos (K,), wrong (K,)).

    ``photos[k]`` have a confidence of at least ``confidence[k]``, and ``wrong[k]`` of those are answered wrongly.
    """
    # float64, as catdog.prediction compares a float32 probability with a threshold.
    confidence, which = torch.unique(probabilities.double().amax(1), return_inverse=True)
    wrong = probabilities.argmax(1) != labels
    counts = torch.bincount(which, minlength=len(confidence))
    errors = torch.bincount(which, weights=wrong.double(), minlength=len(confidence)).long()
    return confidence, *(part.flip(0).cumsum(0).flip(0) for part in (counts, errors))


def coverage(probabilities: Tensor, labels: Tensor, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """A row a threshold: how many photos are answered (not "unsure") at it, and how many of those wrongly."""
    rows = []
    confidence, photos, wrong = answered(probabilities, labels)
    for threshold in thresholds:
        first = int((confidence < threshold).sum())
        kept, errors = (int(part[first]) if first < len(part) else 0 for part in (photos, wrong))
        rows.append(
            {
                "threshold": threshold,
                "answered": kept,
                "coverage": kept / len(labels),
                "errors": errors,
                "error": errors / kept if kept else None,
                "error_95": _interval(errors, kept),
            }
        )
    return rows


def reliability(probabilities: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """A row a bin of confidence that holds photos: its edges, photos, mean confidence and accuracy.

    The same bins as ``ece``'s, which is the mean of abs(accuracy - confidence) over them, weighted by photos.
    """
    confidence, right = probabilities.amax(1), probabilities.argmax(1) == labels
    edges = torch.linspace(0, 1, BINS + 1)
    # As torchmetrics has it: a bin holds its lower edge, and the last one 1 as well.
    bins = (torch.bucketize(confidence, edges, right=True) - 1).clamp_max(BINS - 1)
    rows = []
    for i in sorted(set(bins.tolist())):
        inside = bins == i
        hits, photos = int(right[inside].sum()), int(inside.sum())
        rows.append(
            {
                "low": edges[i].item(),
                "high": edges[i + 1].item(),
                "photos": photos,
                "confidence": confidence[inside].double().mean().item(),
                "accuracy": hits / photos,
                "accuracy_95": _interval(hits, photos),
            }
        )
    return rows


def by_group(probabilities: Tensor, labels: Tensor, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Photos, errors, accuracy and its 95% interval (Wilson) of each of ``groups`` (N,), by name."""
    right = (probabilities.argmax(1) == labels).tolist()
    rows = {}
    for name in sorted(set(groups)):
        hits = [hit for hit, group in zip(right, groups, strict=True) if group == name]
        rows[name] = {
            "photos": len(hits),
            "errors": len(hits) - sum(hits),
            "accuracy": sum(hits) / len(hits),
            "accuracy_95": _interval(sum(hits), len(hits)),
        }
    return rows


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
        f"  ROC-AUC {_number(values['roc_auc'])}, average precision {_number(values['average_precision'])}, "
        f"Brier {values['brier']:.4f}, calibration error {values['ece']:.4f}",
        f"  {'class':<10} {'precision':>9} {'recall':>9} {'F1':>9}",
    ]
    rows = {**values["per_class"], "macro": values}
    for name, row in rows.items():
        lines.append(f"  {name:<10} " + " ".join(f"{_percent(row[k]):>9}" for k in ("precision", "recall", "f1")))
    return "\n".join(lines)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, and lose 10 times and more to waiting for busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _interval(successes: int, trials: int) -> list[float] | None:
    return list(wilson(successes, trials)) if trials else None


def _quantiles(values: Sequence[float]) -> list[float] | None:
    """The middle 95%, of the resamples in which the metric is defined."""
    defined = torch.tensor([value for value in values if not math.isnan(value)], dtype=torch.float64)
    return torch.quantile(defined, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist() if len(defined) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
