"""PNG charts of a training run, an evaluation and a search, drawn by matplotlib without a display."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from torch import Tensor
from torchmetrics.functional.classification import binary_precision_recall_curve, binary_roc

from catdog.colours import BLUE, GREEN, GREY, ORANGE, PURPLE
from catdog.contract import Contract
from catdog.figures import new_axes, new_figure
from catdog.training.metrics import count_answered
from catdog.training.space import Choices, Range, TrialOutcome

_CLASS_COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE)
_SCORES: Final = {
    "val_accuracy": "best epoch's validation accuracy",
    "val_ap": "best epoch's average precision, validation",
}
_COLUMNS: Final = 4  # of small charts in a row, at most
_FEWEST_FOR_FLOOR: Final = 4  # finished trials
_STYLES: Final[Mapping[str, tuple[str, str]]] = {"finished": ("o", BLUE), "pruned": ("x", GREY)}


def draw_curves(rows: Sequence[dict[str, float]], frozen_epochs: int, path: Path) -> None:
    """Draw training and validation loss and accuracy by epoch, from ``history.csv``'s rows.

    Of a detector: how well its boxes fit instead of the accuracy, and its average precisions.
    """
    names = ("loss", "overlap", "ap") if "val_ap" in rows[0] else ("loss", "accuracy")
    titles = {"overlap": "Overlap with the true box", "ap": "Average precision, validation"}
    labels = {"overlap": "intersection over union", "ap": "average precision"}
    parts = (("train", "training (augmented)", ORANGE), ("val", "validation", BLUE))
    lines = {name: [(f"{part}_{name}", label, colour) for part, label, colour in parts] for name in names}
    lines["ap"] = [("val_ap50", "overlap 0.5", GREEN), ("val_ap75", "0.75", PURPLE), ("val_ap", "0.5 to 0.95", BLUE)]
    with new_figure(path, 5 * len(names), 4) as figure:
        epochs = [row["epoch"] for row in rows]
        for axes, metric in zip(figure.subplots(1, len(names)), names, strict=True):
            for key, name, color in lines[metric]:
                axes.plot(epochs, [row[key] for row in rows], "o-", ms=4, color=color, label=name)
            if 0 < frozen_epochs < len(rows):
                axes.axvline(frozen_epochs + 0.5, color=GREY, ls=":", label="backbone unfrozen")
            axes.set(xlabel="epoch", ylabel=labels.get(metric, metric), title=titles.get(metric, metric.capitalize()))
            if metric == "ap":
                axes.legend()
            axes.set_xticks(epochs if len(epochs) <= 20 else epochs[:: len(epochs) // 10])
        shown = figure.axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=3)  # hides no point


def draw_found_boxes(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], own: tuple[float, float], title: str, path: Path
) -> None:
    """Draw precision against recall of boxes; ``lines``: name, recall, precision. ``own``: at the model's threshold."""
    with new_axes(path, 6, 5, xlabel="recall", ylabel="precision", title=title) as axes:
        for k, (name, recall, precision) in enumerate(lines):
            style = {"color": _CLASS_COLOURS[k % len(_CLASS_COLOURS)], "ls": "-" if k % 2 == 0 else "--"}
            axes.step([0.0, *recall], [*precision[:1], *precision], where="pre", label=name, **style)
        axes.plot(*own, "D", color="black", ms=6, label="at the model's threshold, overlap 0.5")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="lower left")


def draw_learning_rates(rates: Sequence[float], losses: Sequence[float], suggestion: float, path: Path) -> None:
    """Draw the smoothed loss at ever higher learning rates."""
    with new_axes(path, 6, 4, xlabel="--lr", ylabel="loss (smoothed)", title="Learning rate test") as axes:
        axes.semilogx(rates, losses, color=BLUE)
        axes.axvline(suggestion, color=ORANGE, ls=":", label=f"steepest: --lr {suggestion:.2g}")
        axes.legend()


def draw_confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str], title: str, path: Path) -> None:
    """Draw how many photos of each class got each answer, and their share of the class."""
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    with new_axes(path, 4.6, 4.2, xlabel="answer", ylabel="truth", title=title) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(matrix):
            for j, count in enumerate(row):
                color = "white" if shares[i][j] > 0.5 else "black"
                axes.text(j, i, f"{count}\n{shares[i][j]:.2%}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(class_names)), class_names)
        axes.set_yticks(range(len(class_names)), class_names)
        axes.grid(visible=False)


def draw_roc(probabilities: Tensor, labels: Tensor, class_names: Sequence[str], title: str, path: Path) -> None:
    """Draw hits against false alarms, each class against the rest; probabilities float (N, C), labels int64 (N,)."""
    lines = _list_curves(binary_roc, probabilities, labels, class_names)
    _draw_with_corner(lines, ("false alarms (share of the others called it)", "hits (recall)"), (0, 0.05), title, path)


def draw_precision_recall(
    probabilities: Tensor, labels: Tensor, class_names: Sequence[str], title: str, path: Path
) -> None:
    """Draw precision against recall, each class against the rest; probabilities float (N, C), labels int64 (N,)."""
    curves = _list_curves(binary_precision_recall_curve, probabilities, labels, class_names)
    lines = [(name, recall, precision) for name, precision, recall in curves]
    _draw_with_corner(lines, ("recall", "precision"), (0.95, 1), title, path)


def draw_reliability(rows: Sequence[dict[str, Any]], lowest: float, title: str, path: Path) -> None:
    """Draw accuracy against confidence with 95% intervals, over a histogram of the confidences.

    ``rows`` as ``measure_reliability`` gives them; ``lowest``: the smallest confidence there can be, 1/C.
    """
    confidence, accuracy = ([row[key] for row in rows] for key in ("confidence", "accuracy"))
    bounds = [[abs(row["accuracy_95"][side] - row["accuracy"]) for row in rows] for side in (0, 1)]
    edges = [row["low"] for row in rows]
    widths = [row["high"] - row["low"] for row in rows]
    with new_figure(path, 5.4, 6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([lowest, 1], [lowest, 1], ls=":", color=GREY, label="as right as sure")
        upper.errorbar(
            confidence, accuracy, bounds, fmt="o", ms=5, capsize=3, color=BLUE, label="measured, 95% interval"
        )
        upper.set(ylabel="accuracy", title=title, xlim=(lowest - 0.01, 1.01))
        lower.bar(edges, [row["photos"] for row in rows], widths, align="edge", color=BLUE, edgecolor="white")
        lower.set(xlabel="confidence", ylabel="photos", yscale="log", ylim=(0.5, None))
        figure.legend(loc="outside lower center", ncols=2)  # hides nothing


def draw_coverage(
    probabilities: Tensor,
    labels: Tensor,
    contract: Contract,
    marks: Sequence[dict[str, Any]],
    title: str,
    path: Path,
) -> None:
    """Draw the error among the answered photos against the share that is answered (El-Yaniv & Wiener 2010).

    ``marks``: rows of ``measure_coverage``, drawn as points with their thresholds; the last one is the model's own.
    """
    _, photos, wrong = count_answered(probabilities, labels, contract)
    error = wrong / photos
    top = max([0.01, *error.tolist()])
    own = marks[-1]
    with new_axes(path, 6.4, 4.4, xlabel="answered", ylabel="wrong of the answered", title=title) as axes:
        axes.plot((photos / len(labels)).tolist(), error.tolist(), color=BLUE, label="confidence thresholds")
        for text, at in label_marks(marks[:-1], top):
            axes.plot(*at, "o", color=BLUE, ms=6)
            side, offset = ("right", -6) if at[0] > 0.5 else ("left", 6)  # towards the middle, where there is room
            axes.annotate(text, at, (offset, 4), textcoords="offset points", ha=side, fontsize=8, color=BLUE)
        if own["answered"]:
            label = f"the model's threshold, {own['threshold']:g}"
            axes.plot(own["coverage"], own["error"], "D", color=ORANGE, ms=6, label=label)
        axes.set_ylim(-0.04 * top, 1.06 * top)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.figure.legend(loc="outside lower center", ncols=2)


def label_marks(marks: Sequence[dict[str, Any]], top: float) -> list[tuple[str, tuple[float, float]]]:
    """Return a label and its place, (coverage, error), for each mark; near ones share one, as in "0.5 to 0.7".

    ``top``: the highest error of the chart, whose other axis goes from none answered to all.
    """
    shown = [row for row in marks if row["answered"]]
    groups: list[list[dict[str, Any]]] = []
    for row in shown:
        spans = {"coverage": 1.0, "error": top}
        if groups and all(abs(row[k] - groups[-1][0][k]) <= 0.07 * span for k, span in spans.items()):
            groups[-1].append(row)
        else:
            groups.append([row])
    ends = [sorted({group[0]["threshold"], group[-1]["threshold"]}) for group in groups]
    places = [(group[0]["coverage"], group[0]["error"]) for group in groups]
    return [(" to ".join(f"{end:g}" for end in pair), place) for pair, place in zip(ends, places, strict=True)]


def _list_curves(
    curve: Callable[..., Any], probabilities: Tensor, labels: Tensor, class_names: Sequence[str]
) -> list[tuple[str, Tensor, Tensor]]:
    """Return the curve of each class that some photos are of, and some are not, against the rest."""
    lines = []
    for i, name in enumerate(class_names):
        truth = (labels == i).long()
        if 0 < int(truth.sum()) < len(labels):
            lines.append((name, *curve(probabilities[:, i].clamp(0, 1), truth)[:2]))
    return lines


def _draw_with_corner(
    lines: Sequence[tuple[str, Tensor, Tensor]],
    names: tuple[str, str],
    corner: tuple[float, float],
    title: str,
    path: Path,
) -> None:
    """Draw curves in the unit square, and the corner in which a good model's lie enlarged."""
    with new_axes(path, 5.4, 5, xlabel=names[0], ylabel=names[1], title=title) as axes:
        inset = axes.inset_axes((0.3, 0.22, 0.62, 0.58), xlim=corner, ylim=(0.95, 1))
        for k, (name, x, y) in enumerate(lines):
            style = {"color": _CLASS_COLOURS[k % len(_CLASS_COLOURS)], "ls": "-" if k % 2 == 0 else "--", "label": name}
            for each in (axes, inset):
                each.plot(x.tolist(), y.tolist(), **style)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        inset.tick_params(labelsize=8)
        if any(((corner[0] < x) & (x < corner[1]) & (y > 0.95)).any() for _, x, y in lines):
            axes.indicate_inset_zoom(inset, edgecolor=GREY)
        else:
            inset.remove()
        if lines:
            axes.legend(loc="lower center", ncols=len(lines))
        else:
            axes.text(0.5, 0.5, "no curve: the photos are all of one class", ha="center")


def draw_history(outcomes: Sequence[TrialOutcome], measure: str, path: Path) -> None:
    """Draw the score of each trial, and the best one so far; ``measure``: what it is, as the history names it."""
    floor = _find_floor(outcomes)
    finished = _list_scored(outcomes, "finished")
    best = list(accumulate((score for _, score in finished), max, initial=floor))[1:]
    with new_axes(path, 8, 4.4, xlabel="trial", ylabel=_SCORES[measure], title="Search") as axes:
        if finished:
            numbers = [*(outcome.number for outcome, _ in finished), max(o.number for o in outcomes)]
            axes.step(numbers, [*best, best[-1]], where="post", color=ORANGE, label="best so far")
        _draw_trials(axes, outcomes, lambda outcome: outcome.number, floor)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.figure.legend(loc="outside lower center", ncols=4)


def draw_importance(shares: Mapping[str, float], why_not: str, path: Path) -> None:
    """Draw how much each parameter has to do with what makes trials the best, or write why that isn't known."""
    with new_axes(path, 6.4, 1.2 + 0.35 * max(4, len(shares))) as axes:
        if shares:
            names = sorted(shares, key=lambda name: shares[name])
            bars = axes.barh(names, [shares[name] for name in names], color=BLUE)
            axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=3)
            axes.set(xlabel="importance, all together 1", title="What made the difference (PED-ANOVA)")
            axes.margins(x=0.12)
            axes.grid(visible=False, axis="y")
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, why_not, ha="center", wrap=True)


def draw_parameters(
    outcomes: Sequence[TrialOutcome], search: Mapping[str, Range | Choices], measure: str, path: Path
) -> None:
    """Draw the score against each parameter; ``measure`` as for ``draw_history``."""
    rows = math.ceil(len(search) / _COLUMNS)
    columns = math.ceil(len(search) / rows)
    with new_figure(path, max(5, 3 * columns), 2.6 * rows + 0.6) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, (name, choice) in zip(grid.flat, search.items(), strict=False):
            if isinstance(choice, Choices):
                axes.set_xticks(range(len(choice.values)), [str(value) for value in choice.values])
                axes.set_xlim(-0.5, len(choice.values) - 0.5)
            else:
                _scale_axis(axes, choice)
            _draw_trials(axes, outcomes, partial(_find_place, name, choice), _find_floor(outcomes))
            axes.set_title(name, fontsize=10)
        for axes in grid.flat[len(search) :]:
            axes.set_axis_off()
        figure.supylabel(_SCORES[measure], fontsize=10)
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _scale_axis(axes: Any, choice: Range) -> None:
    """Scale the x axis to the range, with a little room; on a log scale, with three ticks."""
    if choice.log:
        ticks = np.geomspace(choice.low, choice.high, 3)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xmargin(0.04)
    axes.update_datalim([(choice.low, 0), (choice.high, 0)], updatey=False)


def _draw_trials(
    axes: Any, outcomes: Sequence[TrialOutcome], place: Callable[[TrialOutcome], float], floor: float
) -> None:
    """Draw a mark for each trial, on the lower edge where its score is under ``floor`` or it failed and has none."""
    for state, (marker, colour) in _STYLES.items():
        chosen = _list_scored(outcomes, state)
        label = f"{state} (at the bottom: lower)" if any(score < floor for _, score in chosen) else state
        scores = [max(score, floor) for _, score in chosen]
        axes.plot([place(o) for o, _ in chosen], scores, marker, ms=5, alpha=0.8, color=colour, label=label)
    if failed := [place(o) for o in outcomes if o.state == "failed"]:
        edge = axes.get_xaxis_transform()
        axes.plot(failed, [0] * len(failed), "v", color=ORANGE, transform=edge, clip_on=False, label="failed")


def _find_place(name: str, choice: Range | Choices, outcome: TrialOutcome) -> float:
    """Return the place on the x axis: choices stand in a row, their trials a little apart."""
    value = outcome.params[name]
    if isinstance(choice, Choices):
        return choice.values.index(value) + (outcome.number * 7 % 11 - 5) / 30
    return float(value)


def _find_floor(outcomes: Sequence[TrialOutcome]) -> float:
    """Return the lowest score that is drawn to scale, so that a few bad trials don't squeeze the others into a line."""
    finished = [score for _, score in _list_scored(outcomes, "finished")]
    if len(finished) < _FEWEST_FOR_FLOOR:
        return 0.0
    return max(0.0, median(finished) - 4 * max(max(finished) - median(finished), 0.005))


def _list_scored(outcomes: Sequence[TrialOutcome], state: str) -> list[tuple[TrialOutcome, float]]:
    return [(o, o.score) for o in outcomes if o.state == state and o.score is not None]
