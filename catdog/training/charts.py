"""PNG charts of a training run and of an evaluation, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torchmetrics.functional.classification import binary_precision_recall_curve, binary_roc

from catdog.colours import BLUE, GREEN, GREY, ORANGE, PURPLE
from catdog.files import replace_file
from catdog.training.metrics import count_answered

_CLASS_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def draw_curves(rows: Sequence[dict[str, float]], frozen_epochs: int, path: Path) -> None:
    """Training and validation loss and accuracy by epoch, from ``history.csv``'s rows."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        epochs = [row["epoch"] for row in rows]
        for part, name, color in (("train", "training (augmented)", ORANGE), ("val", "validation", BLUE)):
            axes.plot(epochs, [row[f"{part}_{metric}"] for row in rows], "o-", ms=4, color=color, label=name)
        if 0 < frozen_epochs < len(rows):
            axes.axvline(frozen_epochs + 0.5, color=GREY, ls=":", label="backbone unfrozen")
        axes.set(xlabel="epoch", ylabel=metric, title=metric.capitalize())
        axes.set_xticks(epochs if len(epochs) <= 20 else epochs[:: len(epochs) // 10])
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def draw_learning_rates(rates: Sequence[float], losses: Sequence[float], suggestion: float, path: Path) -> None:
    """The smoothed loss at ever higher learning rates."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes: Any = figure.subplots()
    axes.semilogx(rates, losses, color=BLUE)
    axes.axvline(suggestion, color=ORANGE, ls=":", label=f"steepest: --lr {suggestion:.2g}")
    axes.set(xlabel="--lr", ylabel="loss (smoothed)", title="Learning rate test")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str], title: str, path: Path) -> None:
    """Counts (and shares of the true class) of every true class against every answer."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            color = "white" if shares[i][j] > 0.5 else "black"
            axes.text(j, i, f"{count}\n{shares[i][j]:.2%}", ha="center", va="center", color=color)
    ticks = range(len(class_names))
    axes.set(xlabel="answer", ylabel="truth", title=title, xticks=ticks, yticks=ticks)
    axes.set_xticklabels(class_names)
    axes.set_yticklabels(class_names)
    _save(figure, path)


def draw_roc(probabilities: Tensor, labels: Tensor, class_names: Sequence[str], title: str, path: Path) -> None:
    """Hits against false alarms, each class against the rest; probabilities float (N, C), labels int64 (N,)."""
    lines = []
    for i, name in _judged(labels, class_names):
        false_alarms, hits, _ = binary_roc(probabilities[:, i].clamp(0, 1), (labels == i).long())
        lines.append((name, false_alarms, hits))
    _with_corner(lines, ("false alarms (share of the others called it)", "hits (recall)"), (0, 0.05), title, path)


def draw_precision_recall(
    probabilities: Tensor, labels: Tensor, class_names: Sequence[str], title: str, path: Path
) -> None:
    """Precision against recall, each class against the rest; probabilities float (N, C), labels int64 (N,)."""
    lines = []
    for i, name in _judged(labels, class_names):
        precision, recall, _ = binary_precision_recall_curve(probabilities[:, i].clamp(0, 1), (labels == i).long())
        lines.append((name, recall, precision))
    _with_corner(lines, ("recall", "precision"), (0.95, 1), title, path)


def draw_reliability(rows: Sequence[dict[str, Any]], lowest: float, title: str, path: Path) -> None:
    """Accuracy against confidence with 95% intervals, over a histogram of the confidences.

    ``rows`` as ``metrics.reliability`` gives them; ``lowest``: the smallest confidence there can be, 1/C.
    """
    figure = Figure(figsize=(5.4, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidence, accuracy = ([row[key] for row in rows] for key in ("confidence", "accuracy"))
    bounds = [[abs(row["accuracy_95"][side] - row["accuracy"]) for row in rows] for side in (0, 1)]
    upper.plot([lowest, 1], [lowest, 1], ls=":", color=GREY, label="as right as sure")
    upper.errorbar(confidence, accuracy, bounds, fmt="o", ms=5, capsize=3, color=BLUE, label="measured, 95% interval")
    upper.set(ylabel="accuracy", title=title, xlim=(lowest - 0.01, 1.01))
    upper.legend(loc="lower right")
    edges = [row["low"] for row in rows]
    widths = [row["high"] - row["low"] for row in rows]
    lower.bar(edges, [row["photos"] for row in rows], widths, align="edge", color=BLUE, edgecolor="white")
    lower.set(xlabel="confidence", ylabel="photos", yscale="log")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    _save(figure, path)


def draw_coverage(
    probabilities: Tensor, labels: Tensor, marks: Sequence[dict[str, Any]], title: str, path: Path
) -> None:
    """Error among the answered photos against the share that is answered (El-Yaniv & Wiener 2010).

    ``marks``: rows of ``metrics.coverage``, drawn as points with their thresholds; the last one is the model's own.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes: Any = figure.subplots()
    _, photos, wrong = count_answered(probabilities, labels)
    axes.plot((photos / len(labels)).tolist(), (wrong / photos).tolist(), color=BLUE, label="confidence thresholds")
    for row in marks[:-1]:
        if row["answered"]:
            at = (row["coverage"], row["error"])
            axes.plot(*at, "o", color=BLUE, ms=6)
            axes.annotate(f"{row['threshold']:g}", at, (6, 4), textcoords="offset points", fontsize=8, color=BLUE)
    own = marks[-1]
    if own["answered"]:
        label = f"the model's threshold, {own['threshold']:g}"
        axes.plot(own["coverage"], own["error"], "D", color=ORANGE, ms=6, label=label)
    axes.set(xlabel="answered", ylabel="wrong of the answered", title=title)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    _save(figure, path)


def _judged(labels: Tensor, class_names: Sequence[str]) -> list[tuple[int, str]]:
    """The classes that have a curve: some photos are of it, and some are not."""
    present = [(i, name, int((labels == i).sum())) for i, name in enumerate(class_names)]
    return [(i, name) for i, name, photos in present if 0 < photos < len(labels)]


def _with_corner(
    lines: Sequence[tuple[str, Tensor, Tensor]],
    names: tuple[str, str],
    corner: tuple[float, float],
    title: str,
    path: Path,
) -> None:
    """Curves in the unit square. A good model's lie in one corner, so that corner is shown enlarged as well."""
    figure = Figure(figsize=(5.4, 5), layout="constrained")
    axes: Any = figure.subplots()
    inset = axes.inset_axes((0.3, 0.22, 0.62, 0.58), xlim=corner, ylim=(0.95, 1))
    for k, (name, x, y) in enumerate(lines):
        style = {"color": _CLASS_COLOURS[k % len(_CLASS_COLOURS)], "ls": "-" if k % 2 == 0 else "--", "label": name}
        for each in (axes, inset):
            each.plot(x.tolist(), y.tolist(), **style)
    axes.set(xlabel=names[0], ylabel=names[1], title=title, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    inset.grid(alpha=0.3)
    inset.tick_params(labelsize=8)
    if any(((corner[0] < x) & (x < corner[1]) & (y > 0.95)).any() for _, x, y in lines):
        axes.indicate_inset_zoom(inset, edgecolor=GREY)
    else:
        inset.remove()
    if lines:
        axes.legend(loc="lower center", ncols=len(lines))
    else:
        axes.text(0.5, 0.5, "no curve: the photos are all of one class", ha="center")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
