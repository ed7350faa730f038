"""Photos with what was answered for them, as one PNG that a person can look through."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from catdog.files import replace_file
from catdog.image import decode, read_file
from catdog.text import printable
from catdog.training.charts import BLUE, GREY, ORANGE

MOST: Final = 24  # photos on a sheet
_COLUMNS: Final = 6
_CELL_INCHES: Final = (2.5, 3.0)
_DPI: Final = 110
_THUMBNAIL_PX: Final = 256  # of the longer side, at least what a cell shows
_LINE: Final = 42  # characters that fit under a photo
_PATH_LINES: Final = 3


@dataclass(frozen=True)
class Cell:
    """One photo and what is written under it."""

    photo: Path
    name: str
    """The path to show."""
    truth: str
    answer: str
    confidence: float
    """[0, 1]."""


def contact_sheet(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Write the photos, at most ``MOST``, in rows of six; without any, the title alone. Raises ImageError."""
    cells = cells[:MOST]
    columns = max(3, min(_COLUMNS, len(cells)))  # a title needs some width
    rows = math.ceil(len(cells) / columns)
    width, height = columns * _CELL_INCHES[0], rows * _CELL_INCHES[1] + 0.6
    figure = Figure(figsize=(width, height), dpi=_DPI)
    figure.suptitle(title, y=1 - 0.3 / height, va="center", fontsize=13)
    if cells:
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.01, right=0.99, bottom=0.75 / height, top=1 - 0.6 / height, hspace=0.36, wspace=0.06
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, cell in zip(grid.flat, cells, strict=False):
            _draw(axes, cell)
    with replace_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a file name in a script the font lacks
        figure.savefig(temporary, format="png")


def _draw(axes: Any, cell: Cell) -> None:
    image = decode(read_file(cell.photo), str(cell.photo), at_least=_THUMBNAIL_PX)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    axes.imshow(image)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(GREY)  # where a white photo ends
    axes.set_anchor("S")  # the photo stands on its text
    text: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "top", "parse_math": False}
    colour = BLUE if cell.answer == cell.truth else ORANGE
    verdict = f"{cell.truth}, answered {cell.answer} {cell.confidence:.1%}"
    axes.text(0.5, -0.02, verdict, color=colour, fontsize=9, weight="bold", **text)
    wrapped = textwrap.wrap(printable(cell.name).replace("/", "/ "), _LINE, break_on_hyphens=False)
    lines = [line.replace("/ ", "/") for line in wrapped]  # broken after a slash where there is one
    if len(lines) > _PATH_LINES:  # the end of a path tells most
        lines = ["…" + lines[-_PATH_LINES][1:], *lines[1 - _PATH_LINES :]]
    axes.annotate(
        "\n".join(lines),
        (0.5, -0.02),
        (0, -13),
        textcoords="offset points",
        xycoords="axes fraction",
        ha="center",
        va="top",
        fontsize=7,
        parse_math=False,
    )
