"""What probabilities are worth: how often they are right, how well they rank, how honest they are, and how sure we are.

Everywhere: ``probabilities`` float (N, C), each row in [0, 1] and summing to 1; ``labels`` int64 (N,), indices into the
class names; N >= 1. ``clusters`` (N,) are ``Photo.cluster``: copies of a picture share one, and are no independent
evidence, so every interval takes a cluster as a whole (``count_trials``). Without them, each photo is its own. A
photo's confidence is its largest probability. What is undefined (the recall of a class without photos, a ROC-AUC of one
class) is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

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

from catdog.contract import NEITHER, UNSURE, Contract
from catdog.prediction import rank_answers

Z_95 = 1.959964  # standard normal quantile of a two-sided 95% interval
RESAMPLES: Final = 1000  # of the bootstrap; enough for the 2.5% quantiles (Efron & Tibshirani 1993, section 14.3)
BINS: Final = 15  # of confidence, equal widths over [0, 1] (Guo et al. 2017, section 5)
SHARES: Final = ("precision", "recall", "f1", "roc_auc", "average_precision")  # in [0, 1], and 1 is the best
SMALLEST_P: Final = 1e-7  # in a log loss, so that one hopeless answer doesn't make it infinite

Clusters: TypeAlias = Sequence[str] | None


def measure(
    probabilities: Tensor, labels: Tensor, class_names: tuple[str, ...], clusters: Clusters = None
) -> dict[str, Any]:
    """Return accuracy and its 95% interval, what ``summarise`` gives, precision, recall and F1 by class, and counts.

    ``confusion_matrix[i][j]`` counts photos of class i answered j.
    """
    classes = len(class_names)
    per_class = _by_class(probabilities, labels, classes)
    return {
        **_count_right(probabilities.argmax(1) == labels, _number_clusters(clusters, len(labels))),
        **{k: None if math.isnan(v) else v for k, v in summarise(probabilities, labels, classes).items()},
        "per_class": {
            name: {k: None if math.isnan(values[i]) else values[i] for k, values in per_class.items()}
            for i, name in enumerate(class_names)
        },
        "confusion_matrix": multiclass_confusion_matrix(probabilities, labels, classes).tolist(),
    }


def summarise(probabilities: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """Return one number for each metric; NaN where it is undefined.

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
    values = {
        **{k: _mean([v for v in row if not math.isnan(v)]) for k, row in by_class.items()},
        "roc_auc": _mean([binary_auroc(probabilities[:, c], truth[:, c]).item() for c in judged]),
        "average_precision": _mean([binary_average_precision(probabilities[:, c], truth[:, c]).item() for c in judged]),
        "log_loss": -probabilities.gather(1, labels[:, None]).clamp_min(SMALLEST_P).log().mean().item(),
        "brier": (probabilities - truth).square().sum(1).mean().item(),
        "ece": multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS, norm="l1").item(),
    }
    highest = {"log_loss": math.inf, "brier": 2.0}  # of the others, 1; float32 may come out just beyond
    return {k: v if math.isnan(v) else max(0.0, min(v, highest.get(k, 1.0))) for k, v in values.items()}


def _by_class(probabilities: Tensor, labels: Tensor, classes: int) -> dict[str, list[float]]:
    """Return precision, recall and F1 of each class; NaN for a class without photos."""
    present = set(labels.tolist())
    metrics = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    values = {k: metric(probabilities, labels, classes, average=None).tolist() for k, metric in metrics.items()}
    return {k: [v if i in present else math.nan for i, v in enumerate(row)] for k, row in values.items()}


def estimate_intervals(
    probabilities: Tensor,
    labels: Tensor,
    class_names: tuple[str, ...],
    clusters: Clusters = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return 95% intervals [low, high] of what ``measure`` gives; the same for the same ``seed``.

    Accuracy, and precision and recall by class, are proportions: Wilson's interval. All of ``summarise``: percentile
    bootstrap (Efron & Tibshirani 1993, section 13.3), in which a cluster is drawn as a whole. Where all resamples give
    the same number, which says nothing about other photos, a share gets Wilson's interval for as many trials as the
    class with the fewest has, and any other number gets none. About 3 ms a resample of 2,000 photos.
    """
    answers, cluster = probabilities.argmax(1), _number_clusters(clusters, len(labels))
    is_right, count = answers == labels, int(cluster.max()) + 1
    dice = torch.Generator().manual_seed(seed)
    samples = []
    with _one_thread():
        for done in range(resamples):
            times = torch.bincount(torch.randint(count, (count,), generator=dice), minlength=count)[cluster]
            rows = torch.arange(len(labels)).repeat_interleave(times)
            samples.append(summarise(probabilities[rows], labels[rows], len(class_names)))
            if progress:
                progress(done + 1, resamples)
    fewest = min(count_trials(cluster[labels == c]) for c in torch.unique(labels))

    def bound(name: str) -> list[float] | None:
        defined = torch.tensor([s[name] for s in samples if not math.isnan(s[name])], dtype=torch.float64)
        if not len(defined):
            return None
        low, high = torch.quantile(defined, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        if low < high:
            return [low, high]
        return list(wilson_interval(low * fewest, fewest)) if name in SHARES else None

    return {
        "accuracy": _proportion(is_right, cluster),
        **{name: bound(name) for name in samples[0]},
        "per_class": {
            name: {
                "precision": _proportion(is_right[answers == i], cluster[answers == i]),
                "recall": _proportion(is_right[labels == i], cluster[labels == i]),
            }
            for i, name in enumerate(class_names)
        },
    }


def find_answers(probabilities: Tensor, contract: Contract) -> tuple[Tensor, Tensor]:
    """Return each photo's likeliest class, and up to which threshold it is the answer, as ``decide`` has it.

    Both (N,), int64 and float64. The threshold is the confidence; -inf where the photo is answered at none: as it is
    called "neither", which ``measure_refusal`` looks into, or would be with a little more certainty.
    """
    answers, reach = map(torch.from_numpy, rank_answers(probabilities.numpy(), contract))
    if NEITHER in contract.class_names:
        reach[answers == contract.class_names.index(NEITHER)] = -math.inf
    return answers, reach


def count_answered(probabilities: Tensor, labels: Tensor, contract: Contract) -> tuple[Tensor, Tensor, Tensor]:
    """Return what each possible threshold leaves: confidence float64 (K,), rising and distinct; photos and wrong, (K,).

    ``photos[k]`` are answered at the threshold ``confidence[k]``, and ``wrong[k]`` of those wrongly. K is 0 where no
    photo is answered at any.
    """
    answers, reach = find_answers(probabilities, contract)
    able = reach.isfinite()
    confidence, which = torch.unique(reach[able], return_inverse=True)
    counts = torch.bincount(which, minlength=len(confidence))
    errors = torch.bincount(which, weights=(answers != labels)[able].double(), minlength=len(confidence)).long()
    return confidence, *(part.flip(0).cumsum(0).flip(0) for part in (counts, errors))


def measure_coverage(
    probabilities: Tensor, labels: Tensor, contract: Contract, thresholds: Sequence[float], clusters: Clusters = None
) -> list[dict[str, Any]]:
    """Return a row for each threshold: how many photos are answered with a class, and how many of those wrongly.

    What is "unsure" or called "neither" is not.
    """
    answers, reach = find_answers(probabilities, contract)
    is_wrong = answers != labels
    cluster = _number_clusters(clusters, len(labels))
    rows = []
    for threshold in thresholds:
        kept = reach >= threshold
        photos, errors = int(kept.sum()), int(is_wrong[kept].sum())
        rows.append(
            {
                "threshold": threshold,
                "answered": photos,
                "coverage": photos / len(labels),
                "errors": errors,
                "error": errors / photos if photos else None,
                "error_95": _proportion(is_wrong[kept], cluster[kept]),
            }
        )
    return rows


def measure_refusal(
    refusal: Tensor, is_other: Tensor, verdicts: Sequence[str | None], clusters: Clusters = None
) -> dict[str, Any]:
    """Return how well a model tells photos of none of its other classes, and what that costs.

    ``refusal`` float (N,): the probability of "neither"; ``is_other`` bool (N,): whether that is the truth;
    ``verdicts`` (N,): what the photos were answered, "unsure" among them. The result has ``auroc`` and ``fpr_95``, the
    share of others that are let through where 95% of the rest is (Yang et al. 2022, OpenOOD), both None unless there
    are both kinds of photos, and for each kind its count and shares with their 95% intervals.
    """
    cluster = _number_clusters(clusters, len(refusal))

    def share(hits: Tensor, among: Tensor) -> dict[str, Any]:
        photos = int(among.sum())
        found = int(hits[among].sum())
        interval = _proportion(hits[among], cluster[among])
        return {"photos": photos, "found": found, "share": found / photos if photos else None, "share_95": interval}

    is_refused = torch.tensor([verdict == NEITHER for verdict in verdicts])
    is_class = torch.tensor([verdict not in (NEITHER, UNSURE) for verdict in verdicts])
    is_both = bool(is_other.any()) and not bool(is_other.all())
    accepted = torch.quantile(refusal[~is_other].double(), 0.95) if is_both else None
    return {
        "auroc": binary_auroc(refusal.clamp(0, 1), is_other.long()).item() if is_both else None,
        "fpr_95": None if accepted is None else (refusal[is_other].double() <= accepted).double().mean().item(),
        "refused": share(is_refused, ~is_other),
        "others_refused": share(is_refused, is_other),
        "others_answered": share(is_class, is_other),
    }


def measure_reliability(probabilities: Tensor, labels: Tensor, clusters: Clusters = None) -> list[dict[str, Any]]:
    """Return a row for each bin of confidence that holds photos: its edges, photos, mean confidence and accuracy.

    The bins are those of ``ece``, which is the mean of abs(accuracy - confidence) over them, weighted by photos.
    """
    confidence, is_right = probabilities.amax(1), probabilities.argmax(1) == labels
    cluster = _number_clusters(clusters, len(labels))
    edges = torch.linspace(0, 1, BINS + 1)
    # As torchmetrics has it: a bin holds its lower edge, and the last one 1 as well.
    bins = (torch.bucketize(confidence, edges, right=True) - 1).clamp_max(BINS - 1)
    return [
        {
            "low": edges[i].item(),
            "high": edges[i + 1].item(),
            "photos": int((bins == i).sum()),
            "confidence": confidence[bins == i].double().mean().item(),
            "accuracy": is_right[bins == i].double().mean().item(),
            "accuracy_95": _proportion(is_right[bins == i], cluster[bins == i]),
        }
        for i in torch.unique(bins).tolist()
    ]


def measure_groups(
    probabilities: Tensor, labels: Tensor, groups: Sequence[str], clusters: Clusters = None
) -> dict[str, dict[str, Any]]:
    """Return photos, errors, accuracy and its 95% interval of each of ``groups`` (N,), by name."""
    is_right, cluster = probabilities.argmax(1) == labels, _number_clusters(clusters, len(labels))
    inside = {name: torch.tensor([group == name for group in groups]) for name in sorted(set(groups))}
    return {name: _count_right(is_right[chosen], cluster[chosen]) for name, chosen in inside.items()}


def count_trials(cluster: Tensor) -> float:
    """Return how many independent photos are worth as much as these, int64 (n,), n >= 1: n^2 / sum of (cluster size)^2.

    It is the number of clusters where all are of one size. This is Kish's effective sample size (Kish 1965, Survey
    Sampling, section 11.7), with clusters that are answered as one and weigh what they hold. A share then has the
    variance that the bootstrap by clusters gives it.
    """
    sizes = torch.unique(cluster, return_counts=True)[1].double()
    return (sizes.sum() ** 2 / sizes.square().sum()).item()


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """Return the 95% interval of a proportion, [0, 1] (Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1).

    ``trials`` > 0 need not be whole, nor need ``successes`` in [0, trials]. At 0 of them the interval begins with
    exactly 0, where rounding would give 1e-17, and at all of them it ends with exactly 1.
    """
    p, z2 = successes / trials, Z_95**2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half


def format_table(name: str, values: dict[str, Any]) -> str:
    """Return what ``measure`` gave as a plain-text table."""
    low, high = values["accuracy_95"]
    auc, average = ("undefined" if values[k] is None else f"{values[k]:.4f}" for k in ("roc_auc", "average_precision"))
    lines = [
        f"{name}: {values['photos']} photos, {values['errors']} wrong, "
        f"accuracy {values['accuracy']:.2%} (95% {low:.2%} to {high:.2%}), log loss {values['log_loss']:.4f}",
        f"  ROC-AUC {auc}, average precision {average}, "
        f"Brier {values['brier']:.4f}, calibration error {values['ece']:.4f}",
        f"  {'class':<10} {'precision':>9} {'recall':>9} {'F1':>9}",
    ]
    for name, row in {**values["per_class"], "macro": values}.items():
        cells = ("-" if row[k] is None else f"{row[k]:.2%}" for k in ("precision", "recall", "f1"))
        lines.append(f"  {name:<10} " + " ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work on one thread: tensors this small lose 10 times and more to threads that wait for busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _number_clusters(clusters: Clusters, photos: int) -> Tensor:
    """Return int64 (N,), the same number for photos of one cluster, from 0 on without a gap."""
    if clusters is None:
        return torch.arange(photos)
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    return torch.tensor([index[name] for name in clusters])


def _count_right(is_right: Tensor, cluster: Tensor) -> dict[str, Any]:
    """Return photos, errors, accuracy and its 95% interval, of at least one photo."""
    photos, right = len(is_right), int(is_right.sum())
    accuracy = {"accuracy": right / photos, "accuracy_95": _proportion(is_right, cluster)}
    return {"photos": photos, "errors": photos - right} | accuracy


def _proportion(hits: Tensor, cluster: Tensor) -> list[float] | None:
    """Return Wilson's interval of the share of ``hits``, bool (n,), for as many trials as ``cluster`` is worth.

    None for n = 0.
    """
    if not len(hits):
        return None
    trials = count_trials(cluster)
    return list(wilson_interval(hits.double().mean().item() * trials, trials))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
