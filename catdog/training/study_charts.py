"""PNG charts of a search for settings, drawn by matplotlib without a display."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from catdog.colours import BLUE, GREY, ORANGE
from catdog.files import replace_file
from catdog.training.space import Choices, Range, TrialOutcome

SCORE: Final = "best epoch's validation accuracy"
_COLUMNS: Final = 4  # of small charts in a row, at most
_FEWEST_FOR_FLOOR: Final = 4  # finished trials
_STYLES: Final[Mapping[str, tuple[str, str]]] = {"finished": ("o", BLUE), "pruned": ("x", GREY)}


def draw_history(outcomes: Sequence[TrialOutcome], path: Path) -> None:
    """Score by trial, and the best so far."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes: Any = figure.subplots()
    floor = _floor(outcomes)
    best: list[tuple[int, float]] = []
    for outcome, score in _scored(outcomes, "finished"):
        best.append((outcome.number, max(score, best[-1][1] if best else floor)))
    if best:
        best.append((max(o.number for o in outcomes), best[-1][1]))
        axes.step(*zip(*best, strict=True), where="post", color=ORANGE, label="best so far")
    _points(axes, outcomes, lambda outcome: outcome.number, floor)
    axes.set(xlabel="trial", ylabel=SCORE, title="Search")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _save(figure, path)


def draw_importance(shares: Mapping[str, float], why_not: str, path: Path) -> None:
    """How much of what separates the best trials from the others is each parameter's, highest first; or why not."""
    figure = Figure(figsize=(6.4, 1.2 + 0.35 * max(4, len(shares))), layout="constrained")
    axes: Any = figure.subplots()
    if shares:
        names = sorted(shares, key=lambda name: shares[name])
        bars = axes.barh(names, [shares[name] for name in names], color=BLUE)
        axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=3)
        axes.set(xlabel="importance, all together 1", title="What made the difference (PED-ANOVA)")
        axes.margins(x=0.12)
        axes.grid(alpha=0.3, axis="x")
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, why_not, ha="center", wrap=True)
    _save(figure, path)


def draw_parameters(outcomes: Sequence[TrialOutcome], search: Mapping[str, Range | Choices], path: Path) -> None:
    """Score against each parameter."""
    rows = math.ceil(len(search) / _COLUMNS)
    columns = math.ceil(len(search) / rows)
    figure = Figure(figsize=(max(5, 3 * columns), 2.6 * rows + 0.6), layout="constrained")
    grid: Any = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, choice) in zip(grid.flat, search.items(), strict=False):
        if isinstance(choice, Choices):
            axes.set_xticks(range(len(choice.values)), [str(value) for value in choice.values])
            axes.set_xlim(-0.5, len(choice.values) - 0.5)
        else:
            _axis(axes, choice)
        _points(axes, outcomes, partial(_place, name, choice), _floor(outcomes))
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(search) :]:
        axes.set_axis_off()
    figure.supylabel(SCORE, fontsize=10)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    _save(figure, path)


def _axis(axes: Any, choice: Range) -> None:
    """The whole range, with a little room; a log scale with the ticks that have room for their numbers."""
    low, high = choice.low, choice.high
    if choice.log:
        axes.set_xscale("log")
        ticks = (low, math.sqrt(low * high), high)
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        room = (high / low) ** 0.04
        axes.set_xlim(low / room, high * room)
    else:
        room = (high - low) * 0.04
        axes.set_xlim(low - room, high + room)


def _points(axes: Any, outcomes: Sequence[TrialOutcome], place: Callable[[TrialOutcome], float], floor: float) -> None:
    """A mark for each trial. What is under ``floor``, or failed and has no score, lies on the lower edge."""
    for state, (marker, colour) in _STYLES.items():
        chosen = _scored(outcomes, state)
        label = f"{state} (at the bottom: lower)" if any(score < floor for _, score in chosen) else state
        scores = [max(score, floor) for _, score in chosen]
        axes.plot([place(o) for o, _ in chosen], scores, marker, ms=5, alpha=0.8, color=colour, label=label)
    if failed := [place(o) for o in outcomes if o.state == "failed"]:
        edge = axes.get_xaxis_transform()
        axes.plot(failed, [0] * len(failed), "v", color=ORANGE, transform=edge, clip_on=False, label="failed")


def _place(name: str, choice: Range | Choices, outcome: TrialOutcome) -> float:
    """Where on the x axis: choices stand in a row, their trials spread a little so that equals stay apart."""
    value = outcome.params[name]
    if isinstance(choice, Choices):
        return choice.values.index(value) + (outcome.number * 7 % 11 - 5) / 30
    return float(value)


def _floor(outcomes: Sequence[TrialOutcome]) -> float:
    """The lowest score that is drawn where it belongs: a few bad trials must not squeeze all others into a line."""
    finished = [score for _, score in _scored(outcomes, "finished")]
    if len(finished) < _FEWEST_FOR_FLOOR:
        return 0.0
    return max(0.0, median(finished) - 4 * max(max(finished) - median(finished), 0.005))


def _scored(outcomes: Sequence[TrialOutcome], state: str) -> list[tuple[TrialOutcome, float]]:
    return [(o, o.score) for o in outcomes if o.state == state and o.score is not None]


def _save(figure: Figure, path: Path) -> None:
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
