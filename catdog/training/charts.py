"""PNG charts of a training run, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from catdog.files import replace_file

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"  # Okabe & Ito 2008: told apart by colour-blind eyes


def curves(rows: Sequence[dict[str, float]], frozen_epochs: int, path: Path) -> None:
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


def confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str], title: str, path: Path) -> None:
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


def _save(figure: Figure, path: Path) -> None:
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
