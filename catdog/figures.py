"""PNG charts in one style, drawn by matplotlib without a display; it is loaded when a chart is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catdog.files import replace_file


@contextmanager
def new_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Give a new figure, whose sides are in inches; the chart is written to ``path`` when the block ends."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with replace_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)


@contextmanager
def new_axes(path: Path, width: float, height: float, **labels: str) -> Iterator[Any]:
    """Give the only axes of a new figure, with these labels."""
    with new_figure(path, width, height) as figure:
        yield figure.subplots(subplot_kw=labels)
